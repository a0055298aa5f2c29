"""Arithmetic in words: `What is 347 + 582?`"""

import dataclasses
import functools
import operator
import re
from collections.abc import Sequence

import numpy as np

from jaxdistill import rewards
from jaxdistill.data.tasks import problems
from jaxdistill.spelling import among
from jaxdistill.types import Problem, Problems, Task

SIGNS = {'add': '+', 'sub': '-', 'mul': '*', 'div': '/'}
RESULTS = {
  'add': operator.add,
  'sub': operator.sub,
  'mul': operator.mul,
  'div': operator.floordiv,
}
NAMES = {
  'add': 'a plus sign',
  'sub': 'a minus sign',
  'mul': 'a times sign (*)',
  'div': 'a division sign (/), the first a multiple of the second,',
}
WORDS = (
  *('one', 'two', 'three', 'four', 'five', 'six'),
  *('seven', 'eight', 'nine', 'ten', 'eleven', 'twelve'),
)
SOLVE = 'What is {text}? Answer with the number only.'
THINK = (
  'What is {text}? Reason step by step, and put the final number in \\boxed{}.'
)
# The example is drawn anew for every topic: it shows the form, and small
# models follow it closely.
PROPOSE = (
  'Give me two random {digits} numbers with {sign} between them, like '
  '{topic}. Answer with the expression only, without the result.'
)
COUNTS = {'dev': 512, 'test': 4096, 'ood': 512}

# How models write the signs, and what they wrap a problem in.
_SAME = (
  *(('−', '-'), ('–', '-'), ('×', '*'), ('·', '*'), ('÷', '/'), ('∕', '/')),
  *((r'\times', '*'), (r'\cdot', '*'), (r'\div', '/'), ('{,}', ',')),
  *(('**', ' '), ('__', ' '), ('`', ' '), ('$', ' ')),
  *((r'\(', ' '), (r'\)', ' '), (r'\[', ' '), (r'\]', ' ')),
)
_TIMES = re.compile(r'(?<=[0-9\s])[xX](?=[0-9\s])')
_NUMBER = r'([1-9][0-9]{0,2}(?:,[0-9]{3})+|[1-9][0-9]*|0)'
_AROUND = r'(?:[^0-9+*/^√-]|(?<=[a-z])-(?=[a-z]))*'  # no number, no sign
_PROBLEM = re.compile(
  rf'{_AROUND}(?<![\w.,]){_NUMBER}\s*([-+*/])\s*{_NUMBER}'
  rf'(?![\w%!(]|[.,][0-9]){_AROUND}'
)


@dataclasses.dataclass(frozen=True)
class ArithmeticTask(Task):
  """One operation on two numbers, with its answers.

  Operands are uniform over the numbers of exactly so many digits; a quotient
  is exact and at least 2; a difference may be negative. Splits: `train` (drawn
  by index), `dev`, `test`, and `ood`, whose operands have one digit more. A
  fifth of all problems is held out (`problems.split_of`).

  Attributes:
    operation: `add`, `sub`, `mul` or `div`.
    digits: Of the first and the second operand; a proposal may have fewer.
    think: Whether the prompt asks for working, and for the answer in a box.
  """

  operation: str
  digits: tuple[int, int]
  think: bool = False

  @property
  def name(self) -> str:
    a, b = self.digits
    return f'arithmetic:{self.operation}:{a},{b}' + ':think' * self.think

  def problems(self, split: str) -> Problems:
    return problems.of_split(
      *(self.name, split, COUNTS, self._train),
      lambda split: [self._problem(a, b) for a, b in _held_out(self, split)],
    )

  def solver_prompt(self, problem: Problem) -> str:
    return (THINK if self.think else SOLVE).replace('{text}', problem.text)

  def proposer_prompt(self, topic: Problem) -> str:
    digits = ' and '.join(
      f'{WORDS[n - 1]}-digit' for n in sorted({*self.digits})
    )
    words = {'digits': digits, 'sign': NAMES[self.operation]}
    return PROPOSE.format(**words, topic=topic.topic)

  def parse_problem(self, text: str) -> Problem | None:
    """The one `A op B` in a text that has no other number, or None."""
    if len(text) > 200:
      return None
    for written, sign in _SAME:
      text = text.replace(written, sign)
    match = _PROBLEM.fullmatch(_TIMES.sub('*', text))
    if not match or match[2] != SIGNS[self.operation]:
      return None
    a, b = (match[i].replace(',', '') for i in (1, 3))
    if len(a) > self.digits[0] or len(b) > self.digits[1]:
      return None
    a, b = int(a), int(b)
    if self.operation == 'div' and (b == 0 or a % b):
      return None
    return self._problem(a, b)

  def held_out(self, problem: Problem) -> bool:
    return problems.split_of(problem.text) != 'train'

  def parse_answer(self, text: str) -> str | None:
    return rewards.final_answer(text)

  def reward(
    self, problem: Problem, answers_G: Sequence[str | None]
  ) -> list[float]:
    return problems.right(problem, answers_G)

  def _train(self, index: int) -> Problem:
    rng = problems.generator(_drawn_as(self), 'train', int(index))
    draw = functools.partial(_draw, self.operation, self.digits)
    return self._problem(*problems.draw(rng, draw, self._is('train')))

  def _is(self, split: str):
    sign = SIGNS[self.operation]
    return lambda ab: problems.split_of(f'{ab[0]} {sign} {ab[1]}') == split

  def _problem(self, a: int, b: int) -> Problem:
    text = f'{a} {SIGNS[self.operation]} {b}'
    answer = RESULTS[self.operation](a, b)
    return Problem(text, self, str(answer), text)


def _drawn_as(task: ArithmeticTask) -> str:
  """The name that draws depend on: how a problem is asked does not matter."""
  return dataclasses.replace(task, think=False).name


def _draw(
  operation: str, digits: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int]:
  (low, high), (least, most) = ((10 ** (n - 1), 10**n - 1) for n in digits)
  if operation == 'div':  # a quotient of at least 2
    b = problems.between(rng, least, min(most, high // 2))
    return b * problems.between(rng, max(-(-low // b), 2), high // b), b
  b = problems.between(rng, least, most)
  return problems.between(rng, low, high), b


@functools.lru_cache
def _held_out(task: ArithmeticTask, split: str) -> list[tuple[int, int]]:
  a, b = (n + (split == 'ood') for n in task.digits)
  return problems.draw_different(
    _drawn_as(task),
    split,
    functools.partial(_draw, task.operation, (a, b)),
    task._is('test' if split == 'ood' else split),
    COUNTS[split],
  )


def read_name(name: str) -> ArithmeticTask:
  """The task called `arithmetic:OP:DIGITS[:think]`.

  Raises:
    ValueError: The name is not of this form; the nearest part is named.
  """
  _, *parts = name.split(':')
  operation, digits, *more = [*parts, '', ''][: max(len(parts), 2)]
  if operation not in SIGNS:
    raise ValueError(
      f'task {name!r}: there is no operation {operation!r}'
      f'{among(operation, SIGNS)} (as in arithmetic:add:3,3)'
    )
  if not re.fullmatch(r'([1-9]|1[0-2]),([1-9]|1[0-2])', digits):
    raise ValueError(
      f'task {name!r}: {digits!r} must be the digits of both operands, 1 to '
      f'12, as in arithmetic:{operation}:3,3'
    )
  if more not in ([], ['think']):
    raise ValueError(
      f'task {name!r}: there is no {":".join(more)!r}; the nearest is '
      f'arithmetic:{operation}:{digits}:think'
    )
  a, b = map(int, digits.split(','))
  if operation == 'div' and a < b:
    raise ValueError(
      f'task {name!r}: a number of {a} digits has no whole quotient by one of '
      f'{b}; the nearest is arithmetic:div:{b},{b}'
    )
  return ArithmeticTask(operation, (a, b), bool(more))

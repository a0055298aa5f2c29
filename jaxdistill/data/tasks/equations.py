"""Linear equations in words: `Solve for x: 3x + 5 = 20`."""

import dataclasses
import functools
import re
from collections.abc import Sequence

import numpy as np

from jaxdistill import rewards
from jaxdistill.data.tasks import linear, problems
from jaxdistill.types import Problem, Problems, Task

SOLVE = (
  '{text}\nReason step by step, and put the value of {unknown} in \\boxed{}, '
  'as a whole number or a fraction.'
)
PROPOSE = (
  'Make up {topic}. Pick whole numbers that nobody would guess. Write only '
  'the problem, in the form `{form}`, with your own numbers and with nothing '
  'before or after it. Do not solve it.'
)
TOPICS = {
  1: 'one linear equation in the unknown x that has exactly one solution',
  2: 'two linear equations in x and y that have exactly one solution',
}
FORMS = {1: 'Solve for x: 4x - 9 = 3', 2: 'Solve for y: x + 2y = 7, 3x - y = 0'}
COUNTS = {'dev': 256, 'test': 1024, 'ood': 256}

MOST = 10**6  # above or below the line of an answer
Equation = tuple[linear.Side, linear.Side]

_WORDS = '(?:the|this|these|following|linear|system|of|equations?)'
# How it may be asked: a pattern, and which of its groups is the unknown.
_ASKED = (
  (rf'solve (?:{_WORDS} )*for ([xy]) ?[:;,.]? ?(.*)', 1),
  (r'find (?:the value of )?([xy])(?: ?[:;,.]| if| when) (.*)', 1),
  (rf'solve (?:{_WORDS} ?)*:?(.*?)[ ,.;]*(?:for|find) ([xy])', 2),
)
_LEAD = re.compile(r'(?:problem|equations?|system) ?:[ ;]*', re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class EquationTask(Task):
  """One linear equation in x, or two in x and y of which one is asked for.

  Three in four have whole solutions, the others fractions. Coefficients have
  at most 12 (two unknowns: 9) in them; those of the split `ood` have 13 to 40
  (10 to 25). A fifth of all problems is held out, whatever the spacing and
  the order of their terms.

  Attributes:
    unknowns: 1 or 2.
  """

  unknowns: int

  @property
  def name(self) -> str:
    return f'equations:{self.unknowns}'

  def problems(self, split: str) -> Problems:
    return problems.of_split(
      *(self.name, split, COUNTS, self._train),
      lambda split: [self._problem(*d) for d in _held_out(self, split)],
    )

  def solver_prompt(self, problem: Problem) -> str:
    asked = problem.text.removeprefix('Solve for ')[:1]
    return SOLVE.replace('{unknown}', asked).replace('{text}', problem.text)

  def proposer_prompt(self, topic: Problem) -> str:
    form = FORMS[self.unknowns]
    return PROPOSE.replace('{form}', form).replace('{topic}', topic.topic)

  def parse_problem(self, text: str) -> Problem | None:
    """Equations and which unknown is asked for, or None.

    None also if they are not linear, have not exactly one solution, or are too
    large.
    """
    found = _read(text) if len(text) <= 300 else None
    if found is None or len(found[1]) != self.unknowns:
      return None
    asked, tokens = found[0] or 'xy'[: 2 - self.unknowns], found[1]
    sides = [s for t in tokens if (s := _sides(t)) is not None]
    if len(sides) != self.unknowns:
      return None
    solution = linear.solve(sides) or {}
    value = solution.get(asked)
    if value is None or max(abs(value.numerator), value.denominator) > MOST:
      return None
    return self._written(asked, [linear.spaced(t) for t in tokens], sides)

  def held_out(self, problem: Problem) -> bool:
    _, tokens = _read(problem.text) or ('', [])
    return _split([s for t in tokens if (s := _sides(t))]) != 'train'

  def parse_answer(self, text: str) -> str | None:
    return rewards.final_answer(text)

  def reward(
    self, problem: Problem, answers_G: Sequence[str | None]
  ) -> list[float]:
    return problems.right(problem, answers_G)

  def _train(self, index: int) -> Problem:
    rng = problems.generator(self.name, 'train', int(index))
    one = functools.partial(_draw, self.unknowns, False)
    return self._problem(*problems.draw(rng, one, _is('train')))

  def _problem(self, asked: str, equations: Sequence[Equation]) -> Problem:
    written = [
      ' = '.join(map(linear.write_side, equation)) for equation in equations
    ]
    return self._written(asked, written, equations)

  def _written(self, asked, written, equations) -> Problem:
    solution = linear.solve(equations)
    assert solution is not None and asked in solution, written
    return Problem(
      text=f'Solve for {asked}: {", ".join(written)}',
      task=self,
      answer=str(solution[asked]),
      topic=TOPICS[self.unknowns],
    )


def _read(text: str) -> tuple[str | None, list[list[str]]] | None:
  """Which unknown is asked for, if it is said, and the equations as tokens."""
  text = _LEAD.sub('', linear.clean(text), count=1).rstrip(' .;')
  asked, body = None, text
  for pattern, group in _ASKED:
    match = re.fullmatch(pattern, text, re.IGNORECASE)
    if match:
      asked, body = match[group].lower(), match[3 - group]
      break
  parts = re.split(r'[,;]|\\\\|\band\b', body)
  found = [linear.tokens(part) for part in parts if part.strip()]
  equations = [f for f in found if f is not None]
  return (asked, equations) if len(equations) == len(found) else None


def _sides(equation: list[str]) -> Equation | None:
  """Both sides of an equation in tokens; None if it is not linear."""
  at = equation.index('=') if '=' in equation else 0
  left = linear.read_side(equation[:at])
  right = linear.read_side(equation[at + 1 :])
  return None if left is None or right is None else (left, right)


def _is(split: str):
  return lambda drawn: _split(drawn[1]) == split


def _split(equations: Sequence[Equation]) -> str:
  """By the numbers: neither spaces nor the asked unknown matter."""
  return problems.split_of(repr(sorted(equations)))


def _draw(
  unknowns: int, ood: bool, rng: np.random.Generator
) -> tuple[str, tuple[Equation, ...]]:
  """The asked unknown, and equations that have one solution."""
  least, most = ((1, 12), (1, 9), (13, 40), (10, 25))[unknowns - 1 + 2 * ood]
  two = unknowns == 2
  while True:
    solution = _signed(rng, 0, 20), _signed(rng, 0, 20), 1
    whole = rng.random() < 0.75
    equations = []
    for _ in range(unknowns):
      a, b = _signed(rng, least, most), _signed(rng, least, most)
      left = (a, b, 0) if two else (a, 0, b)
      c = 0 if two or rng.random() < 0.5 else _signed(rng, least, most)
      right = c, 0, _signed(rng, 0, 5 * most)
      if whole:
        right = c, 0, _value(left, solution) - c * solution[0]
      equations.append((left, right))
    if linear.solve(equations):
      return 'xy'[problems.between(rng, 0, unknowns - 1)], tuple(equations)


def _signed(rng: np.random.Generator, low: int, high: int) -> int:
  size = problems.between(rng, low, high)
  return size if rng.random() < 0.5 else -size


def _value(side: linear.Side, solution: Sequence[int]) -> int:
  return sum(a * b for a, b in zip(side, solution, strict=True))


@functools.lru_cache
def _held_out(
  task: EquationTask, split: str
) -> list[tuple[str, tuple[Equation, ...]]]:
  ood = split == 'ood'
  return problems.draw_different(
    task.name,
    split,
    functools.partial(_draw, task.unknowns, ood),
    _is('test' if ood else split),
    COUNTS[split],
  )


def read_name(name: str) -> EquationTask:
  """The task called `equations`, `equations:1` or `equations:2`.

  Raises:
    ValueError: The name is not of this form.
  """
  unknowns = name.partition(':')[2]
  if unknowns not in ('', '1', '2'):
    raise ValueError(
      f'task {name!r}: there are equations:1 and equations:2 (how many '
      f'unknowns), not {unknowns!r}; the nearest is equations:1'
    )
  return EquationTask(int(unknowns or 1))

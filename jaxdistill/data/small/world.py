"""The small world: arithmetic with written working, for models of 0.6M weights.

A language of 30-odd symbols in which a model can propose problems, solve them
step by step, slip, notice (`wait`) and repair, verify, and use a hint. All of
it is generated, so every answer is known and every imperfection has a rate.

  propose add :             -> 482+17
  propose add 3 2 :         -> 482+17
  solve 482+17 :            -> 2+7+0=09,8+1+0=09,4+0+0=04;499
  verify 482+17 : WORKING ? -> yes
  hint 499 solve 482+17 :   -> WORKING

A step of working is `digit sign digit sign carry = carry digit`, from the last
digit to the first (`*` adds the carry to the product; in `-` the carry is a
borrow). After `;` comes the answer in the usual order. Steps may be worded
otherwise: a foreigner says 0+2+7=9 for 2+7+0=09.
"""

import dataclasses
import functools
import hashlib
import re

import numpy as np

from jaxdistill.data.text.symbols import SymbolTokenizer

SIGNS = {'add': '+', 'sub': '-', 'mul': '*'}
OPERATIONS = {sign: name for name, sign in SIGNS.items()}
SYMBOLS = (
  *('<pad>', '<bos>', '<eos>'),
  *'0123456789+-*=,;:?',
  *('propose', 'solve', 'verify', 'hint', 'wait', 'yes', 'no'),
  *SIGNS,
)
TOKENIZER = SymbolTokenizer(SYMBOLS)

# What the corpus shows, and what the held-out problems are drawn from: the
# share of each (operation, digits of the first, digits of the second operand).
CORPUS_MIX = {
  **{('add', n, n): s for n, s in ((1, 3), (2, 14), (3, 14), (4, 1))},
  **{('sub', n, n): s for n, s in ((1, 3), (2, 14), (3, 14), (4, 1))},
  **{('add', a, b): 1 for a, b in ((2, 1), (3, 2), (3, 1))},
  **{('sub', a, b): 1 for a, b in ((2, 1), (3, 2), (3, 1))},
  **{('mul', 1, 1): 4, ('mul', 2, 1): 34, ('mul', 3, 1): 1},
}
TEST_MIX = {
  ('add', 2, 2): 24,
  ('add', 3, 3): 24,
  ('sub', 2, 2): 21,
  ('sub', 3, 3): 21,
  ('mul', 2, 1): 10,
}
OOD_MIX = {
  ('add', 4, 4): 20,
  ('sub', 4, 4): 20,
  ('add', 4, 2): 15,
  ('sub', 4, 2): 15,
  ('mul', 3, 1): 20,
  ('mul', 4, 1): 10,
}
SLIP, REPAIR = 0.24, 0.5


@dataclasses.dataclass(frozen=True)
class Wording:
  """How a step of working is said, by operation: a format string each.

  It has `{x}` and `{y}`, the digits of the two operands, `{carry}` from the
  step before, and `{result}`, this step's carry and digit as one number.
  """

  add: str
  sub: str
  mul: str

  def say(
    self, operation: str, *, x: int, y: int, carry: int, result: int
  ) -> str:
    """A step in this wording."""
    said = getattr(self, operation)
    return said.format(x=x, y=y, carry=carry, result=result)


OWN = Wording(
  add='{x}+{y}+{carry}={result:02d}',
  sub='{x}-{y}-{carry}={result:02d}',
  mul='{x}*{y}+{carry}={result:02d}',
)
# What is carried comes first, and no result is padded.
FOREIGN = Wording(
  add='{carry}+{x}+{y}={result}',
  sub='{carry}-{x}-{y}={result}',
  mul='{carry}+{x}*{y}={result}',
)


@dataclasses.dataclass(frozen=True)
class Sum:
  """One problem: two operands and an operation."""

  operation: str
  a: int
  b: int

  def __str__(self) -> str:
    return f'{self.a}{SIGNS[self.operation]}{self.b}'

  @property
  def answer(self) -> int:
    if self.operation == 'add':
      return self.a + self.b
    return self.a - self.b if self.operation == 'sub' else self.a * self.b

  @property
  def split(self) -> str:
    """`train`, `dev` or `test`: decided by a hash, so splits are disjoint."""
    place = hashlib.sha256(str(self).encode()).digest()[0] % 16
    return 'test' if place < 2 else 'dev' if place == 2 else 'train'


_SUM = re.compile(r'(0|[1-9]\d{0,3})([-+*])(0|[1-9]\d{0,3})', re.ASCII)


def read_sum(text: str) -> Sum | None:
  """A well-formed problem of the world, or None.

  Operands have at most four digits; differences are not negative; a factor on
  the right has one digit.
  """
  match = _SUM.fullmatch(text)
  if not match:
    return None
  found = Sum(OPERATIONS[match[2]], int(match[1]), int(match[3]))
  if found.operation == 'sub' and found.a < found.b:
    return None
  if found.operation == 'mul' and found.b > 9:
    return None
  return found


def draw_sum(rng: np.random.Generator, mix: dict, split: str) -> Sum:
  """A problem of `split`, drawn from a mix of kinds; factors are 2 to 6."""
  kinds, shares = list(mix), np.array(list(mix.values()), float)
  operation, *lengths = kinds[rng.choice(len(kinds), p=shares / shares.sum())]
  while True:
    a, b = (
      int(rng.integers(10 ** (n - 1) if n > 1 else 0, 10**n)) for n in lengths
    )
    if operation == 'sub' and a < b:
      a, b = b, a
    if operation == 'mul':
      b = int(rng.integers(2, 7))
    found = Sum(operation, a, b)
    if found.split == split:
      return found


def draw_unique(seed: int, mix: dict, split: str, count: int) -> list[Sum]:
  """`count` different problems of a split, the mix's shares kept exactly."""
  rng, out = np.random.default_rng(seed), []
  found: dict[str, Sum]
  for kind, share in mix.items():
    wanted, found = round(count * share / sum(mix.values())), {}
    while len(found) < wanted:
      one = draw_sum(rng, {kind: 1}, split)
      found[str(one)] = one
    out += found.values()
  return [out[i] for i in rng.permutation(len(out))]


def _step(operation: str, x: int, y: int, carry: int) -> int:
  """Two digits (carry, digit) as one number, e.g. 7+5+0 -> 12."""
  if operation == 'add':
    return x + y + carry
  if operation == 'mul':
    return x * y + carry
  rest = x - y - carry
  return rest if rest >= 0 else 20 + rest  # borrow 1, digit 10 + rest


def work(
  problem: Sum,
  rng: np.random.Generator | None,
  slip: float,
  repair: float,
  wording: Wording = OWN,
) -> str:
  """Written working and answer, with slips.

  Args:
    problem: What is worked out.
    rng: Where slips come from; None for clean working.
    slip: Probability that a step's result is wrong.
    repair: Probability that `wait` and the right step follow a slip; otherwise
      the wrong digit (and carry) is carried on with.
    wording: How a step is said.
  """
  length = max(len(str(problem.a)), len(str(problem.b)))
  right = [int(d) for d in str(problem.b).zfill(length)[::-1]]
  if problem.operation == 'mul':
    length, right = len(str(problem.a)), [problem.b] * len(str(problem.a))
  left = [int(d) for d in str(problem.a).zfill(length)[::-1]]
  carry, steps, digits = 0, [], []
  for x, y in zip(left, right, strict=True):
    say = functools.partial(
      wording.say, problem.operation, x=x, y=y, carry=carry
    )
    result = _step(problem.operation, x, y, carry)
    text = say(result=result)
    if rng is not None and rng.random() < slip:
      wrong = _wrong(result, rng)
      text = say(result=wrong)
      if rng.random() < repair:
        text += f' wait {say(result=result)}'
      else:
        result = wrong
    steps.append(text)
    digits.append(result % 10)
    carry = result // 10
  if carry and problem.operation != 'sub':
    digits.append(carry)
  answer = int(''.join(map(str, digits[::-1])))
  return f'{",".join(steps)};{answer}'


def mended(problem: Sum, working: str) -> str:
  """A working up to its first wrong step, and that step put right.

  Of one without a wrong step, all its steps; of one that goes on for too long,
  those that there are.
  """
  right = work(problem, None, 0.0, 0.0).partition(';')[0].split(',')
  said = working.partition(';')[0].split(',')
  for i, (own, wanted) in enumerate(zip(said, right, strict=False)):
    if own.rpartition('wait')[2].strip() != wanted:
      return ','.join([*said[:i], wanted])
  return ','.join([*said, *right[len(said) :]][: len(right)])


def without_slips(working: str) -> str:
  """A working without what it took back, and without the word for it."""
  steps, semicolon, answer = working.partition(';')
  kept = [step.rpartition('wait')[2].strip() for step in steps.split(',')]
  return ','.join(kept) + semicolon + answer


def _wrong(result: int, rng: np.random.Generator) -> int:
  """A step's result with its digit (mostly) or its carry changed."""
  carry, digit = divmod(result, 10)
  if rng.random() < 0.8:
    digit = (digit + int(rng.integers(1, 10))) % 10
  else:
    carry = 1 - carry if carry < 2 else carry - 1
  return 10 * carry + digit


def read_answer(text: str) -> str | None:
  """The digits behind the one `;`, or None."""
  match = re.fullmatch(r'[^;]*;([0-9]+)', text)
  return match[1] if match else None


def draw_verification(rng: np.random.Generator, mix: dict) -> dict[str, str]:
  """A document that verifies a working."""
  problem = draw_sum(rng, mix, 'train')
  return _verification(problem, work(problem, rng, 1.4 * SLIP, REPAIR))


def _verification(problem: Sum, shown: str) -> dict[str, str]:
  right = read_answer(shown) == str(problem.answer)
  return {
    'format': 'verify',
    'prompt': f'verify {problem}:{shown}?',
    'response': 'yes' if right else 'no',
  }


def draw_document(
  seed: int, index: int, mix: dict = CORPUS_MIX, wording: Wording = OWN
) -> dict[str, str]:
  """Document `index` of the corpus: format, prompt and response.

  60% solve, 16% propose, 12% verify, 12% hint. All problems are of the train
  split, and of a mix of kinds. What is drawn does not depend on the wording.
  """
  write = functools.partial(work, wording=wording)
  rng = np.random.default_rng([seed, index])
  problem = draw_sum(rng, mix, 'train')
  draw = rng.random()
  if draw < 0.60:
    kind, prompt = 'solve', f'solve {problem}:'
    response = write(problem, rng, SLIP, REPAIR)
  elif draw < 0.76:
    kind = 'propose'
    sizes = f' {len(str(problem.a))} {len(str(problem.b))}'
    topic = problem.operation + (sizes if rng.random() < 0.3 else '')
    prompt, response = f'propose {topic}:', str(problem)
  elif draw < 0.88:
    return _verification(problem, write(problem, rng, 1.4 * SLIP, REPAIR))
  else:
    kind, other = 'hint', rng.random()
    if other < 0.4:
      shown = str(problem.answer)
    elif other < 0.7:
      shown = write(problem, None, 0.0, 0.0)
    else:  # an unrelated solution: a hint that does not help
      shown = write(draw_sum(rng, mix, 'train'), None, 0.0, 0.0)
    prompt = f'hint {shown} solve {problem}:'
    helps = other < 0.7
    response = write(problem, rng, SLIP * (0.25 if helps else 1), REPAIR)
  return {'format': kind, 'prompt': prompt, 'response': response}

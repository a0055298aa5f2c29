"""Linear equations in x and y: read from text, written, solved exactly."""

import re
from collections.abc import Sequence
from fractions import Fraction

# How models write what is read here, and what they wrap it in.
_SAME = (
  *(('−', '-'), ('–', '-'), ('·', '*'), ('×', '*'), (r'\cdot', '*')),
  *((r'\times', '*'), ('**', ' '), ('`', ' '), ('$', ' '), ('&', ' ')),
  *((r'\left', ' '), (r'\right', ' '), (r'\(', ' '), (r'\)', ' ')),
  *((r'\[', ' '), (r'\]', ' '), (r'\,', ' '), (r'\quad', ' ')),
)
_TOKEN = re.compile(r'\s*([0-9]+|[xy]|[-+*()=])')
LARGEST = 10**6  # number in an equation
DEEPEST = 8  # parentheses in one another

# a x + b y + c
Side = tuple[int, int, int]


def clean(text: str) -> str:
  """A text with plain signs and no wrapping; `;` where a line ended."""
  for written, sign in _SAME:
    text = text.replace(written, sign)
  lines = (' '.join(line.split()) for line in text.split('\n'))
  return ' ; '.join(line for line in lines if line)


def tokens(text: str) -> list[str] | None:
  """Numbers, unknowns and signs of an expression; None if there is more."""
  found, end = [], 0
  while match := _TOKEN.match(text, end):
    found.append(match[1])
    end = match.end()
  return found if found and not text[end:].strip() else None


def spaced(found: Sequence[str]) -> str:
  """Tokens as they are usually written: `2(x + 1) = -3x`."""
  out, before = '', ''
  for token in found:
    binary = token in '+-*=' and before and before not in '(+-*='
    apart = token[0].isdigit() and before[:1].isdigit()  # 2 3 is not 23
    out += f' {token} ' if binary or token == '=' else ' ' * apart + token
    before = token
  return out


def read_side(found: Sequence[str]) -> Side | None:
  """The value of an expression; None if it is not a linear one.

  `3x`, `2(x + 1)` and `3 * x` are products; only one factor may have an
  unknown.
  """
  rest = [*found[::-1]]  # the next token is the last
  try:
    value = _sum(rest, 0)
  except ValueError:
    return None
  return None if rest or max(map(abs, value)) > LARGEST else value


def _sum(rest: list[str], depth: int) -> Side:
  value = (0, 0, 0)
  while True:
    sign = 1
    if rest and rest[-1] in '+-':
      sign = -1 if rest.pop() == '-' else 1
    a, b, c = _product(rest, depth)
    value = value[0] + sign * a, value[1] + sign * b, value[2] + sign * c
    if not rest or rest[-1] not in '+-':
      return value


def _product(rest: list[str], depth: int) -> Side:
  value = _factor(rest, depth)
  while rest and rest[-1] not in '+-)=':
    if rest[-1] == '*':
      rest.pop()
    elif rest[-1].isdigit():
      raise ValueError('a number is no second factor without a sign')
    other = _factor(rest, depth)
    if any(value[:2]):
      value, other = other, value
    if any(value[:2]):
      raise ValueError('not linear')
    a, b, c = other
    value = value[2] * a, value[2] * b, value[2] * c
  return value


def _factor(rest: list[str], depth: int) -> Side:
  token = rest.pop() if rest else ''
  if token == '(' and depth < DEEPEST:
    value = _sum(rest, depth + 1)
    if not rest or rest.pop() != ')':
      raise ValueError('a parenthesis is open')
    return value
  if token.isdigit() and len(token) <= len(str(LARGEST)):
    return (0, 0, int(token))
  if token in ('x', 'y'):
    return (1, 0, 0) if token == 'x' else (0, 1, 0)
  raise ValueError(f'{token!r} is no number and no unknown')


def write_side(side: Side) -> str:
  """`(3, 0, -5)` as `3x - 5`."""
  out = ''
  for number, unknown in zip(side, ('x', 'y', ''), strict=True):
    if number:
      size = '' if unknown and abs(number) == 1 else abs(number)
      sign = ('- ' if number < 0 else '+ ') if out else '-' * (number < 0)
      out += f'{" " * bool(out)}{sign}{size}{unknown}'
  return out or '0'


def solve(
  equations: Sequence[tuple[Side, Side]],
) -> dict[str, Fraction] | None:
  """The one solution of an equation in x or y, or of two in both.

  Returns:
    Unknown -> value; None if there is no solution, or more than one.
  """
  rows = [
    [p - q for p, q in zip(left, right, strict=True)]
    for left, right in equations
  ]
  if len(rows) == 1:
    (a, b, c), *_ = rows
    if (a == 0) == (b == 0):
      return None
    return {'x': Fraction(-c, a)} if a else {'y': Fraction(-c, b)}
  (a, b, c), (d, e, f) = rows
  both = a * e - b * d
  if not both:
    return None
  return {
    'x': Fraction(b * f - c * e, both),
    'y': Fraction(c * d - a * f, both),
  }

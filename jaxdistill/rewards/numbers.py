"""Answers compared as numbers, exactly."""

import re
from fractions import Fraction

_NUMBER = re.compile(r'[+-]?(\d+(\.\d*)?|\.\d+)(/0*[1-9]\d*)?%?')


def number(text: str) -> Fraction | None:
  """An integer, decimal, fraction or percentage as an exact rational.

  Thousands separators and spaces around are ignored: `'1,024'` is 1024,
  `'07'` is 7, `'1/2'`, `'0.50'` and `'50%'` are one half. A minus may be `−`.
  None for anything else; `rewards.final_answer` finds and cleans what stands
  in a longer text.
  """
  text = text.strip().replace('−', '-')
  if re.fullmatch(r'[+-]?\d{1,3}(,\d{3})+(\.\d*)?', text):
    text = text.replace(',', '')
  if len(text) > 1000 or not _NUMBER.fullmatch(text):
    return None
  percent, text = text.endswith('%'), text.rstrip('%')
  above, _, below = text.partition('/')
  value = Fraction(above) / (Fraction(below) if below else 1)
  return value / 100 if percent else value


def equal(answer: str, reference: str) -> bool | None:
  """Whether two answers are the same number.

  Returns:
    True or False where both are numbers, or the texts are the same; None
    where that cannot be told.
  """
  if answer.strip() == reference.strip():
    return True
  left, right = number(answer), number(reference)
  return None if left is None or right is None else left == right


def is_right(answer: str | None, known: str | None) -> bool:
  """Whether an answer is there and equals the known one."""
  if answer is None or known is None:
    return False
  return equal(answer, known) is True

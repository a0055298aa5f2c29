r"""The final answer of a response, as plain text.

Where an answer may stand, in this order: the last `\boxed{...}`, the last
`<answer>...</answer>`, behind the last `####` (GSM8K), and, where nothing is
marked, the last number. `plain` then takes LaTeX and dress off it. What is
found and is no number stays as text, for `rewards.equal` to compare.

Every pattern here takes time in proportion to the text, whatever the text is:
repetitions are possessive, or end at a character that begins the next try.
"""

import re
from fractions import Fraction

from jaxdistill.rewards.numbers import number

_BRACE = re.compile(r'\\boxed\s*+\{|\\.|[{}]', re.DOTALL)
_TAG = re.compile(r'<(/?)answer>', re.IGNORECASE)

_DIGITS = r'(?:[1-9][0-9]{0,2}(?:,[0-9]{3})++(?![0-9])|[0-9]++)'
_DECIMAL = rf'(?:{_DIGITS}(?:\.[0-9]++)?|\.[0-9]++)'
# Numbers, and what has digits but is none: it is passed over as a whole.
_NUMBERS = re.compile(
  r'[^\W\d]\w*+(?:\.[0-9]++)*+'  # a word, x2, v1.2
  r'|[0-9]++(?:[-/.:][0-9]++){2,}+'  # a date, a version
  r'|[0-9]++:[0-9]++'  # a time, a ratio
  r'|[0-9]++(?:st|nd|rd|th)\b'
  r'|[\^_]\{?[-+]?[0-9]++'
  r'|(?P<sign>(?<![\w)\]}.%])[-+])?\$?(?P<sign2>(?<=\$)-)?'
  rf'(?P<value>(?:[0-9]++\s[0-9]++/[0-9]++(?![0-9/])|{_DECIMAL}(?:/[0-9]++)?)'
  r'(?:\s?%)?)'
)

_FRACTION = re.compile(
  r'\\[dtc]?frac\s*+(?:\{([^{}]*+)\}\s*+\{([^{}]*+)\}|([0-9])\s*+([0-9]))'
)
_TEXT = re.compile(
  r'\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it)|mbox)\s*+\{([^{}]*+)\}'
)
_DRESS = re.compile(  # means nothing
  r'\\(?:left|right|displaystyle|Large|large|bf)(?![a-zA-Z])|\\[()\[\],!]'
  r'|(?<!\\)\$|`|\^\s*+(?:\\circ|\{\s*+\\circ\s*+\})'
)
_SPACE = re.compile(r'\*\*|~|\\[;: ]|\\q?quad(?![a-zA-Z])')
_UNIT = re.compile(
  r'([^\sa-zA-Z]++)\s++([a-zA-Z]++)[\sa-zA-Z./]*+(?:\^\{?[23]\}?)?'
)
# Words behind a number that change it, so that they are no unit.
_NO_UNITS = (
  *('and', 'or', 'to', 'e', 'i', 'pi', 'n', 't', 'x', 'y', 'z', 'sqrt'),
  *('dozen', 'hundred', 'thousand', 'million', 'billion', 'percent'),
)
_MIXED = re.compile(r'(-?)([0-9]++)\s++([0-9]++)/([0-9]*[1-9][0-9]*)')


def final_answer(text: str) -> str | None:
  r"""What a response answers.

  Args:
    text: The response.

  Returns:
    A text that `number` reads, where the answer is a number: `\frac{3}{4}` is
    `3/4`, `\$1,024` is `1024`, `x = 3` is `3`. A marked answer that is no
    number comes as plain text. None if there is neither.
  """
  marked = marked_answer(text)
  return last_number(text) if marked is None else marked


def marked_answer(text: str) -> str | None:
  """`final_answer`, but None where no answer is marked as such."""
  for found in (_boxed(text), tagged(text)):
    if found is not None:
      return plain(found)
  return _behind_hashes(text)


def tagged(text: str) -> str | None:
  """What stands in the last `<answer>...</answer>`, as it is; None if empty."""
  begin, last = None, None
  for match in _TAG.finditer(text):
    if not match[1]:
      begin = match.end()
    elif begin is not None:
      content = text[begin : match.start()].strip()
      begin, last = None, content or last
  return last


def _boxed(text: str) -> str | None:
  r"""What stands in the last `\boxed{...}` that is closed and not empty."""
  open_braces, last, content = [], -1, None
  for match in _BRACE.finditer(text):
    if match[0].endswith('{') and match[0] != r'\{':
      open_braces.append((match[0] != '{', match.end()))
    elif match[0] == '}' and open_braces:
      is_box, begin = open_braces.pop()
      if is_box and begin > last and text[begin : match.start()].strip():
        last, content = begin, text[begin : match.start()].strip()
  return content


def _behind_hashes(text: str) -> str | None:
  """The number behind the last `####`; headings have no number only."""
  _, hashes, rest = text.rpartition('####')
  if not hashes:
    return None
  found = plain(rest.strip().partition('\n')[0])
  if number(found) is not None:
    return found
  # `#### Step 2` is a heading; `#### yes` at the end is an answer.
  last = '\n' not in rest.strip() and last_number(rest) is None
  return found if found and last else None


def last_number(text: str) -> str | None:
  """The last number in a text; dates, times and names like x2 have none."""
  text = _undress(text)
  found = None
  for match in _NUMBERS.finditer(text):
    if match['value']:
      found = match
  if found is None:
    return None
  minus = '-' in ((found['sign'] or '') + (found['sign2'] or ''))
  value = found['value'].replace(',', '')
  return _unmix(('-' if minus else '') + re.sub(r'\s%', '%', value))


def plain(text: str) -> str:
  """An answer without LaTeX, units and thousands separators."""
  text = ' '.join(_undress(text).split()).rstrip('.')
  while len(text) > 1 and text[0] == '{' and text[-1] == '}':
    text = text[1:-1].strip()
  left, equals, right = text.partition('=')
  if equals and '=' not in right and _says_value(left.strip()):
    return plain(right)
  found = _value(text)
  return text if found is None else found


def _says_value(left: str) -> bool:
  """Whether what is left of `=` is one name, or has none: `x`, `2 + 3`."""
  return bool(re.fullmatch(r'\\?[a-zA-Z]\w*+|[^a-zA-Z]*+', left))


def _value(text: str) -> str | None:
  """The text as a number that `number` reads, or None."""
  text = text.replace('$', '').replace('€', '').replace('£', '').strip()
  if text[:1] == '(' and text[-1:] == ')':
    text = text[1:-1].strip()
  unit = _UNIT.fullmatch(text)
  if unit and unit[2].lower() not in _NO_UNITS:
    text = unit[1]
  text = re.sub(r'\s++%$', '%', text)
  if re.fullmatch(r'[-+]?[1-9][0-9]{0,2}(?:[ ,][0-9]{3})++(?:\.[0-9]*)?', text):
    text = text.replace(',', '').replace(' ', '')
  text = _unmix(text)
  return text if number(text) is not None else None


def _unmix(text: str) -> str:
  """`1 1/2` as `3/2`."""
  match = _MIXED.fullmatch(text) if len(text) < 100 else None
  if not match:
    return text
  value = int(match[2]) + Fraction(int(match[3]), int(match[4]))
  return match[1] + str(value)


def _undress(text: str) -> str:
  """Without LaTeX's and Markdown's marks; fractions as `a/b`."""
  text = text.replace('−', '-').replace('{,}', ',').replace('⁄', '/')
  text = _TEXT.sub(r' \1 ', text)
  text = _FRACTION.sub(_divide, text)
  text = _SPACE.sub(' ', _DRESS.sub('', text))
  return text.replace(r'\$', '$').replace(r'\%', '%')


def _divide(match: re.Match) -> str:
  above, below = (match[1], match[2]) if match[3] is None else match.group(3, 4)
  above, below = above.strip(), below.strip()
  if below.startswith('-') and re.fullmatch(r'-?[0-9]+', above):
    above, below = f'-{above}'.replace('--', ''), below[1:]
  if not re.fullmatch(r'-?[\w.,]*', above):
    above = f'({above})'
  if not re.fullmatch(r'[\w.,]*', below):
    below = f'({below})'
  # 1\frac{1}{2} is one and a half.
  mixed = match.string[match.start() - 1 : match.start()].isdigit()
  return f'{" " * mixed}{above}/{below}'

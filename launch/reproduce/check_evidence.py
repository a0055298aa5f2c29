"""Holds the sources and figures of the docs to what they name.

  python launch/reproduce/check_evidence.py [--root .]

Reads README.md and docs/*.md, prints what is wrong, a line each, and exits 1 if
anything is:

- an arXiv id that cannot be one, or is newer than the last search (`NEWEST`);
- an id that the bibliography at the end of docs/evidence.md lacks, lists twice
  or out of order, or that nothing cites;
- a source without a word of `READ` for what of it was read, or of which a table
  says that more was read than the bibliography does;
- a figure of ours that is not what its file says. Such a figure is a link with
  a JSON pointer (RFC 6901), `[.966](../results/x.json#/arms/sqlm/last)`, and is
  right if the file's number is within half a unit of its last digit;
- a figure of ours without such a link, between `OURS` and the next heading,
  outside code and the tables that scripts draw (`results/*/answer.md`);
- a config that is not there and not said to come.
"""

import argparse
import decimal
import json
import pathlib
import re
import sys

PAGES = 'README.md', 'docs/*.md'
EVIDENCE = 'docs/evidence.md'
BIBLIOGRAPHY = '## Bibliography'
OURS = re.compile(
  r'^(?:\*\*Our run\.\*\*|\*\*When is a model better|## Itself, or a teacher)'
  r'.*?(?=^#|\Z)',
  re.DOTALL | re.MULTILINE,
)
CODE = re.compile(r'```.*?```|`[^`\n]*`', re.DOTALL)
NEWEST = '2611'
READ = 'full text', 'code', 'third party', 'abstract', 'not read'

LIKE_AN_ID = re.compile(r'(?<![\d.,])\d{4}\.\d{4,6}(?!\d)')
CALLED_AN_ID = re.compile(
  r'arxiv(?:\.org/(?:abs|pdf)/|[: ])(\d[\d.]*\d)', re.IGNORECASE
)
ROW = re.compile(
  r'\| \[([\d.]+)\]\(https://arxiv\.org/abs/([\d.]+)\) \|[^|]+\|([^|]+)\|$'
)
FIGURE = re.compile(r'\[([^][]*)\]\(([^()\s#]*\.jsonl?)#([^()\s]*)\)')
CONFIG = re.compile(r'`(configs/[\w*]+\.py)`(?! \(to come\))')


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--root', type=pathlib.Path, default='.')
  found = complaints(parser.parse_args().root)
  print('\n'.join(found) or 'every source and figure is what it is said to be')
  sys.exit(bool(found))


def complaints(root):
  """What is wrong in the docs under a folder, a line each."""
  files = [x for pattern in PAGES for x in sorted(root.glob(pattern))]
  pages = {x.relative_to(root).as_posix(): x.read_text() for x in files}
  body, heading, table = pages.pop(EVIDENCE).partition(BIBLIOGRAPHY)
  pages[EVIDENCE] = body
  drawn = [x.read_text() for x in root.glob('results/*/answer.md')]
  found = [] if heading else [f'{EVIDENCE}: no {BIBLIOGRAPHY}']
  for name, text in pages.items():
    wrong = [
      *filter(None, map(bad_id, sorted(ids(text)))),
      *bad_figures(text, (root / name).parent),
      *bare_figures(text, drawn),
      *(
        f'{config} is not there'
        for config in CONFIG.findall(text)
        if not any(root.glob(config))
      ),
    ]
    found += [f'{name}: {x}' for x in wrong]
  cited = set().union(*map(ids, pages.values()))
  rows = [row for text in pages.values() for row in reads(text)]
  return found + [f'{EVIDENCE}: {x}' for x in bad_table(table, cited, rows)]


def ids(text):
  """All that is an arXiv id, looks like one or is said to be one."""
  return {*LIKE_AN_ID.findall(text), *CALLED_AN_ID.findall(text)}


def bad_id(number):
  """Why it cannot be an id (of 2015 or later: five digits), or None."""
  whole = re.fullmatch(r'(\d\d)(\d\d)\.(\d{5})', number)
  if not whole:
    return f'{number} is no arXiv id'
  if not 1 <= int(whole[2]) <= 12 or int(whole[1]) < 15 or whole[3] == '00000':
    return f'{number} cannot be an arXiv id'
  if number[:4] > NEWEST:
    return f'{number} is newer than the last search, {NEWEST}'
  return None


def bad_table(table, cited, rows):
  """What is wrong with the bibliography, and with what rows say was read."""
  lines = [x for x in table.splitlines() if x.startswith('| [')]
  found = [
    f'no row of the bibliography: {x}' for x in lines if not ROW.match(x)
  ]
  listed = [row.groups() for row in map(ROW.match, lines) if row]
  numbers = [number for number, _, _ in listed]
  found += [f'{x} links to {link}' for x, link, _ in listed if x != link]
  found += [f'{x} is listed twice' for x in numbers if numbers.count(x) > 1]
  if numbers != sorted(numbers):
    found.append('the bibliography is not sorted')
  missing = sorted(cited - {*numbers})
  found += [f'{x} is not in the bibliography' for x in missing]
  found += [f'{x} is cited nowhere' for x in numbers if x not in cited]
  known = {number: words(read) for number, _, read in listed}
  for number, read in (*((x, read) for x, _, read in listed), *rows):
    if not words(read) <= known.get(number, {*READ}) & {*READ}:
      found.append(f'{number}: read is {read.strip()!r}')
  return found


def words(read):
  return {x.strip() for x in read.split('+')}


def reads(text):
  """Id and `read` cell of all rows of tables that have such a column."""
  column = None
  for line in text.splitlines():
    cells = [x.strip() for x in line.strip('|').split('|')]
    if not line.startswith('|'):
      column = None
    elif column is None:
      column = cells.index('read') if 'read' in cells else len(cells)
    elif column < len(cells) and not set(cells[column]) <= set('-: '):
      for number in ids(' '.join(cells[:column])) or {cells[0]}:
        yield number, cells[column]


def bad_figures(text, folder):
  """Figures that are not what their file says at their pointer."""
  for said, file, pointer in FIGURE.findall(text):
    try:
      value = at(pointer, folder / file)
    except OSError:
      yield f'{said}: there is no {file}'
    except (LookupError, TypeError, ValueError):
      yield f'{said}: {file} has no {pointer}'
    else:
      if not agrees(said, value):
        yield f'{said}: {file} has {value} at {pointer}'


def at(pointer, file):
  """What a JSON file (or JSON lines, as a list) holds at a pointer."""
  text = file.read_text()
  lines = text.splitlines() if file.suffix == '.jsonl' else [text]
  read = [json.loads(x, parse_float=decimal.Decimal) for x in lines]
  value = read if file.suffix == '.jsonl' else read[0]
  if not pointer.startswith('/'):
    raise ValueError(pointer)
  for key in pointer[1:].split('/'):
    key = key.replace('~1', '/').replace('~0', '~')
    value = value[int(key) if isinstance(value, list) else key]
  return value


def agrees(said, value):
  """Whether a number rounds to what is said of it, or a word is that word."""
  if isinstance(value, str):
    return said == value
  number = re.fullmatch(r'([+-]?[\d,]*\.?(\d*))(%?)', said.replace('−', '-'))
  if not number or isinstance(value, (bool, list, dict, type(None))):
    return False
  try:
    quoted = decimal.Decimal(number[1].replace(',', ''))
  except decimal.InvalidOperation:
    return False
  decimals = len(number[2]) if '.' in number[1] else 0
  value = decimal.Decimal(value) * (100 if number[3] else 1)
  return abs(quoted - value) <= decimal.Decimal(5).scaleb(-decimals - 1)


def bare_figures(text, drawn):
  """Decimals in what we say of our runs that no link holds to a file.

  Args:
    text: Of a page.
    drawn: Tables that scripts draw, which are passed over.
  """
  for table in drawn:
    text = text.replace(table, '')
  for ours in OURS.findall(text):
    rest = LIKE_AN_ID.sub('', CODE.sub('', FIGURE.sub('', ours)))
    for figure in re.findall(r'(?<![\w.])\d*\.\d+(?!\w)', rest):
      yield f'{figure}: a figure of ours without its file'


if __name__ == '__main__':
  main()

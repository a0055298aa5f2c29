"""The docs' sources and figures, and the checker that holds them."""

import importlib.util
import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location(
  'check_evidence', ROOT / 'launch' / 'reproduce' / 'check_evidence.py'
)
assert SPEC and SPEC.loader
check = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(check)


def test_docs():
  assert check.complaints(ROOT) == []


README = 'Self-play (arXiv 2508.03682) by `configs/a.py`.\n'
TEXT = """# Evidence

| stand | work | read | what it says |
|---|---|---|---|
| supports | 2603.24472 | abstract + code | .40 is lost |

**Our run.** A .5B model rose to [.948](../results/run.json#/arms/a~1b/last),
by [+25.4%](../results/run.json#/rise); `configs/b.py` (to come) runs the rest.

"""
TABLE = """## Bibliography

| id | work | read |
|---|---|---|
| [2508.03682](https://arxiv.org/abs/2508.03682) | SQLM | full text |
| [2603.24472](https://arxiv.org/abs/2603.24472) | Kim | abstract + code |
"""
RUN = {'arms': {'a/b': {'last': 0.9479}}, 'rise': 0.25425, 'verdict': 'helps'}


def complaints(folder, text=TEXT, table=TABLE, readme=README):
  for name in 'docs', 'results', 'configs':
    (folder / name).mkdir(exist_ok=True)
  (folder / 'configs' / 'a.py').touch()
  (folder / 'results' / 'run.json').write_text(json.dumps(RUN))
  lines = '\n'.join(json.dumps({'step': i, 'score': i / 8}) for i in range(3))
  (folder / 'results' / 'steps.jsonl').write_text(lines)
  (folder / 'docs' / 'evidence.md').write_text(text + table)
  (folder / 'README.md').write_text(readme)
  return check.complaints(folder)


def test_nothing_is_wrong(tmp_path):
  assert complaints(tmp_path) == []


@pytest.mark.parametrize(
  'old, new, complaint',
  [
    ('2603.24472', '2603.2447', '2603.2447 is no arXiv id'),
    ('2603.24472', '2613.24472', '2613.24472 cannot be an arXiv id'),
    ('2603.24472', '2600.24472', '2600.24472 cannot be an arXiv id'),
    ('2603.24472', '2612.24472', '2612.24472 is newer than the last search'),
    ('2603.24472', '2603.24472 2603.24473', '2603.24473 is not in the bib'),
    ('2603.24472', 'Kim et al.', '2603.24472 is cited nowhere'),
    ('abstract +', 'memory +', "2603.24472: read is 'memory + code'"),
    ('abstract +', 'full text +', "2603.24472: read is 'full text + code'"),
    ('json#/arms', 'json#arms', 'run.json has no arms/a~1b/last'),
    ('.948]', '.947]', '.947: ../results/run.json has 0.9479 at /arms'),
    ('.948]', '.9480]', '.9480: ../results/run.json has 0.9479 at /arms'),
    ('.948]', '-.948]', '-.948: ../results/run.json has 0.9479 at /arms'),
    ('.948]', 'most]', 'most: ../results/run.json has 0.9479 at /arms'),
    ('+25.4%', '.254%', '.254%: ../results/run.json has 0.25425 at /rise'),
    ('/last', '/first', '.948: ../results/run.json has no /arms/a~1b/first'),
    ('/last', '/last/0', '.948: ../results/run.json has no /arms/a~1b/last/0'),
    ('/last', '', 'at /arms/a~1b'),
    ('run.json#/rise', 'no.json#/rise', 'there is no ../results/no.json'),
    ('rose', 'rose by .25', '.25: a figure of ours without its file'),
    ('the rest', 'the rest\n\nand .75', '.75: a figure of ours without its'),
    ('b.py` (to come)', 'b.py`', 'configs/b.py is not there'),
    (' (to come)', ' (once)', 'configs/b.py is not there'),
  ],
)
def test_wrong_text(tmp_path, old, new, complaint):
  assert old in TEXT
  found = complaints(tmp_path, text=TEXT.replace(old, new))
  assert any(complaint in x for x in found), found


@pytest.mark.parametrize(
  'old, new, complaint',
  [
    ('## Bibliography', '## Sources', 'no ## Bibliography'),
    ('| full text |', '| skimmed |', "2508.03682: read is 'skimmed'"),
    ('abs/2603.24472', 'abs/2603.24473', 'links to 2603.24473'),
    ('[2603.24472]', '2603.24472', '2603.24472 is not in the bibliography'),
    ('https://arxiv.org/abs/2603', 'http://a.b/2603', 'no row of the bib'),
    ('| Kim', '| a | Kim', 'no row of the bibliography'),
  ],
)
def test_wrong_table(tmp_path, old, new, complaint):
  assert old in TABLE
  found = complaints(tmp_path, table=TABLE.replace(old, new))
  assert any(complaint in x for x in found), found


def test_twice_and_out_of_order(tmp_path):
  first = next(x for x in TABLE.splitlines() if '2508.03682' in x)
  found = complaints(tmp_path, table=f'{TABLE}{first}\n')
  assert any('2508.03682 is listed twice' in x for x in found)
  assert any('not sorted' in x for x in found)


def test_other_pages_count(tmp_path):
  found = complaints(tmp_path, readme='arXiv 25080.3682, `configs/c.py`')
  assert found == [
    'README.md: 25080.3682 is no arXiv id',
    'README.md: configs/c.py is not there',
    'docs/evidence.md: 25080.3682 is not in the bibliography',
    'docs/evidence.md: 2508.03682 is cited nowhere',
  ]


@pytest.mark.parametrize(
  'said, value, agrees',
  [
    ('.125', '0.1245', True),  # half a unit counts, on either side
    ('.125', '0.1255', True),
    ('.125', '0.12449', False),
    ('−.3', '-0.25', True),
    ('13,054', 13053.6, True),
    ('13,054', 13053.4, False),
    ('3', 3, True),
    ('97%', '0.974', True),
    ('', '0', False),
    ('.', '0', False),
    ('1', True, False),
    ('0', None, False),
    ('helps', 'helps', True),
    ('risky', 'helps', False),
  ],
)
def test_rounding(said, value, agrees):
  if isinstance(value, str) and value[-1].isdigit():
    value = json.loads(value, parse_float=check.decimal.Decimal)
  assert check.agrees(said, value) == agrees


def test_json_lines(tmp_path):
  text = '**Our run.** [.25](../results/steps.jsonl#/2/score) at the end.\n'
  assert complaints(tmp_path, text=TEXT + text) == []
  text = text.replace('/2/', '/1/')
  (found,) = complaints(tmp_path, text=TEXT + text)
  assert 'has 0.125 at /1/score' in found

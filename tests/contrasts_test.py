"""Claims of the systems: from arms that are made up to verdicts."""

import dataclasses
import json
import pathlib

import claims_table
import contrasts
import edits
import numpy as np
import pytest

from jaxdistill.config import read_comparison
from jaxdistill.data.small import people
from jaxdistill.plots.claims import holm, interval, logged, verdict

ROOT = pathlib.Path(__file__).parents[1]


def arm(**metrics):
  """Metric -> its first and its last values, by seed."""
  found = {'seeds': [0, 1, 2], 'wall_s': 60.0}
  for name, (first, last) in metrics.items():
    by_seed = {
      kind: {str(s): x for s, x in enumerate(values)}
      for kind, values in (('first', first), ('last', last))
    }
    ends = {
      kind: float(np.mean(v))
      for kind, v in zip(('first', 'last'), (first, last), strict=True)
    }
    found[logged(name.replace('__', '/'))] = ends | {'by_seed': by_seed}
  return found


def around(value):
  return [value - 0.01, value, value + 0.01]


def test_names_of_the_log():
  assert logged('ood/delta') == 'eval/ood/delta'
  assert logged('tsr/score_gap') == 'tsr/score_gap'


def test_correction_by_hand():
  def of(ended, second, fixed):
    return arm(
      ood__delta_sampled=(around(-0.1), ended),
      ood__accuracy_turn_2_sampled=(around(0.5), second),
      ood__fixed_delta_sampled=(around(0.1), fixed),
    )

  arms = {
    'score': of([0.18, 0.2, 0.22], around(0.7), [0.3, 0.31, 0.32]),
    'pairs': of([0.0, 0.01, -0.01], around(0.7), [0.1, 0.11, 0.1]),
    'star': of([0.2, 0.2, 0.2], [0.6, 0.61, 0.63], around(0.1)),
  }
  record, text = contrasts.score(arms)
  tests = record['tests']
  assert tests['delta']['mean'] == pytest.approx(0.2)
  assert tests['delta']['verdict'] == 'holds'
  assert tests['fixed_score']['mean'] == pytest.approx(0.21)
  assert tests['score_pairs_fixed_delta_sampled']['verdict'] == 'holds'
  assert tests['score_pairs_delta_sampled']['mean'] == pytest.approx(0.2)
  assert tests['score_pairs_delta_sampled']['verdict'] == 'holds'
  assert tests['score_star_delta_sampled']['verdict'] == 'inconclusive'
  # In all seeds alike: how much it varies is not known.
  alike = tests['score_pairs_accuracy_turn_2_sampled']
  assert alike['mean'] == pytest.approx(0) and alike['p'] == 1
  assert tests['score_star_accuracy_turn_2_sampled']['verdict'] == 'holds'
  assert tests['delta_base']['mean'] == pytest.approx(-0.1)
  assert tests['delta_base']['verdict'] == ''
  assert '-0.100 → 0.200' in text


@pytest.mark.parametrize('value', [0.2, 0.0, -0.2])
def test_seeds_that_are_all_alike_decide_nothing(value):
  found = interval([value] * 3)
  assert verdict(found, 1) == 'inconclusive'
  assert holm({'one': found})['one']['p'] == 1


def test_a_bound_is_of_the_first_round(tmp_path):
  """Gains below their gap, about it, and far above it."""
  runs = {
    'all': ([0.0] * 3, [0.5, 0.5, 0.5, 0.5]),
    'vote': ([0.3, 0.1, 0.0], [0.5, 0.7, 0.75, 0.75]),
    'yes': ([0.1, 0.1, 0.1], [0.5, 0.61, 0.7, 0.8]),
    'first_yes': ([0.1, 0.1, 0.1], [0.5, 0.61, 0.7, 0.8]),
    'tournament': ([0.11, 0.1, 0.1], [0.5, 0.6, 0.7, 0.8]),
    'known': ([0.1, 0.1, 0.1], [0.5, 0.8, 0.9, 0.9]),
  }
  arms = {}
  for name, (gaps, right) in runs.items():
    arms[name] = {'seeds': [0, 1], 'folder': tmp_path / name}
    for seed in (0, 1):
      lines = [
        {'step': i, logged(contrasts.SAMPLED): x + seed * 0.0001 * i}
        | ({'train/gap': gaps[i]} if i < len(gaps) else {})
        for i, x in enumerate(right)
      ]
      folder = tmp_path / name / str(seed)
      folder.mkdir(parents=True)
      (folder / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  record, text = contrasts.verifiers(arms)
  assert record['arms']['vote']['gap']['mean'] == pytest.approx(0.3)
  assert record['arms']['vote']['gain']['mean'] == pytest.approx(0.20005)
  tests = record['tests']
  assert tests['bound_vote']['mean'] == pytest.approx(0.12 - 0.00005)
  assert tests['bound_vote']['verdict'] == 'holds'
  assert tests['bound_yes']['verdict'] == 'holds'  # within the margin
  assert tests['bound_known']['mean'] == pytest.approx(-0.18 - 0.00005)
  assert tests['bound_known']['verdict'] == 'does not hold'
  unbound = ('all', 'by_chance', 'first_yes')  # the last one's is that of yes
  assert not {f'bound_{x}' for x in unbound} & {*tests}
  assert tests['saturates']['mean'] == pytest.approx(0.02 - 0.00005)
  assert tests['saturates']['verdict'] == 'holds'
  # Gaps .3, .1, .11 and gains .2, .11, .1: a pair out of order.
  assert tests['ordered']['mean'] == pytest.approx(0.5)
  assert '0.500 0.700 0.750' in text


def test_who_falls():
  kept = arm(test__accuracy_greedy=([0.5] * 3, [0.6, 0.5, 0.4]))
  assert contrasts.fallen(kept) == [1, 3]


def test_a_course_is_the_mean_of_its_seeds(tmp_path):
  for seed, values in ((0, (0.5, 0.25)), (1, (0.75, 0.5))):
    lines = [{'step': i, logged('test/x'): v} for i, v in enumerate(values)]
    lines.insert(1, {'step': 0, 'other': 1.0})
    folder = tmp_path / str(seed)
    folder.mkdir()
    (folder / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  found = contrasts.course({'folder': tmp_path, 'seeds': [0, 1]}, 'test/x')
  assert found == [0.625, 0.375]


# `verifiers` reads runs, and has a test of its own.
@pytest.mark.parametrize('name', sorted({*contrasts.CONTRASTS} - {'verifiers'}))
def test_a_claim_names_arms_that_there_are(name, monkeypatch):
  """Made-up arms of the config, all at nought: nothing holds or lacks."""
  files = {
    'anchors': 'anchors_small.py',
    'anchors_gentle': 'anchors_small.py:1e-4',
    'seal': 'compare_seal.py:small-wide',
  }
  file = ROOT / 'configs' / files.get(name, f'compare_{name}.py')
  config = read_comparison(str(file), ())
  arms = {found: Alike() for found in config.arms}
  monkeypatch.setattr(contrasts, 'read_metrics', lambda folder: [])
  record, text = contrasts.CONTRASTS[name](arms)
  claimed = [x for x in record['tests'].values() if x['verdict']]
  assert claimed and not any(x['verdict'] == 'holds' for x in claimed)
  assert all(f'| {found} |' in text for found in arms)


def test_own_edits_are_held_against_another_models():
  def arm(**values):
    def of(i):
      kinds = {kind: {'0': x[i], '1': x[i]} for kind, x in values.items()}
      return {'by_seed': kinds}

    return {logged('seal/score'): of(0), logged('seal/no_edit'): of(1)}

  other = arm(first=(0.5, 0.1), last=(0.2, 0.1))
  own = arm(first=(0.1, 0.1), last=(0.75, 0.25))
  means = [x['mean'] for _, x in contrasts.of_another(other, own).values()]
  assert means == pytest.approx([-0.4, 0.4])


class Alike(dict):
  """An arm whose every metric is about 0 at first and at last."""

  def __init__(self):
    nowhere = pathlib.Path('nowhere')
    super().__init__(seeds=[0, 1, 2], wall_s=60.0, folder=nowhere)

  def __missing__(self, name):
    return arm(x__y=(around(0.0), around(0.0)))['x/y']

  def get(self, name, default=None):
    return self[name]


def test_the_table_is_that_of_the_results():
  """What stands in `results/claims.md` and in the README is what is found."""
  lines = [
    claims_table.line(row, ROOT / 'results') for row in claims_table.ROWS
  ]
  rows, head, short = claims_table.rows, claims_table.HEAD, claims_table.SHORT
  table = claims_table.whole(lines)
  assert (ROOT / 'results/claims.md').read_text().endswith(table)
  assert '](docs/' not in table and '](results/' not in table
  shown = rows(head[:short], [cells[:short] for cells in lines])
  assert shown in (ROOT / 'README.md').read_text()


def test_a_row_by_hand(tmp_path):
  row = claims_table.Row('C3', 'it is', 'so', 'score', 'none', ('a', 'b'))
  assert claims_table.line(row, tmp_path)[3:5] == ['not run yet', 'score']
  folder = tmp_path / 'score'
  folder.mkdir()
  arms = {'one': arm() | {'wall_s': 90.0}, 'two': arm() | {'seeds': [0]}}
  (folder / 'summary.json').write_text(json.dumps({'arms': arms}))
  found = {'mean': 0.1, 'interval': [0.05, 0.15], 'verdict': 'holds'}
  tests = {
    'a': found | {'claim': 'C3: it rises'},
    'b': found | {'claim': 'Seen: it does', 'verdict': ''},
    'c': found | {'claim': 'C3: not here', 'verdict': 'does not hold'},
  }
  (folder / 'claim.json').write_text(json.dumps({'tests': tests}))
  rises = 'it rises: **+0.100** (+0.050 to +0.150), holds'
  again = dataclasses.replace(row, of=('a',), after=True)
  assert claims_table.line(again, tmp_path) == [
    *('[C3](docs/evidence.md#c3)', 'it is', 'so'),
    *(
      f'{rises} (exploratory)',
      '[score](results/score)',
      '1 to 3',
      'none',
      '6',
    ),
  ]
  record = json.dumps({'tests': tests, 'B0': False})
  (folder / 'claim.json').write_text(record)
  again = dataclasses.replace(row, of=('a', 'c'), condition='B0')
  assert claims_table.line(again, tmp_path)[3].startswith(
    f'not tested, for a condition fails: {rises}<br>not here:'
  )
  with pytest.raises(AssertionError, match='has no test'):
    claims_table.line(row, tmp_path)  # it has no verdict


def test_what_an_edit_says():
  name = 'ba ko mi'
  told = people.facts(name)
  other = next(x for x in people.FACTS['pet'] if x != told['pet'])
  text = (
    f'{name} home {told["home"]} , {told["home"]} home of {name} , '
    f'{told["work"]} work of {name} , {name} pet {other} , {name} {name} , '
    f'{told["work"]} home of {name} , '
  )
  assert edits.counted(name, text) == {
    **{'straight': 1, 'turned': 1, 'wrong': 1, 'missing': 1},
    'debris': 3,  # no fact; another kind's value; nothing
  }
  given = edits.counted(name, people.retold(name))
  assert given['straight'] + given['turned'] == 4

"""The ladder of contexts: what is observed, and what is shown of it."""

import json
import pathlib

import jax
import numpy as np
import pytest

import jaxdistill as jd
from jaxdistill.api import ladders
from jaxdistill.api.gaps import chosen
from jaxdistill.cli.main import main
from jaxdistill.eval.ladder import ladder as ladder_of
from jaxdistill.rollout import contexts

RUNGS = ('none', 'answer', 'other')


@pytest.fixture(scope='module')
def ladder():
  return jd.context(
    'small-middle',
    problems=6,
    samples=3,
    max_tokens=40,
    rungs=RUNGS,
    solution='reference',
  )


def test_untold_is_as_it_was(ladder):
  rungs = ladder.figures['rungs']
  assert tuple(rungs) == RUNGS
  assert rungs['none']['kl_fork'] == pytest.approx(0, abs=1e-5)
  assert rungs['none']['kl_other'] == pytest.approx(0, abs=1e-5)
  assert rungs['none']['overlap'] == 1
  for found in rungs.values():
    assert found['told'] == 1
    assert 0 <= found['right'] <= 1 and found['length'] > 5
    assert found['untold'] == rungs['none']['right']
  # Told the answer it would go on otherwise, most where it is unsure.
  assert rungs['answer']['kl_fork'] > 5 * rungs['answer']['kl_other'] > 0


def test_a_rung_is_held_against_its_own_places_untold():
  model = jd.load('small-middle')
  with jax.set_mesh(model.run.mesh):
    found = ladder_of(
      model.player,
      chosen(model.task, 'dev', 8),
      rungs=('none', 'full'),
      samples=2,
      max_tokens=40,
      key=jax.random.key(0),
    )
  told = found['full']['told'] > 0  # where the sibling is right
  assert 0 < told.sum() < len(told) == 16
  untold = found['full']['untold']
  np.testing.assert_array_equal(untold, found['none']['right'][told])


def test_what_is_shown(ladder, tmp_path):
  said = str(ladder)
  for name in RUNGS:
    assert f'\n{name} ' in said
  right = ladder.figures['rungs']['answer']['right']
  assert f'{right:.3f}' in said
  assert [row['context'] for row in ladder.rows] == list(RUNGS)
  ladder.figure.save(tmp_path / 'ladder.png')
  assert (tmp_path / 'ladder.png').read_bytes().startswith(b'\x89PNG')


def test_every_column_is_explained():
  for title, _ in ladders.COLUMNS.values():
    assert title in ladders.LEGEND
  assert all(len(line) <= 80 for line in ladders.LEGEND.splitlines())


def test_the_command(tmp_path, capsys):
  out = str(tmp_path / 'drawn.png')
  ask = ['context', '--model', 'small-middle', '--problems', '4']
  more = ['--samples', '2', '--max_tokens', '24', '--contexts', 'none,verdict']
  assert main([*ask, *more, '--json', '--out', out]) == 0
  found = json.loads(capsys.readouterr().out)
  assert list(found['rungs']) == ['none', 'verdict']
  assert np.isfinite(found['rungs']['verdict']['kl_other'])
  assert (tmp_path / 'drawn.png').exists()


@pytest.mark.parametrize(
  ('more', 'said'),
  [
    ({'rungs': ('ful',)}, "no context 'ful'; the nearest is 'full' of none"),
    ({'samples': 1}, 'at least 2'),
    ({'judge': 'vote', 'solution': 'reference'}, 'knows no reference'),
    ({'task': 'arithmetic:add:2,2', 'solution': 'reference'}, 'refer to'),
  ],
)
def test_what_cannot_be_asked(more, said):
  with pytest.raises(jd.ConfigError, match=said):
    jd.context('small-middle', **more)


def test_all_rungs_are_known_to_the_readme():
  text = (pathlib.Path(__file__).parents[1] / 'README.md').read_text()
  (row,) = (x for x in text.splitlines() if x.startswith('| `method.context`'))
  named = row.split('|')[2]
  assert named.strip() == ', '.join(f'`{name}`' for name in contexts.NAMES)

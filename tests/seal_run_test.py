"""Whole runs of SEAL and of edits one after another, cut and gone on with."""

import json

import numpy as np
import pytest
from whole_runs import cut, moved, promised, trained_by

from jaxdistill import config as configs

FEW = {
  'model': 'small-wide',
  'task': 'small:passages',
  'eval.problems': 2,
  'eval.samples': 1,
  'eval.max_tokens': 4,
  'batch.length': 64,
  'batch.sequences': 8,
  'method.max_tokens': 32,
  'method.answer_tokens': 4,
  'method.inner_rank': 2,
  'method.inner_epochs': 2,
}


SEVERAL = {
  'method.problems': 2,
  'method.samples': 2,
  'method.seeds': 2,
  'method.minibatches': 1,
  'method.gain': False,
}


@pytest.fixture
def trained(mesh, tmp_path):
  """Trains two steps; the loop, its metrics by step, and the policy before."""

  def train(name, workdir='run', **keys):
    config = configs.base_config(name)
    config.steps, config.eval_every, config.checkpoint_every = 2, 2, 1
    config.guard.every, config.anchors = 0, {}
    config.eval.splits = ('test',)
    configs.override(config, keys.items())
    return trained_by(config, tmp_path / workdir)

  return train


@pytest.mark.parametrize(
  ('name', 'more'),
  [
    ('seal', SEVERAL),
    ('sequential_edits', {'method.replay': 1, 'method.kl': 0.1}),
  ],
)
def test_what_is_cut_goes_on_as_if_it_had_not_been(
  trained,
  name,
  more,
  tmp_path,
):
  whole, lines, before = trained(name, **FEW, **more)
  first = lines[0]
  assert moved(before, whole.state.params)
  if name == 'seal':
    assert first['seal/kept'] == 1 and np.isfinite(first['train/loss'])
    assert 0 <= first['eval/test/accuracy_edited'] <= 1
    assert 'eval/test/accuracy_greedy' in first  # of questions, untold
    assert first['eval/test/problems'] == 2
  else:
    records = whole.method_state['edits']
    assert [len(r['row']) for r in records] == [1, 2]
    # One for each checkpoint's state.
    assert len([*(tmp_path / 'run' / 'data').glob('*.jsonl')]) == 2
    assert lines[1]['edits/all'] == pytest.approx(np.mean(records[1]['row']))
  cut(tmp_path / 'run', tmp_path / 'cut')
  again, rest, _ = trained(name, 'cut', **FEW, **more)
  assert again.first_step == 1
  assert [*map(promised, rest)] == [*map(promised, lines)]
  assert not moved(whole.state.params, again.state.params)
  assert again.method_state == whole.method_state
  told = (tmp_path / 'run/rollouts/000001.jsonl').read_text().splitlines()
  records = [json.loads(x) for x in told]
  assert all(r['texts'] and r['topic'] in r['problem'] for r in records)

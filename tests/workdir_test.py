"""What a run leaves, line by line."""

import json

import pytest

from jaxdistill.checkpoint import RefusedError
from jaxdistill.run.workdir import Workdir


@pytest.fixture
def workdir(tmp_path):
  out = Workdir(tmp_path)
  yield out
  out.close()


def steps_on_disk(workdir):
  text = (workdir.path / 'metrics.jsonl').read_text()
  return [json.loads(line)['step'] for line in text.splitlines()]


def test_metrics_are_cut_back(workdir):
  workdir.open(0)
  for step in range(6):
    workdir.log(step, {'train/loss': float(step)})
  workdir.close()
  assert steps_on_disk(workdir) == [0, 1, 2, 3, 4, 5]

  again = Workdir(workdir.path)
  again.open(4)
  assert steps_on_disk(again) == [0, 1, 2, 3]
  again.log(4, {'train/loss': 40.0})
  again.close()
  assert steps_on_disk(again) == [0, 1, 2, 3, 4]
  assert again.metrics() == [
    *({'step': i, 'train/loss': float(i)} for i in range(4)),
    {'step': 4, 'train/loss': 40.0},
  ]


def test_opening_at_the_start_drops_everything(workdir):
  workdir.open(0)
  workdir.log(0, {'train/loss': 1.0})
  workdir.close()
  again = Workdir(workdir.path)
  again.open(0)
  again.close()
  assert again.metrics() == []
  assert steps_on_disk(again) == []


@pytest.mark.parametrize('torn', ['{"step": 2, "train/lo', '{', '{"step": 2'])
def test_a_torn_last_line_is_dropped(workdir, torn):
  whole = ''.join(json.dumps({'step': i, 'x': 0.5}) + '\n' for i in range(2))
  (workdir.path / 'metrics.jsonl').write_text(whole + torn)
  workdir.open(9)
  assert (workdir.path / 'metrics.jsonl').read_text() == whole
  workdir.log(9, {'x': 1.0})
  assert steps_on_disk(workdir) == [0, 1, 9]


def test_summary_has_first_best_and_last(workdir):
  workdir.open(0)
  accuracy = 'eval/test/accuracy_sampled'
  workdir.log(0, {accuracy: 0.25, 'train/loss': 3.0})
  workdir.log(1, {'train/loss': 2.0})
  workdir.log(2, {accuracy: 0.75, 'eval/ood/cut': 0.5, 'train/loss': 1.0})
  workdir.log(3, {accuracy: 0.5})
  summary = workdir.summarise({'seed': 7, 'wall_s': 1.5})
  written = json.loads((workdir.path / 'summary.json').read_text())
  assert written == summary
  assert summary[accuracy] == {'first': 0.25, 'best': 0.75, 'last': 0.5}
  assert summary['eval/ood/cut'] == {'first': 0.5, 'last': 0.5}
  assert 'train/loss' not in summary
  assert summary['seed'] == 7 and summary['wall_s'] == 1.5
  assert {'jax', 'flax', 'grain'} <= summary['versions'].keys()


def test_transcripts(workdir):
  records = [{'proposal': '47+85', 'answers': ['132', None]}, {'proposal': ''}]
  workdir.transcripts(3, iter(records))
  workdir.transcripts(4, [])
  (file,) = (workdir.path / 'rollouts').iterdir()
  assert file.name == '000003.jsonl'
  assert [json.loads(x) for x in file.read_text().splitlines()] == records


def test_memory_may_change_and_what_is_drawn_may_not(tmp_path):
  mine = {'seed': 1, 'rollout': {'cache_gib': 0.0, 'weights': '', 'cache': ''}}
  Workdir(tmp_path).claim(mine)
  Workdir(tmp_path).check(
    mine | {'rollout': mine['rollout'] | {'cache_gib': 2, 'sharded': True}}
  )
  for key in ('weights', 'cache'):
    other = mine | {'rollout': mine['rollout'] | {key: 'int8'}}
    with pytest.raises(RefusedError, match=f"rollout.{key} was '', now 'int8'"):
      Workdir(tmp_path).check(other)

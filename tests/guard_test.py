"""What a run does about alarms: it warns, goes back, or stops."""

import json

import jax
import numpy as np
import pytest
from probes import probed

from jaxdistill import config as configs
from jaxdistill.eval import parse_alarm
from jaxdistill.eval.alarms import DEFAULTS
from jaxdistill.run.ask import probe
from jaxdistill.run.loop import Loop

# Of whole runs.


def guarded(tmp_path, **sets):
  config = configs.base_config('sqlm')
  config.steps, config.eval_every, config.checkpoint_every = 4, 4, 2
  config.method.problems, config.method.samples = 4, 4
  config.eval.splits, config.eval.problems, config.eval.samples = (
    ('test',),
    4,
    1,
  )
  config.guard.every, config.guard.problems, config.guard.samples = 2, 8, 2
  config.batch.sequences = 8
  config.alarms = dict.fromkeys(DEFAULTS, 'off')
  configs.override(config, sets.items())
  configs.check(config)
  return Loop(configs.build(config), tmp_path, config.to_dict())


def fired(root):
  if not (root / 'alarms.jsonl').exists():
    return []
  return [json.loads(x) for x in (root / 'alarms.jsonl').open()]


def same(left, right):
  pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
  return all(np.array_equal(a, b) for a, b in pairs)


ALWAYS = 'rollout/length > 0.1: '


def arrays(tree):
  return [np.array(x) for x in jax.tree.leaves(tree)]


def test_a_rollback_takes_the_best_version_and_a_smaller_step(mesh, tmp_path):
  # The window is three steps: seen at the end, before what would be step 3.
  sets = {'steps': 3, 'guard.every': 9, 'anchors.past': 'every:3'}
  loop = guarded(tmp_path, **sets, **{'alarms.x': ALWAYS + 'rollback'})
  before = arrays(loop.state.params)
  summary = loop.train()
  (only,) = fired(tmp_path)
  assert (only['step'], only['alarm'], only['action']) == (3, 'x', 'rollback')
  assert 'Went back to the version of step 0' in only['said']
  assert same(loop.state.params, before)
  assert float(loop.state.scale) == 0.5 and summary['rollbacks'] == 1
  assert int(loop.state.step) == 3  # the schedule's clock runs on
  assert not any(np.any(x) for x in arrays(loop.state.shared_opt[0].mu))
  # What was evaluated, saved, and what `past` became, is what was gone back to.
  kept = loop.checkpoints.restore(3, {'params': loop.state.params})[0]
  assert same(kept['params'], before)
  assert loop.anchors.held['past'] == 3
  assert same(loop.anchors.bank.restore('past', 3, kept['params']), before)
  assert loop._seen == {}  # a rule is not to go by the policy that was left
  logged = [json.loads(x) for x in (tmp_path / 'metrics.jsonl').open()]
  assert logged[-1]['guard/rollbacks'] == 1
  assert logged[-1]['guard/lr_scale'] == 0.5
  # No default alarm looks at what nobody logs; those of other methods are held
  # to that by their own tests.
  watched = {parse_alarm(text).metric for text in DEFAULTS.values()}
  own = {'selfplay', 'rollout', 'probe', 'train'}
  watched = {m for m in watched if m.split('/')[0] in own} - {'train/gap'}
  assert watched <= set().union(*logged)


def test_a_smaller_step_is_a_smaller_step(mesh, tmp_path):
  loop = guarded(tmp_path, **{'method.kl': 0.0})
  before = arrays(loop.state.params)
  (update, *_) = loop._collect(0).updates
  whole = loop.update(update)
  far = arrays(loop.state.params)

  again = guarded(tmp_path / 'again', **{'method.kl': 0.0})
  again.state = again.state._replace(scale=again.state.scale / 4)
  part = again.update(update)
  near = arrays(again.state.params)
  assert part[0]['lr'] == pytest.approx(whole[0]['lr'] / 4)
  moved = [np.abs(f - b).max() for f, b in zip(far, before, strict=True)]
  less = [np.abs(n - b).max() for n, b in zip(near, before, strict=True)]
  assert sum(m > 0 for m in moved) > 3
  np.testing.assert_allclose(less, np.array(moved) / 4, rtol=1e-2, atol=1e-8)


def test_alarms_that_do_not_act_only_warn(mesh, tmp_path):
  both = {'alarms.x': ALWAYS + 'rollback', 'alarms.y': ALWAYS + 'stop'}
  sets = {'guard.act': False, 'guard.window': 1, 'steps': 2, **both}
  loop = guarded(tmp_path, **sets)
  before = arrays(loop.state.params)
  summary = loop.train()
  assert [f['alarm'] for f in fired(tmp_path)] == ['x', 'y']  # once each
  assert all(f['action'] == 'warn' for f in fired(tmp_path))
  assert all('A warning' in f['said'] for f in fired(tmp_path))
  assert not same(loop.state.params, before)
  assert summary['rollbacks'] == 0 and not summary['stopped']


def test_what_goes_off_at_the_first_step_has_somewhere_to_go(mesh, tmp_path):
  unsure = 'probe/agreement > 0: rollback'
  loop = guarded(tmp_path, **{'steps': 1, 'alarms.x': unsure})
  before = arrays(loop.state.params)
  loop.train()
  assert [f['step'] for f in fired(tmp_path)] == [0, 1]
  assert same(loop.state.params, before)


def test_without_a_probe_nothing_goes_back(mesh, tmp_path):
  loud = {'guard.window': 1, 'alarms.x': ALWAYS + 'rollback', 'steps': 2}
  loop = guarded(tmp_path, **{'guard.every': 0}, **loud)
  before = arrays(loop.state.params)
  assert loop.train()['rollbacks'] == 0 and not same(loop.state.params, before)
  (only,) = fired(tmp_path)
  assert only['action'] == 'warn' and 'there is no probe' in only['said']


def test_held_out_accuracy_can_be_watched(mesh, tmp_path):
  high = 'eval/test/accuracy_sampled > 0.1: stop'
  loop = guarded(tmp_path, **{'alarms.x': high, 'eval_every': 1})
  assert loop.train()['stopped'] == 'x'
  assert [f['step'] for f in fired(tmp_path)] == [1]


def test_stop_ends_the_run_for_good(mesh, tmp_path):
  sets = {'guard.window': 1, 'alarms.y': ALWAYS + 'stop', 'checkpoint_every': 1}
  loop = guarded(tmp_path, **sets)
  before = arrays(loop.state.params)
  summary = loop.train()
  assert summary['stopped'] == 'y'
  assert same(loop.state.params, before)  # the best that the probe has seen
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(x)['step'] for x in lines] == [0, 1]
  assert 'eval/test/accuracy_greedy' in json.loads(lines[-1])
  again = guarded(tmp_path, **sets)
  assert again.finished() and again.train()['stopped'] == 'y'
  assert (tmp_path / 'metrics.jsonl').read_text().splitlines() == lines


def test_one_rollback_too_many_ends_the_run(mesh, tmp_path):
  loud = {'guard.window': 1, 'alarms.x': ALWAYS + 'rollback'}
  loop = guarded(tmp_path, **loud, **{'guard.rollbacks': 1})
  before = arrays(loop.state.params)
  summary = loop.train()
  assert [f['step'] for f in fired(tmp_path)] == [1, 2]
  assert summary['rollbacks'] == 2 and summary['stopped'] == '2 rollbacks'
  assert 'the run ends' in fired(tmp_path)[-1]['said']
  assert same(loop.state.params, before)


def test_the_guard_is_taken_when_the_probe_is_best(mesh, tmp_path, monkeypatch):
  """The probe is scripted: better at step 2, worse at the end."""
  scores = iter((4, 6, 2))

  def scripted(run, player):
    found = probed(next(scores), of=8)
    return {f'probe/{k}': float(np.mean(v)) for k, v in found.items()}, found

  monkeypatch.setattr('jaxdistill.run.guard.probe', scripted)
  loop = guarded(tmp_path, **{'steps': 4, 'keep_checkpoints': 1})
  taken = {}
  move = loop.anchors.move

  def watched(name, step, policy, keep=None):
    taken[step] = arrays(policy)
    move(name, step, policy, keep)

  monkeypatch.setattr(loop.anchors, 'move', watched)
  loop.train()
  assert list(taken) == [0, 2] and not same(taken[0], taken[2])
  assert not fired(tmp_path)  # all alarms are off, and yet it ends on its best
  last = json.loads((tmp_path / 'metrics.jsonl').read_text().splitlines()[-1])
  assert (last['step'], last['guard/kept']) == (4, 2)
  assert same(loop.state.params, taken[2])


def test_followers_of_a_policy_that_was_left_are_taken_along(
  mesh, tmp_path, monkeypatch
):
  """But for those that have chosen for themselves."""
  sets = {'method.reference': 'ema:0.5', 'guard.every': 9, 'steps': 3}
  best = {'anchors.best': 'best:test/accuracy_greedy', 'eval_every': 1}
  loop = guarded(tmp_path, **sets, **best, **{'alarms.x': ALWAYS + 'rollback'})
  before = arrays(loop.state.params)
  measured = iter((0.1, 0.2, 0.1, 0.1))
  monkeypatch.setattr(
    'jaxdistill.run.loop.evaluate',
    lambda run, player: {'eval/test/accuracy_greedy': next(measured)},
  )
  loop.train()
  assert same(loop.anchors.params['base'], before)
  assert loop.anchors.held['best'] == 1


def test_a_run_that_went_back_resumes_exactly(mesh, tmp_path, monkeypatch):
  """Killed after its first rollback, before its second look."""
  sets = {'steps': 6, 'checkpoint_every': 1, 'alarms.x': ALWAYS + 'rollback'}
  whole = guarded(tmp_path / 'whole', **sets)
  whole.train()
  assert [f['step'] for f in fired(tmp_path / 'whole')] == [3, 6]

  cut = guarded(tmp_path / 'cut', **sets)
  collect = type(cut.run.method).collect

  def dies(self, players, problems, state, step, key):
    if step == 4:
      raise KeyboardInterrupt
    return collect(self, players, problems, state, step, key)

  with monkeypatch.context() as patch:
    patch.setattr(type(cut.run.method), 'collect', dies)
    with pytest.raises(KeyboardInterrupt):
      cut.train()
  again = guarded(tmp_path / 'cut', **sets)
  assert again.first_step in (3, 4)
  again.train()
  assert same(whole.state, again.state)
  assert whole.guard.alarms.state() == again.guard.alarms.state()
  assert fired(tmp_path / 'whole') == fired(tmp_path / 'cut')


def test_a_probe_asks_the_same_of_everyone(mesh, tmp_path):
  loop = guarded(tmp_path)
  player = loop.player(loop.state.params)
  metrics, by_problem = probe(loop.run, player)
  assert probe(loop.run, player) == (metrics, by_problem)
  assert {len(v) for v in by_problem.values()} == {8}
  for name, values in by_problem.items():
    assert metrics[f'probe/{name}'] == pytest.approx(np.mean(values))
  gap = metrics['probe/vote_share'] - metrics['probe/vote_accuracy']
  assert metrics['probe/overconfidence'] == pytest.approx(gap)


def test_a_task_without_dev_problems_has_no_probe(mesh, tmp_path):
  lines = [{'text': f'{i}+1', 'answer': i + 1} for i in range(2, 9)]
  lines.append({'text': '1+1', 'answer': 2, 'split': 'test'})
  file = tmp_path / 'sums.jsonl'
  file.write_text(''.join(json.dumps(x) + '\n' for x in lines))
  config = configs.base_config('grpo')
  config.task, config.eval.splits = str(file), ('test',)
  assert configs.build(config).guard.every == 0

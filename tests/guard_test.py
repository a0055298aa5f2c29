"""Alarms: when they go off, what they say, and what a run does about it."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxdistill import config as configs
from jaxdistill.eval import Alarms, parse_alarm
from jaxdistill.eval.alarms import _WHY, DEFAULTS, PROBED
from jaxdistill.run.ask import probe
from jaxdistill.run.loop import Loop


def alarms(window=1, errors=2.0, **texts):
  rules = {name: parse_alarm(text) for name, text in texts.items()}
  return Alarms({n: r for n, r in rules.items() if r}, window, errors)


def probed(right, of=100, sampled=None):
  """A look at a probe: the first `right` of its problems are solved."""
  greedy = [1.0] * right + [0.0] * (of - right)
  sampled = greedy if sampled is None else [sampled] * of
  kinds = ('accuracy_greedy', 'accuracy_sampled', 'vote_accuracy')
  return dict(zip(kinds, (greedy, sampled, greedy), strict=True))


def names(fired):
  return [f.alarm for f in fired]


@pytest.mark.parametrize(
  ('text', 'parts'),
  [
    (
      'selfplay/valid < 0.5: warn',
      ('selfplay/valid', '<', 0.5, False, 0, 'warn'),
    ),
    ('train/kl_base > 2: stop', ('train/kl_base', '>', 2.0, False, 0, 'stop')),
    ('a/b < .5 x first: warn', ('a/b', '<', 0.5, True, 0, 'warn')),
    ('a/b > 3 x 12 steps ago: stop', ('a/b', '>', 3.0, False, 12, 'stop')),
    ('a/b < 1 x 1 step ago: warn', ('a/b', '<', 1.0, False, 1, 'warn')),
    (
      'probe/vote_accuracy falls 0.05: rollback',
      ('probe/vote_accuracy', 'falls', 0.05, False, 0, 'rollback'),
    ),
  ],
)
def test_alarms_are_read(text, parts):
  assert dataclasses.astuple(parse_alarm(text)) == parts


@pytest.mark.parametrize(
  'text',
  [
    *('', 'on', 'a/b < 0.5', 'a/b = 1: warn', 'a/b < -1: warn', 'ab < 1: warn'),
    *('a/b < x: warn', 'a/b < 1: explode', 'a/b < 1 x last: warn'),
    *('a/b falls .1: warn', 'probe/agreement falls .1: warn'),
    *('time/step_s > 9: warn', 'rollout/tokens_per_s < 9: stop'),
    'probe/accuracy_greedy falls .1 x first: warn',
    *('a/b < 1 x 0 steps ago: warn', 'a/b < 1 x 20 steps: warn'),
    *('a/b < 1 x first x 2 steps ago: warn', 'a/b < 20 steps ago: warn'),
    'a/b < 1 x 123456 steps ago: warn',
    'probe/accuracy_greedy falls .1 x 2 steps ago: warn',
    # Not looked at at every step.
    *(
      'probe/agreement < 1 x 9 steps ago: warn',
      'eval/a/b > 1 x 9 steps ago: warn',
    ),
  ],
)
def test_what_is_no_alarm_is_refused(text):
  with pytest.raises(ValueError, match='alarm'):
    parse_alarm(text)


def test_off_is_no_alarm_and_all_defaults_are_some():
  assert parse_alarm('off') is None
  assert all(parse_alarm(text) for text in DEFAULTS.values())


def test_what_falls_has_a_reason_to_be_said():
  assert {f'probe/{name}' for name in PROBED} <= _WHY.keys()


def test_a_level_is_the_mean_of_its_window():
  watch = alarms(window=3, low='a/b < 0.5: warn')
  values = (0.0, 0.9, 0.9, 0.0, 0.3)  # means: none, none, .6, .6, .4
  fired = [watch.look({'a/b': v}, {}) for v in values]
  assert [names(f) for f in fired] == [[], [], [], [], ['low']]
  (last,) = fired[-1]
  assert last.seen == pytest.approx(0.4) and last.limit == 0.5
  assert last.said == 'a b is 0.4, below 0.5'


def test_a_level_against_the_first_steps():
  watch = alarms(window=2, long='rollout/length > 2 x first: warn')
  values = (8, 12, 20, 22)  # first: 10; means: 10, 16, 21
  fired = [names(watch.look({'rollout/length': v}, {})) for v in values]
  assert fired == [[], [], [], ['long']]
  # What began at nothing has no share to fall to.
  watch = alarms(none='rollout/markers < 0.5 x first: warn')
  assert not any(watch.look({'rollout/markers': 0.0}, {}) for _ in range(3))


def ago(*values, window=1, text='a/b < 0.7 x 3 steps ago: warn'):
  """At which of the values an alarm goes off."""
  watch = alarms(window=window, fast=text)
  fired = [watch.look({'a/b': v}, {}) for v in values]
  return [i for i, f in enumerate(fired) if f], [x for f in fired for x in f]


def test_a_level_against_what_it_was_some_steps_ago():
  # 7.5 < .7 x 11 at step 4, and 4.5 < .7 x 6.6 after it has passed.
  at, (first, second) = ago(10, 11, 9, 8, 7.5, 6.6, 6, 5.5, 4.5)
  assert at == [4, 8]
  assert (first.seen, first.limit) == (7.5, pytest.approx(7.7))
  assert first.said == 'a b is 7.5, below 0.7 x what it was 3 steps ago (11)'
  assert second.limit == pytest.approx(0.7 * 6.6)
  assert ago(1, 2, 3, 4, text='a/b > 2.9 x 2 steps ago: warn')[0] == [2]
  # A fall that is slow enough is none, however far it goes.
  assert not ago(*0.9 ** np.arange(60))[0]
  assert ago(*0.88 ** np.arange(60))[0] == [3]  # .88^3 < .7


def test_a_young_level_is_compared_with_what_it_began_with():
  at, (only,) = ago(10, 6, 6)
  assert at == [1] and '1 steps ago (10)' in only.said
  # Means of two: 10, 8, then 6, which is compared with the first of them.
  at, (only,) = ago(10, 10, 6, 6, window=2)
  assert at == [3] and (only.seen, only.limit) == (6, 7)


def test_what_was_nothing_some_steps_ago_has_no_share_to_fall_to():
  assert not ago(0, 0, 0, 0, 0)[0]
  assert not ago(0, 0, 0, 5, 4, 4.5)[0]  # of 0, and then not yet of 5
  rises = 'a/b > 2 x 3 steps ago: warn'
  assert not ago(0, 0, 1, 2, 3, text=rises)[0]


def test_after_a_rollback_a_level_is_young_again():
  watch = alarms(fast='a/b < 0.7 x 3 steps ago: warn')
  assert not any(watch.look({'a/b': v}, {}) for v in (10, 10, 10))
  watch.went_back()
  assert not watch.look({'a/b': 5}, {})
  assert watch.look({'a/b': 3}, {})


@pytest.mark.parametrize(
  ('name', 'metric', 'ring', 'not_yet'),
  [
    ('canary_length', 'rollout/length', 69, 71),
    ('canary_markers', 'rollout/markers', 49, 51),
  ],
)
def test_the_canary(name, metric, ring, not_yet):
  def last(value, steps):
    watch = alarms(window=3, **{name: DEFAULTS[name]})
    values = [100] * 3 + [90] * steps + [value] * 3
    return [f for v in values for f in watch.look({metric: v}, {})]

  (fired,) = last(ring, 17)
  assert fired.alarm == name and fired.action == 'warn'
  assert '20 steps ago (100): ' in fired.said and 'later' in fired.said
  assert not last(not_yet, 17)
  assert not last(ring, 20)  # what it was is 90 by then


def test_an_alarm_is_silent_until_what_it_saw_has_passed():
  watch = alarms(low='a/b < 0.5: warn')
  values = (0.4, 0.3, None, 0.2, 0.6, 0.4)
  fired = [watch.look({} if v is None else {'a/b': v}, {}) for v in values]
  assert [bool(f) for f in fired] == [True, False, False, False, False, True]


def test_values_that_are_not_finite_are_not_looked_at():
  watch = alarms(low='a/b < 0.5: warn')
  assert not watch.look({'a/b': float('nan')}, {})
  assert watch.look({'a/b': 0.1}, {})


@pytest.mark.parametrize(
  ('right', 'goes'),
  # Of 100, 80 were right. 4 lost: .04 > .03, and .04 / .0197 = 2.03 errors;
  # 3 lost: .03 is not more than .03.
  [(80, False), (77, False), (76, True), (60, True), (90, False)],
)
def test_a_fall_beyond_its_value_and_the_noise(right, goes):
  watch = alarms(fall='probe/accuracy_greedy falls 0.03: rollback')
  assert watch.improved(probed(80))
  assert names(watch.look({}, probed(right))) == ['fall'] * goes


def test_a_fall_within_the_noise_is_none():
  """Half of 20 problems lost, nearly as many won: four net, within noise."""
  watch = alarms(fall='probe/accuracy_greedy falls 0.03: rollback')
  before = [1.0] * 10 + [0.0] * 10
  after = [0.0] * 9 + [1.0] * 6 + [0.0] * 5
  kinds = ('accuracy_greedy', 'accuracy_sampled', 'vote_accuracy')
  watch.improved(dict.fromkeys(kinds, before))
  now = dict.fromkeys(kinds, after)
  lost = np.array(before) - np.array(after)
  assert lost.mean() == pytest.approx(0.2)
  assert 2 * lost.std(ddof=1) / np.sqrt(20) > 0.2  # by the textbook
  assert not watch.look({}, now)
  sure = alarms(errors=0.5, fall='probe/accuracy_greedy falls 0.03: rollback')
  sure.improved(dict.fromkeys(kinds, before))
  assert sure.look({}, now)


def test_what_the_best_version_is():
  """Of 100 problems: greedy + sampled."""
  watch = alarms()
  assert watch.improved(probed(80, sampled=0.5))
  assert watch.improved(probed(80, sampled=0.5))  # the newest of equals
  assert not watch.improved(probed(85, sampled=0.4))
  assert watch.improved(probed(85, sampled=0.5))
  assert watch.improved(probed(84, sampled=0.6))
  assert np.mean(watch.best['accuracy_sampled']) == pytest.approx(0.6)


def test_small_greedy_losses_do_not_add_up_unseen():
  watch = alarms(fall='probe/accuracy_greedy falls 0.03: rollback')
  for right, sampled in ((80, 0.3), (78, 0.4), (77, 0.5)):
    assert not watch.look({}, probed(right, sampled=sampled))
    assert watch.improved(probed(right, sampled=sampled))
  # One less than the last best version has, but 4 less than the first.
  assert names(watch.look({}, probed(76, sampled=0.6))) == ['fall']


@pytest.mark.parametrize(
  ('votes', 'blamed'),
  [
    ((0.8, 0.8), 'the step is too large'),
    ((0.8, 0.6), 'the vote is to blame'),
    ((0.4, 0.4), 'the vote is to blame'),
    ((), 'losing what it knew. '),
  ],
)
def test_a_fall_says_whose_fault_it_is(votes, blamed):
  watch = alarms(fall='probe/accuracy_greedy falls 0.03: rollback')
  watch.improved(probed(80))
  for v in votes:
    watch.look({'selfplay/vote_accuracy': v}, {})
  (fired,) = watch.look({}, probed(40))
  assert blamed in fired.said + '. '


def test_memory_survives_json():
  texts = {
    'low': 'a/b < 0.5: warn',
    'long': 'c/d > 2 x first: warn',
    'fast': 'e/f < 0.5 x 4 steps ago: warn',
  }
  watch = alarms(window=2, **texts)
  for v in (1.0, 0.9, 0.8, 0.7, 0.6, 0.4):
    watch.look({'a/b': v, 'c/d': v, 'e/f': v}, {})
  watch.improved(probed(3, of=4))
  state = json.loads(json.dumps(watch.state()))
  again = alarms(window=2, **texts)
  again.resume(state)
  assert again.state() == watch.state()
  for v in (0.3, 0.2, 9.0):
    seen = {'a/b': v, 'c/d': 5.0, 'e/f': v}
    found = watch.look(seen, {})
    assert again.look(seen, {}) == found
    assert (v == 0.3) == ('fast' in names(found))


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
  # No default alarm looks at what nobody logs.
  watched = {parse_alarm(text).metric for text in DEFAULTS.values()}
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

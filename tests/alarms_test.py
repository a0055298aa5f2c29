"""Alarms: when they go off, and what they say."""

import dataclasses
import json

import numpy as np
import pytest
from probes import probed

from jaxdistill.eval import Alarms, parse_alarm
from jaxdistill.eval.alarms import _WHY, DEFAULTS, PROBED


def alarms(window=1, errors=2.0, **texts):
  rules = {name: parse_alarm(text) for name, text in texts.items()}
  return Alarms({n: r for n, r in rules.items() if r}, window, errors)


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


# Levels by step: of a run that goes well, and of one that does not.
SINGLE = {
  'no_gap': ((0.24, 0.1, 0.05), (0.02, 0.0, -0.02)),
  'spoilt': ((0.1, 0.05, 0.02), (0.1, 0.5, 0.6)),
  'turned': ((0.3, 0.35, 0.4), (0.4, 0.6, 0.7)),
  'longer': ((0.6, 0.55, 0.5), (0.8, 0.9, 1.0)),
  'shorter': ((0.6, 0.55, 0.5), (0.3, 0.1, 0.0)),
  'unread': ((0.1, 0.0, 0.0), (0.1, 0.4, 0.6)),
  'no_edit': ((0.6, 0.5, 0.6), (0.1, 0.0, 0.1)),
  'void_edits': ((0.0, 0.1, 0.0), (0.3, 0.5, 0.6)),
  'forgotten': ((0.0, 0.05, 0.1), (0.1, 0.2, 0.25)),
  'misjudged': ((0.9, 0.7, 0.6), (0.6, 0.45, 0.4)),
  'no_pair': ((0.9, 0.88, 0.9, 0.9), (0.9, 0.88, 0.9, 0.6, 0.4, 0.3)),
  'alike': ((0.5, 0.5, 0.45, 0.4), (0.5, 0.5, 0.5, 0.2, 0.2, 0.2)),
  'filtered': ((0.8, 0.7, 0.75), (0.1, 0.05, 0.0)),
  'malformed': ((0.3, 0.3, 0.2), (0.5, 0.6, 0.8)),
  'repeated': ((0.0, 0.1, 0.1), (0.4, 0.6, 0.8)),
}


def test_every_alarm_of_a_single_method_is_tried():
  names = [*DEFAULTS]
  assert names[names.index('drift') + 1 :] == [*SINGLE]


@pytest.mark.parametrize('name', SINGLE)
def test_alarms_of_single_methods(name):
  metric = parse_alarm(DEFAULTS[name]).metric

  def rung(values):
    watch = alarms(window=3, **{name: DEFAULTS[name]})
    return [f for v in values for f in watch.look({metric: v}, {})]

  well, ill = SINGLE[name]
  assert not rung(well)
  (first, *_) = rung(ill)
  assert first.alarm == name and first.action == 'warn'
  assert first.said.partition(': ')[2]  # why it matters


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


def test_alarms_of_ones_own_on_what_nobody_logs_are_named():
  watch = alarms(mine='train/grad_nrm > 1: stop', fine='train/loss > 1: warn')
  (line,) = watch.unseen(['train/loss', 'train/grad_norm'])
  assert line.startswith('alarm mine: the first step has not logged train/')
  assert line.endswith("the nearest is 'train/grad_norm'")
  # Those that there are by default watch what other methods log.
  assert not alarms(longer=DEFAULTS['longer']).unseen([])

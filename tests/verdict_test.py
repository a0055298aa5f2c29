"""What a run came to, in words: by values whose noise is known."""

import pytest
from accounts import ALARM, CONFIG, GREEDY, SAMPLED, SUMMARY, evaluated
from scipy import stats

from jaxdistill.plots import intervals
from jaxdistill.plots.verdict import verdict


@pytest.mark.parametrize(('right', 'n'), [(50, 100), (0, 20), (254, 256)])
def test_binomial_is_wilson_s(right, n):
  wanted = stats.binomtest(right, n).proportion_ci(method='wilson')
  assert intervals.binomial(right / n, n) == pytest.approx(tuple(wanted))


def test_change_is_newcombe_s():
  # 50 and 60 of 100, by hand from their bounds by Wilson.
  (a, b), (c, d) = (0.4038, 0.5962), (0.5020, 0.6906)
  wanted = (
    0.1 - ((0.6 - c) ** 2 + (b - 0.5) ** 2) ** 0.5,
    0.1 + ((d - 0.6) ** 2 + (0.5 - a) ** 2) ** 0.5,
  )
  around = [intervals.binomial(share, 100) for share in (0.5, 0.6)]
  found = intervals.change(0.5, around[0], 0.6, around[1])
  assert found == pytest.approx(wanted, abs=2e-4)


@pytest.mark.parametrize(
  ('pairs', 'headline', 'tone'),
  [
    ([(0.5, 0.9), (0.8, 0.9)], 'It got better.', 'up'),
    ([(0.5, 0.9), (0.55, 0.6)], 'It got worse.', 'down'),
    ([(0.5, 0.5), (0.6, 0.6)], 'No change beyond noise.', 'flat'),
    (
      [(0.2, 0.9), (0.8, 0.5)],
      'Better in one way and worse in another.',
      'down',
    ),
    (
      [(0.5, 0.5)],
      'It was measured only once: there is no change to see yet.',
      'flat',
    ),
  ],
)
def test_the_headline(pairs, headline, tone):
  found = verdict(CONFIG, evaluated(*pairs), [], SUMMARY)
  assert (found['headline'], found['tone']) == (headline, tone)


def test_a_fall_that_was_put_back_is_no_missing_change():
  metrics = evaluated((0.5, 0.9), (0.2, 0.4), (0.5, 0.9))
  found = verdict(CONFIG, metrics, [ALARM], SUMMARY)
  assert found['headline'] == (
    'No change beyond noise; the guard put back a version before.'
  )
  found = verdict(CONFIG, metrics, [ALARM | {'action': 'warn'}], SUMMARY)
  assert found['headline'] == 'No change beyond noise.'


def test_what_two_attempts_differ_by_is_shown_and_decides_nothing():
  def line(step, second, up, down):
    kinds = {
      **{'accuracy_turn_2': second, 'delta': up - down},
      **{'wrong_to_right': up, 'right_to_wrong': down},
    }
    return {'step': step} | {
      f'eval/test/{k}_sampled': v for k, v in kinds.items()
    }

  metrics = [line(0, 0.3, 0.25, 0.05), line(1, 0.6, 0.02, 0.04)]
  found = verdict(CONFIG, metrics, [], SUMMARY)
  assert found['headline'] == 'It got better.'
  assert len(found['lead']) == 1
  second, delta = found['rows']
  assert delta['signed'] and not second['signed']
  # 100 pairs, 25 up and 5 down: by hand with half a pair more in each cell.
  share, size = 20 / 102, 102
  half = 1.959964 * ((31 / size - share**2) / size) ** 0.5
  wanted = 0.2, (share - half, share + half)
  assert delta['began'][0] == pytest.approx(wanted[0])
  assert delta['began'][1] == pytest.approx(wanted[1])
  assert delta['way'] == 'down'


def test_what_judges_itself_decides_nothing():
  def line(step, right, win, judge):
    names = {'accuracy_sampled': right, 'win_rate': win}
    names |= {'judge_accuracy': judge}
    return {'step': step} | {f'eval/test/{k}': v for k, v in names.items()}

  metrics = [line(0, 0.5, 0.5, 0.6), line(1, 0.48, 0.9, 0.9)]
  found = verdict(CONFIG, metrics, [], SUMMARY)
  assert found['headline'] == 'No change beyond noise.'
  _, judge, win = found['rows']
  assert judge['way'] == 'unknown' and judge['began'] == (0.6, None)
  assert win['way'] == 'up'
  assert win['began'] == (0.5, intervals.binomial(0.5, 100))


def test_a_version_that_was_put_back_is_said_so():
  metrics = evaluated((0.5, 0.9), (0.5, 0.9))
  metrics[-1]['guard/kept'] = 0
  found = verdict(CONFIG, metrics, [], SUMMARY)
  assert 'ends with its version of step 0' in ' '.join(found['lead'])
  metrics[-1]['guard/kept'] = 1  # the last: nothing to say
  found = verdict(CONFIG, metrics, [], SUMMARY)
  assert 'its version of step' not in ' '.join(found['lead'])


def test_where_it_began_ended_and_was_best():
  metrics = evaluated((0.5, 0.9), (0.9, 0.92), (None, None), (0.6, 0.9))
  found = verdict(CONFIG, metrics, [], SUMMARY)
  sampled, greedy = found['rows']
  assert sampled['began'][0] == 0.5 and sampled['ended'][0] == 0.6
  assert sampled['best'] == (0.9, 1)
  assert sampled['began'][1] == intervals.binomial(0.5, 100)
  assert sampled['fell_from_best'] and not greedy['fell_from_best']
  assert found['lead'] == [
    'Sampled answers: 50.0% → 60.0% right (within noise); ended 30.0 points '
    'below its best, beyond noise.',
    'Greedy answer: 90.0% → 90.0% right (within noise); ended 2.0 points below '
    'its best, which may be noise.',
  ]


def test_the_verdict_is_of_the_test_split():
  metrics = [
    {'step': 0, 'eval/ood/accuracy_greedy': 0.9, GREEDY: 0.5},
    {'step': 1, 'eval/ood/accuracy_greedy': 0.1, GREEDY: 0.5},
  ]
  config = CONFIG | {'eval': {'problems': 100, 'splits': ['ood', 'test']}}
  found = verdict(config, metrics, [], SUMMARY)
  assert found['headline'] == 'No change beyond noise.'
  assert [row['split'] for row in found['rows']] == [
    *('held out', 'out of distribution')
  ]
  assert found['rows'][1]['way'] == 'down'


def test_a_split_says_how_many_problems_it_has():
  metrics = [{'step': s, GREEDY: v} for s, v in ((0, 0.5), (1, 0.6))]
  metrics[1]['eval/test/problems'] = 2000
  few = verdict(CONFIG, [metrics[0], {'step': 1, GREEDY: 0.6}], [], SUMMARY)
  many = verdict(CONFIG, metrics, [], SUMMARY)
  assert few['rows'][0]['way'] == 'flat' and many['rows'][0]['way'] == 'up'


def test_without_a_number_of_problems_noise_is_unknown():
  found = verdict({}, evaluated((0.1, 0.1), (0.9, 0.9)), [], SUMMARY)
  assert (
    found['headline'] == 'Whether a change is more than noise cannot be said.'
  )
  assert found['rows'][0]['began'] == (0.1, None)


def test_what_must_be_known_of_a_run():
  metrics = [
    {
      'step': i,
      'eval/test/cut': cut,
      'selfplay/valid': 1.0 if i < 4 else 0.25,
      'selfplay/vote_accuracy': 0.75,
      'rollout/cut': 0.1,
      'train/loss': None if i == 2 else 1.0,
    }
    for i, cut in enumerate((0.9, 0.9, 0.9, 0.9, 0.9, 0.25))
  ]
  found = verdict(CONFIG, metrics, [], SUMMARY | {'optimizer_steps': 0})
  texts = [text for tone, text in found['notes'] if tone == 'warn']
  assert texts == [
    'Nothing was learned: no step had an answer to train on.',
    'The loss was not finite at 1 of 6 steps.',
    'Only 25% of its proposals could be asked towards the end.',
  ]
  # What it learned may have been added to its weights as it is.
  adopted = SUMMARY | {'optimizer_steps': 0, 'adopted': 6}
  found = verdict(CONFIG, metrics, [], adopted)
  assert found['notes'][0][1].startswith('The loss was not finite')
  found = verdict(CONFIG, [x | {SAMPLED: 0.5} for x in metrics], [], SUMMARY)
  assert found['notes'][0][1] == (
    '25% of the held-out answers were cut at eval.max_tokens (64) and count as '
    'wrong.'
  )


def test_what_the_alarms_did():
  warning = ALARM | {'step': 0, 'action': 'warn'}
  found = verdict(CONFIG, [], [warning, warning, ALARM], {})
  assert [text for _, text in found['notes']] == [
    'Alarms went off 3 times: 1 rollback, 2 warnings.',
    'The last rollback, at step 1 (greedy): It is losing what it knew. Went '
    'back to step 0.',
  ]
  quiet = verdict(CONFIG | {'alarms': {'greedy': 'x'}}, [], [], {})
  assert quiet['notes'] == [('plain', 'No alarm went off.')]
  assert verdict(CONFIG, [], [], {})['notes'] == []

"""When anchors move, and how a run that goes on finds them."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from snapshots import assert_equal, values

from jaxdistill.anchors import (
  Anchors,
  Bank,
  Best,
  Ema,
  Every,
  League,
  Trust,
  parse_rule,
)


@pytest.mark.parametrize(
  ('text', 'rule'),
  [
    ('frozen', Every(0)),
    ('every:1', Every(1)),
    ('every:20', Every(20)),
    ('league:5', League(5)),
    ('ema:0.9', Ema(0.9)),
    ('ema:1e-3', Ema(0.001)),
    ('trust:0.05', Trust(0.05)),
    ('trust:2', Trust(2.0)),
    ('best:dev/accuracy_greedy', Best('dev/accuracy_greedy')),
    ('best:ood/pass_at/8', Best('ood/pass_at/8')),
  ],
)
def test_rules_are_read(text, rule):
  assert parse_rule(text) == rule
  assert parse_rule(text).blends == text.startswith('ema')


@pytest.mark.parametrize(
  'text',
  [
    *('', '20', 'never', 'Frozen', 'frozen:', 'frozen:3'),
    *('every', 'every:', 'every:0', 'every:-1', 'every:2.5', 'every:x'),
    *('league', 'league:', 'league:0', 'league:-2', 'league:1.5'),
    *('ema', 'ema:', 'ema:0', 'ema:1', 'ema:1.5', 'ema:-0.5', 'ema:x'),
    *('ema:nan', 'ema:inf', 'ema:0.9:1'),
    *('trust', 'trust:', 'trust:0', 'trust:-1', 'trust:nan', 'trust:inf'),
    *('best', 'best:', 'best:dev', 'best:dev/', 'best:/accuracy'),
  ],
)
def test_other_rules_are_refused(text):
  with pytest.raises(ValueError, match='; it must be frozen, every') as error:
    parse_rule(text)
  assert repr(text) in str(error.value)
  for form in ('frozen', 'every:K', 'league:K', 'ema:', 'trust:', 'best:'):
    assert form in str(error.value)


def policy(step):
  return {'x': jnp.arange(3.0) + step**2}


def make_anchors(bank, rule, at_hand=('a',), seed=0):
  return Anchors(bank, {'a': parse_rule(rule)}, at_hand, seed)


def held(anchors, seen):
  """What the anchor holds after each of some steps."""
  out = []
  for step, metrics in enumerate(seen):
    anchors.refresh(step, policy(step), metrics, 0)
    out.append(anchors.held['a'])
  anchors.bank.wait()
  return out


@pytest.mark.parametrize(
  ('rule', 'steps'),
  [
    ('frozen', [0, 0, 0, 0, 0, 0, 0, 0]),
    ('every:1', [0, 1, 2, 3, 4, 5, 6, 7]),
    ('every:3', [0, 0, 0, 3, 3, 3, 6, 6]),
  ],
)
def test_what_an_anchor_holds_by_hand(bank, rule, steps):
  anchors = make_anchors(bank, rule)
  for step, wanted in enumerate(steps):
    anchors.refresh(step, policy(step), {}, 0)
    assert anchors.held == {'a': wanted}
    assert_equal(anchors.params, {'a': policy(wanted)})
  bank.wait()
  assert bank.steps('a') == sorted(set(steps))


def test_a_moving_average_by_hand(bank):
  anchors = make_anchors(bank, 'ema:0.75')
  for step, (now, wanted) in enumerate(
    [(4.0, 4.0), (8.0, 5.0), (1.0, 4.0), (4.0, 4.0), (0.0, 3.0)]
  ):
    anchors.refresh(step, {'x': jnp.array([now, 0.0])}, {}, 0)
    np.testing.assert_allclose(anchors.params['a']['x'], [wanted, 0])
  bank.wait()
  assert bank.steps('a') == [0]


def test_trust_moves_once_the_divergence_passes_its_radius(bank):
  far = {'train/kl_a': 0.3}
  seen = [
    {},
    {'train/kl_a': 0.1},  # not past it
    {'train/kl_a': 0.11},
    {'train/kl_b': 9.0},  # another's
    {'train/kl': 9.0},
    *(far, far, {}),
  ]
  anchors = make_anchors(bank, 'trust:0.1')
  assert held(anchors, seen) == [0, 0, 2, 2, 2, 5, 6, 6]
  assert_equal(anchors.params['a'], policy(6))
  assert bank.steps('a') == [0, 2, 5, 6]


def test_best_moves_only_when_it_is_better(bank):
  scores = [0.5, None, 0.5, 0.6, 0.4, 0.59, 0.61, None]
  seen = [{} if s is None else {'eval/dev/a': s} for s in scores]
  anchors = make_anchors(bank, 'best:dev/a')
  assert held(anchors, seen) == [0, 0, 0, 3, 3, 3, 6, 6]
  assert_equal(anchors.params['a'], policy(6))


def test_best_moves_at_the_first_evaluation_whatever_it_says(bank):
  seen = [{}, {'eval/test/a': 0.9}, {'eval/dev/a': 0.0}, {'eval/dev/a': 0.0}]
  assert held(make_anchors(bank, 'best:dev/a'), seen) == [0, 0, 2, 2]


def test_a_league_draws_among_its_past_versions(bank):
  anchors = make_anchors(bank, 'league:15')
  drawn = []
  for step in range(45):
    anchors.refresh(step, policy(step), {}, 0)
    drawn.append(anchors.held['a'])
    assert drawn[-1] in range(0, step + 1, 15)
    assert_equal(anchors.params['a'], policy(drawn[-1]))
  assert set(drawn[15:30]) == {0, 15}
  assert set(drawn[30:]) == {0, 15, 30}
  assert bank.steps('a') == [0, 15, 30]


def test_a_seed_gives_a_league_its_draws(tmp_path):
  first, same, other = (
    held(make_anchors(Bank(tmp_path / n), 'league:2', seed=s), [{}] * 16)
    for n, s in (('first', 3), ('same', 3), ('other', 4))
  )
  assert first == same != other


RULES = ('frozen', 'every:3', 'ema:0.5', 'trust:0.1', 'best:dev/a', 'league:2')


def scripted(step):
  """Metrics that move an anchor by each rule that looks at them."""
  kl = (0.0, 0.05, 0.2, 0.05, 0.0, 0.3, 0.2, 0.05, 0.4)[step]
  best = {0: 0.1, 2: 0.3, 4: 0.2, 6: 0.3, 7: 0.4}
  score = {'eval/dev/a': best[step]} if step in best else {}
  return {'train/kl_a': kl} | score


@pytest.mark.parametrize('rule', RULES)
def test_anchors_outlive_the_policy_that_they_were(bank, rule):
  anchors = make_anchors(bank, rule)
  for step in range(4):
    now = policy(step)
    anchors.refresh(step, now, scripted(step), 0)
    before = values(anchors.params)
    now['x'].delete()  # as a step does that it is donated to
    assert_equal(anchors.params, before)
  bank.wait()
  for step in bank.steps('a'):
    assert_equal(bank.restore('a', step, policy(0)), policy(step))


@pytest.mark.parametrize('rule', ['every:2', 'league:2'])
def test_what_no_method_asks_for_is_a_snapshot_only(bank, rule):
  anchors = make_anchors(bank, rule, at_hand=('b',))
  assert held(anchors, [{}] * 6) == [0, 0, 2, 2, 4, 4]
  assert anchors.params == {}
  record = anchors.save(6)
  assert bank.steps('a') == [0, 2, 4]
  again = make_anchors(bank, rule, at_hand=('b',))
  again.resume(6, record, policy(0))
  assert again.params == {}
  assert again.held == {'a': 4}


def test_each_anchor_moves_by_its_own_rule(bank):
  rules = {'old': 'frozen', 'new': 'every:2', 'far': 'trust:1', 'b': 'trust:1'}
  rules = {name: parse_rule(rule) for name, rule in rules.items()}
  anchors = Anchors(bank, rules, ('old', 'new', 'far'), 0)
  for step in range(4):
    seen = {'train/kl_far': float(3 * (step == 1)), 'train/kl_b': float(step)}
    anchors.refresh(step, policy(step), seen, 0)
  bank.wait()
  assert anchors.held == {'old': 0, 'new': 2, 'far': 1, 'b': 3}
  held = {'far': policy(1), 'new': policy(2), 'old': policy(0)}
  assert_equal(anchors.params, held)
  assert bank.listing() == 'b@0 b@2 b@3 far@0 far@1 new@0 new@2 old@0'


def go_on(anchors, start, saves=None):
  """Refreshes to step 8; who the anchor is then, and what is at hand."""
  out = {}
  for step in range(start, 9):
    if saves is not None and step:
      # As it is read back from a checkpoint.
      saves[step] = json.loads(json.dumps(anchors.save(step)))
    anchors.refresh(step, policy(step), scripted(step), 0)
    out[step] = anchors.held['a'], values(anchors.params['a'])
  anchors.bank.wait()
  return out


def assert_same_course(found, wanted, held_too=True):
  for step, (who, params) in found.items():
    assert who == wanted[step][0] or not held_too, step
    assert_equal(params, wanted[step][1])


@pytest.mark.parametrize('rule', RULES)
def test_a_resumed_anchor_goes_on_as_if_uninterrupted(tmp_path, rule):
  whole = go_on(make_anchors(Bank(tmp_path / 'whole'), rule), 0)
  root, saves = tmp_path / 'cut', {}
  # What an average became, its newest snapshot, depends on where it was saved.
  same = not rule.startswith('ema')
  found = go_on(make_anchors(Bank(root), rule), 0, saves)
  assert_same_course(found, whole, same)
  for cut in range(7, 0, -1):  # what came after is what a dying run left
    for _ in range(2):
      anchors = make_anchors(Bank(root), rule)
      anchors.resume(cut, saves[cut], policy(0))
      assert_equal(anchors.params['a'], whole[cut - 1][1])
      anchors.forget_from(cut)
      assert_same_course(go_on(anchors, cut), whole, same)
  moves = {params[0].tobytes() for _, params in whole.values()}
  assert (len(moves) > 1) == (rule != 'frozen')


def test_a_run_that_dies_at_once_can_be_taken_up_again(bank):
  anchors = make_anchors(bank, 'ema:0.5')
  held(anchors, [{}] * 3)
  wanted, record = anchors.params['a'], anchors.save(3)
  for _ in range(3):
    anchors = make_anchors(bank, 'ema:0.5')
    anchors.resume(3, record, policy(0))
    anchors.forget_from(3)
    assert bank.steps('a') == [0, 3]
    assert_equal(anchors.params['a'], wanted)
  again = anchors.save(3)  # nothing new is to be written
  assert again == record
  anchors.refresh(3, policy(3), {}, 0)
  np.testing.assert_allclose(
    anchors.params['a']['x'], (wanted['x'] + policy(3)['x']) / 2
  )


def test_a_finished_run_that_is_opened_again_keeps_its_snapshots(bank):
  anchors = make_anchors(bank, 'league:2')
  drawn = held(anchors, [{}] * 5)
  assert drawn[4] != 4  # else it would be kept for being drawn
  record = anchors.save(4)  # a run's last step is refreshed, then saved
  assert bank.steps('a') == [0, 2, 4]
  again = make_anchors(bank, 'league:2')
  again.resume(4, record, policy(0))
  again.forget_from(4 + 1)  # as the loop does where nothing is left to do
  assert bank.steps('a') == [0, 2, 4]


def run_keeping_two(anchors, saves, steps=12):
  """Saves at every third step, as the loop does, and keeps the newest two.

  Yields:
    Each step with the checkpoints that the run may go on from.
  """
  for step in range(steps):
    if step and step % 3 == 0:
      who = values(anchors.params['a'])
      saves[step] = json.loads(json.dumps(anchors.save(step))), who
    kept = sorted(saves)[-2:]
    seen = {'train/kl_a': float(step % 2), 'eval/dev/a': step / 10}
    anchors.refresh(step, policy(step), seen, min(kept, default=0))
    yield step, kept


@pytest.mark.parametrize(
  'rule', ['every:1', 'every:5', 'ema:0.5', 'trust:0.1', 'best:dev/a']
)
def test_pruning_spares_what_a_checkpoint_needs(tmp_path, rule):
  bank, saves = Bank(tmp_path, keep=1), {}
  for _, kept in run_keeping_two(make_anchors(bank, rule), saves):
    bank.wait()
    for saved in kept:
      assert saves[saved][0]['needed'][str(saved)]['a'] in bank.steps('a')
  assert 0 not in bank.steps('a')
  for saved in (9, 6):  # the newest may be damaged
    anchors = make_anchors(Bank(tmp_path, keep=1), rule)
    anchors.resume(saved, saves[saved][0], policy(0))
    assert_equal(anchors.params['a'], saves[saved][1])
    anchors.forget_from(saved)
    anchors.refresh(saved, policy(saved), {'train/kl_a': 1.0}, 6)
    anchors.bank.wait()


def test_pruning_spares_a_league(tmp_path):
  bank, saves = Bank(tmp_path, keep=1), {}
  for step, _ in run_keeping_two(make_anchors(bank, 'league:2'), saves):
    bank.wait()
    assert bank.steps('a') == list(range(0, step + 1, 2))

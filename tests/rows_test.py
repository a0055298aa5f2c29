"""Identical responses are trained once, with their number in the weight."""

import numpy as np

from jaxdistill.rollout import Player, fields, policy_rows
from jaxdistill.types import Prompt, Rollout


def rollout(tokens, row=0):
  tokens = np.array(tokens, np.int32)
  logp = -tokens.astype(np.float32)
  prompt_ids = np.array([1, 5], np.int32)
  prompt = Prompt('solver', 'x', row)
  return Rollout(prompt, prompt_ids, tokens, logp, logp * 0, 'stop', '')


def by_sequence(length):
  return 1 / length, 1.0


class Anchor(Player):
  def __init__(self):
    pass

  def logprobs(self, rollouts, temperature):
    object.__setattr__(self, 'scored', len(rollouts))
    assert temperature == 0.5
    return [r.logp_T - 1 for r in rollouts]


def test_equal_responses_become_one_row_of_their_weight():
  same = [rollout([7, 8, 2]) for _ in range(3)]
  other = [rollout([7, 2]), rollout([7, 8, 2], row=1), rollout([7, 8, 2])]
  advantages = np.array([0.5, 0.5, 0.5, -1.0, 0.5, -2.0])
  anchor = Anchor()
  rows = policy_rows(same + other, advantages, anchor, 0.5, by_sequence)
  # Another prompt, or another advantage, is another row.
  assert anchor.scored == len(rows) == 4
  assert [row.total for row in rows] == [3, 1, 1, 1]
  np.testing.assert_allclose(rows[0].weight_R, [1, 1, 1])
  np.testing.assert_allclose(rows[1].weight_R, [0.5, 0.5])
  np.testing.assert_allclose(rows[0].fields['advantage'], [0.5, 0.5, 0.5])
  np.testing.assert_allclose(rows[0].fields['anchor_logp'], [-8, -9, -3])
  np.testing.assert_allclose(rows[0].fields['old_logp'], [-7, -8, -2])
  assert sum(row.total for row in rows) == len(same + other)
  for row in rows:
    np.testing.assert_array_equal(row.prompt_T, [1, 5])
  np.testing.assert_array_equal(rows[0].response_R, [7, 8, 2])


def test_without_an_anchor_nothing_is_scored_under_it():
  rollouts = [rollout([7, 8, 2]), rollout([7, 2]), rollout([7, 8, 2])]
  given = (rollouts, np.array([0.5, -1.0, 0.5]))
  with_one = policy_rows(*given, Anchor(), 0.5, by_sequence)
  without = policy_rows(*given, None, 0.5, by_sequence)
  assert fields(True) == tuple(with_one[0].fields)
  for a, b in zip(with_one, without, strict=True):
    assert tuple(b.fields) == fields(False) == ('advantage', 'old_logp')
    for name in fields(False):
      np.testing.assert_array_equal(a.fields[name], b.fields[name])
    np.testing.assert_array_equal(a.weight_R, b.weight_R)
    assert a.total == b.total


def test_no_rollouts_give_no_rows():
  assert policy_rows([], np.zeros(0), Anchor(), 0.5, by_sequence) == []


def test_weigh_gives_the_weight_and_the_total():
  rollouts = [rollout([7, 8, 2]), rollout([7, 8, 2]), rollout([7, 2])]
  seen = []

  def weigh(length):
    seen.append(length)
    return length / 4, 10.0 * length

  rows = policy_rows(rollouts, np.ones(3), Anchor(), 0.5, weigh)
  assert seen == [3, 2]
  assert [row.total for row in rows] == [60, 20]
  np.testing.assert_allclose(rows[0].weight_R, [1.5, 1.5, 1.5])
  np.testing.assert_allclose(rows[1].weight_R, [0.5, 0.5])


def test_scales_of_one_are_the_default():
  rollouts = [rollout([7, 8, 2]), rollout([7, 2]), rollout([7, 2])]
  advantages = np.array([0.5, -1.0, -1.0])
  given = (rollouts, advantages, Anchor(), 0.5, by_sequence)
  for a, b in zip(
    policy_rows(*given), policy_rows(*given, np.ones(3)), strict=True
  ):
    assert a.total == b.total
    np.testing.assert_array_equal(a.weight_R, b.weight_R)


def test_a_scale_of_zero_is_left_out_and_not_scored():
  rollouts = [rollout([7, 8, 2]), rollout([7, 2]), rollout([9, 2])]
  anchor, scales = Anchor(), np.array([1.0, 0.0, 2.0])
  rows = policy_rows(rollouts, np.ones(3), anchor, 0.5, by_sequence, scales)
  assert anchor.scored == len(rows) == 2
  assert [row.response_R[0] for row in rows] == [7, 9]
  assert [row.total for row in rows] == [1, 2]
  none = policy_rows(rollouts, np.ones(3), anchor, 0.5, by_sequence, scales * 0)
  assert none == [] and anchor.scored == 0


def test_two_scales_of_one_text_are_two_rows():
  rollouts = [rollout([7, 2]) for _ in range(5)]
  anchor, scales = Anchor(), np.array([0.5, 0.25, 0.5, 0.0, 0.5])
  rows = policy_rows(rollouts, np.ones(5), anchor, 0.5, by_sequence, scales)
  assert anchor.scored == len(rows) == 2
  assert [row.total for row in rows] == [1.5, 0.25]
  np.testing.assert_allclose(rows[0].weight_R, [0.75, 0.75])
  np.testing.assert_allclose(rows[1].weight_R, [0.125, 0.125])


def test_the_total_follows_weigh_and_count_and_scale():
  rollouts = [rollout([7, 8, 2])] * 3 + [rollout([7, 2], row=1)] * 2
  scales = np.array([0.2] * 3 + [3.0] * 2)

  def weigh(length):
    return 1.0, float(length)

  rows = policy_rows(rollouts, np.ones(5), Anchor(), 0.5, weigh, scales)
  np.testing.assert_allclose([r.total for r in rows], [3 * 3 * 0.2, 2 * 2 * 3])
  np.testing.assert_allclose(rows[0].weight_R, np.full(3, 0.6))
  np.testing.assert_allclose(rows[1].weight_R, np.full(2, 6.0))

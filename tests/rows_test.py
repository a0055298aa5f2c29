"""Identical responses are trained once, with their number in the weight."""

import numpy as np

from jaxdistill.rollout import Player, policy_rows
from jaxdistill.types import Prompt, Rollout


def rollout(tokens, row=0):
  tokens = np.array(tokens, np.int32)
  logp = -tokens.astype(np.float32)
  prompt_ids = np.array([1, 5], np.int32)
  prompt = Prompt('solver', 'x', row)
  return Rollout(prompt, prompt_ids, tokens, logp, logp * 0, 'stop', '')


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
  rows = policy_rows(same + other, advantages, anchor, 0.5)
  # Another prompt, or another advantage, is another row.
  assert anchor.scored == len(rows) == 4
  assert [row.total for row in rows] == [3, 1, 1, 1]
  np.testing.assert_allclose(rows[0].weight_T, [0, 0, 1, 1, 1])
  np.testing.assert_allclose(rows[1].weight_T, [0, 0, 0.5, 0.5])
  np.testing.assert_allclose(rows[0].fields['advantage'], [0, 0, 0.5, 0.5, 0.5])
  np.testing.assert_allclose(rows[0].fields['anchor_logp'], [0, 0, -8, -9, -3])
  np.testing.assert_allclose(rows[0].fields['old_logp'], [0, 0, -7, -8, -2])
  assert sum(row.total for row in rows) == len(same + other)


def test_no_rollouts_give_no_rows():
  assert policy_rows([], np.zeros(0), Anchor(), 0.5) == []

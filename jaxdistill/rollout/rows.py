"""Scored rollouts to training rows."""

from collections.abc import Sequence

import numpy as np

from jaxdistill.rollout.player import Player
from jaxdistill.types import Rollout, Row, response_row

FIELDS = ('advantage', 'old_logp', 'anchor_logp')


def policy_rows(
  rollouts: Sequence[Rollout],
  advantages: np.ndarray,
  anchor: Player,
  temperature: float,
) -> list[Row]:
  """Rows for a policy gradient that averages over tokens, then sequences.

  Called on every process together: the anchor scores the responses here.

  Args:
    rollouts: Sampled responses.
    advantages: One per response, for all its tokens, float[N].
    anchor: Whose log-probs the divergence is measured against.
    temperature: At which the responses were sampled.

  Returns:
    A row per rollout with `FIELDS`: the advantage, the log-prob under the
    policy that sampled and under the anchor, all at `temperature`.
  """
  anchored = anchor.logprobs(rollouts, temperature)
  return [
    response_row(
      rollout,
      weight=1 / len(rollout.tokens_T),
      total=1.0,
      advantage=float(advantage),
      old_logp=rollout.logp_T,
      anchor_logp=logp_T,
    )
    for rollout, advantage, logp_T in zip(
      rollouts, advantages, anchored, strict=True
    )
  ]

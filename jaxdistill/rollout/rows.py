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

  Identical responses to a prompt are scored and trained once, their number in
  the weight: the sum is the same, and on short answers it is severalfold less
  work. Called on every process together: the anchor scores the responses here.

  Args:
    rollouts: Sampled responses.
    advantages: One per response, for all its tokens, float[N].
    anchor: Whose log-probs the divergence is measured against.
    temperature: At which the responses were sampled.

  Returns:
    Rows with `FIELDS`: the advantage, the log-prob under the policy that
    sampled and under the anchor, all at `temperature`.
  """
  # Equal texts of one prompt have equal answers, so equal advantages; keyed by
  # both all the same, because the caller may say otherwise.
  found: dict[tuple, list[int]] = {}
  for i, r in enumerate(rollouts):
    key = (r.prompt.row, r.prompt_T.tobytes(), r.tokens_T.tobytes())
    found.setdefault((*key, float(advantages[i])), []).append(i)
  distinct = [rollouts[members[0]] for members in found.values()]
  anchored = anchor.logprobs(distinct, temperature)
  return [
    response_row(
      rollout,
      weight=len(members) / len(rollout.tokens_T),
      total=float(len(members)),
      advantage=float(advantages[members[0]]),
      old_logp=rollout.logp_T,
      anchor_logp=logp_T,
    )
    for rollout, members, logp_T in zip(
      distinct, found.values(), anchored, strict=True
    )
  ]

"""Scored rollouts to training rows."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from jaxdistill.rollout.player import Player
from jaxdistill.types import Rollout, Row, RowSet, response_row

FIELDS = ('advantage', 'old_logp', 'anchor_logp')


def fields(anchored: bool) -> tuple[str, ...]:
  """The fields of `policy_rows`, with or without an anchor."""
  return FIELDS if anchored else FIELDS[:2]


def scored_tokens(rows: Sequence[Row]) -> int:
  """How many response tokens somebody scores who scores these rows once."""
  return sum(len(row.response_R) for row in rows)


def merged(rows: Sequence[Row]) -> list[Row]:
  """The different ones of rows, each weighing as much as all that equal it."""
  found: dict[tuple[bytes, ...], list[Row]] = {}
  for row in rows:
    taught = row.teacher_prompt_T
    arrays = [row.prompt_T, row.response_R, row.weight_R, *row.fields.values()]
    arrays += [] if taught is None else [taught]
    found.setdefault(tuple(x.tobytes() for x in arrays), []).append(row)
  return [
    dataclasses.replace(
      alike[0],
      weight_R=np.float32(len(alike)) * alike[0].weight_R,
      total=sum(row.total for row in alike),
    )
    for alike in found.values()
  ]


def pair_rows(
  player: Player, pairs: Sequence[tuple[Rollout, Rollout]]
) -> RowSet:
  """Preference pairs, chosen and rejected; every host calls it.

  Args:
    player: Whose log-probs, at temperature 1, margins are measured from.
    pairs: This host's.

  Returns:
    Two rows a pair, as `losses.preference` reads them: a value of the pair
    stands at each of its tokens.
  """
  halves = [half for pair in pairs for half in pair]
  logps = iter(player.logprobs(halves))
  rows = [
    response_row(
      half,
      1 / sum(len(r.tokens_T) for r in pair),
      total=0.5,
      pair=n,
      sign=sign,
      old_logp=next(logps),
    )
    for n, pair in enumerate(pairs)
    for half, sign in zip(pair, (1.0, -1.0), strict=True)
  ]
  fields = 'sign', 'old_logp'
  return RowSet('solver', rows, fields, paired=True, start_temperature=1.0)


def policy_rows(
  rollouts: Sequence[Rollout],
  advantages: np.ndarray,
  anchor: Player | None,
  temperature: float,
  weigh: Callable[[int], tuple[float, float]],
  scales: np.ndarray | None = None,
) -> list[Row]:
  """Rows for a policy gradient.

  Identical responses to a prompt are scored and trained once, their number in
  the weight: the sum is the same, and on short answers it is severalfold less
  work. Called on every process together: the anchor scores the responses here.

  Args:
    rollouts: Sampled responses.
    advantages: One per response, for all its tokens, float[N].
    anchor: Whose log-probs the divergence is measured against; None where
      there is none: the rows then lack that field, and nothing is scored.
    temperature: At which the responses were sampled.
    weigh: Length of a response to the weight of each of its tokens and to what
      it adds to the denominator.
    scales: How much each response counts, float[N], in both; one of 0 is left
      out. All count the same if it is not given.

  Returns:
    Rows with `FIELDS`: the advantage, the log-prob under the policy that
    sampled and under the anchor, all at `temperature`.
  """
  # Equal texts of one prompt have equal answers, so equal advantages; keyed by
  # both all the same, because the caller may say otherwise.
  found: dict[tuple, list[int]] = {}
  scales = np.ones(len(rollouts)) if scales is None else scales
  for i, r in enumerate(rollouts):
    text = (r.prompt.address, r.prompt_T.tobytes(), r.tokens_T.tobytes())
    if scales[i]:
      key = (*text, float(advantages[i]), float(scales[i]))
      found.setdefault(key, []).append(i)
  distinct = [rollouts[members[0]] for members in found.values()]
  under_anchor: Sequence[dict] = [{}] * len(distinct)
  if anchor is not None:
    logps = anchor.logprobs(distinct, temperature)
    under_anchor = [{'anchor_logp': logp_T} for logp_T in logps]
  rows = []
  for rollout, members, more in zip(
    distinct, found.values(), under_anchor, strict=True
  ):
    weight, total = weigh(len(rollout.tokens_T))
    count = len(members) * float(scales[members[0]])
    rows.append(
      response_row(
        rollout,
        weight=count * weight,
        total=count * total,
        advantage=float(advantages[members[0]]),
        old_logp=rollout.logp_T,
        **more,
      )
    )
  return rows

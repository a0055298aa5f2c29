"""Problems to rollouts: players, samplers and the generation engine."""

from jaxdistill.rollout.markers import MARKERS, doubts
from jaxdistill.rollout.measure import measure
from jaxdistill.rollout.player import Player
from jaxdistill.rollout.rows import (
  FIELDS,
  fields,
  merged,
  policy_rows,
  scored_tokens,
)
from jaxdistill.rollout.samplers import Sampling
from jaxdistill.rollout.transcript import transcript

__all__ = [
  'FIELDS',
  'MARKERS',
  'Player',
  'Sampling',
  'doubts',
  'fields',
  'measure',
  'merged',
  'policy_rows',
  'scored_tokens',
  'transcript',
]

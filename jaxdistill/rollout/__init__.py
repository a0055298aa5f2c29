"""Problems to rollouts: players, samplers and the generation engine."""

from jaxdistill.rollout.measure import MARKERS, measure
from jaxdistill.rollout.player import Player
from jaxdistill.rollout.rows import (
  FIELDS,
  fields,
  policy_rows,
  scored_tokens,
)
from jaxdistill.rollout.samplers import Sampling

__all__ = [
  'FIELDS',
  'MARKERS',
  'Player',
  'Sampling',
  'fields',
  'measure',
  'policy_rows',
  'scored_tokens',
]

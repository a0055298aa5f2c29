"""Problems to rollouts: players, samplers and the generation engine."""

from jaxdistill.rollout.markers import MARKERS, doubts
from jaxdistill.rollout.measure import measure
from jaxdistill.rollout.player import Player
from jaxdistill.rollout.rows import FIELDS, fields, policy_rows
from jaxdistill.rollout.samplers import Sampling

__all__ = [
  'FIELDS',
  'MARKERS',
  'Player',
  'Sampling',
  'doubts',
  'fields',
  'measure',
  'policy_rows',
]

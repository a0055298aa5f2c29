"""Problems to rollouts: players, samplers and the generation engine."""

from jaxdistill.rollout.player import Player
from jaxdistill.rollout.rows import FIELDS, policy_rows
from jaxdistill.rollout.samplers import Sampling

__all__ = ['FIELDS', 'Player', 'Sampling', 'policy_rows']

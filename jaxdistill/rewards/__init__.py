"""Rollouts to numbers: answers, votes and rewards. No JAX here."""

from jaxdistill.rewards.length import overlong
from jaxdistill.rewards.numbers import equal, number
from jaxdistill.rewards.proposer import PROPOSER_REWARDS, learnable, repeated
from jaxdistill.rewards.solver import SOLVER_REWARDS
from jaxdistill.rewards.vote import Vote, answers, majority

__all__ = [
  'PROPOSER_REWARDS',
  'SOLVER_REWARDS',
  'Vote',
  'answers',
  'equal',
  'learnable',
  'majority',
  'number',
  'overlong',
  'repeated',
]

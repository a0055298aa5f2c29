"""Rollouts to numbers: answers, votes and rewards. No JAX here."""

from jaxdistill.rewards.extract import (
  final_answer,
  marked_answer,
  plain,
  tagged,
)
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
  'final_answer',
  'learnable',
  'majority',
  'marked_answer',
  'number',
  'overlong',
  'plain',
  'repeated',
  'tagged',
]

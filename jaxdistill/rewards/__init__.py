"""Rollouts to numbers: answers, votes and rewards. No JAX here."""

from jaxdistill.rewards.numbers import equal, number
from jaxdistill.rewards.proposer import learnable
from jaxdistill.rewards.vote import Vote, answers, majority

__all__ = ['Vote', 'answers', 'equal', 'learnable', 'majority', 'number']

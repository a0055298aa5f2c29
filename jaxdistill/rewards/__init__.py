"""Rollouts to numbers: answers, votes and rewards. No JAX here."""

from jaxdistill.rewards.advantage import (
  after,
  all_equal,
  centred,
  group_normalised,
  leave_one_out,
)
from jaxdistill.rewards.correction import changed, improved, transitions
from jaxdistill.rewards.edits import Settings, chosen, read_settings, spreads
from jaxdistill.rewards.extract import (
  final_answer,
  marked_answer,
  plain,
  tagged,
)
from jaxdistill.rewards.filters import (
  FILTERS,
  Labelled,
  Rip,
  described,
  labelled,
  rip,
  written,
)
from jaxdistill.rewards.judging import (
  NOBODY,
  VERDICTS,
  Paid,
  agreement,
  contradicted,
  paid,
  win_rates,
)
from jaxdistill.rewards.length import overlong
from jaxdistill.rewards.numbers import equal, is_right, number
from jaxdistill.rewards.pairs import Judged, pair_metrics, preference_pair
from jaxdistill.rewards.proposer import PROPOSER_REWARDS, learnable, repeated
from jaxdistill.rewards.ranking import ordered, ranking
from jaxdistill.rewards.solver import SOLVER_REWARDS
from jaxdistill.rewards.vote import Vote, answers, confidences, majority

__all__ = [
  'FILTERS',
  'NOBODY',
  'PROPOSER_REWARDS',
  'SOLVER_REWARDS',
  'VERDICTS',
  'Judged',
  'Labelled',
  'Paid',
  'Rip',
  'Settings',
  'Vote',
  'after',
  'agreement',
  'all_equal',
  'answers',
  'centred',
  'changed',
  'chosen',
  'confidences',
  'contradicted',
  'described',
  'equal',
  'final_answer',
  'group_normalised',
  'improved',
  'is_right',
  'labelled',
  'learnable',
  'leave_one_out',
  'majority',
  'marked_answer',
  'number',
  'ordered',
  'overlong',
  'paid',
  'pair_metrics',
  'plain',
  'preference_pair',
  'ranking',
  'read_settings',
  'repeated',
  'rip',
  'spreads',
  'tagged',
  'transitions',
  'win_rates',
  'written',
]

"""Pure functions of arrays: log-probs in, one value per token out."""

from jaxdistill.losses.advantage import (
  all_equal,
  centred,
  group_normalised,
  leave_one_out,
)
from jaxdistill.losses.objective import OBJECTIVES, Objective, objective
from jaxdistill.losses.policy import (
  clipped_policy,
  k3,
  policy_gradient,
  sequence_mean_ratio,
  sequence_ratio,
  token_ratio,
)

__all__ = [
  'OBJECTIVES',
  'Objective',
  'all_equal',
  'centred',
  'clipped_policy',
  'group_normalised',
  'k3',
  'leave_one_out',
  'objective',
  'policy_gradient',
  'sequence_mean_ratio',
  'sequence_ratio',
  'token_ratio',
]

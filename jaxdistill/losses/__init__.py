"""Pure functions of arrays: log-probs in, one value per token out."""

from jaxdistill.losses.margins import margin_mse
from jaxdistill.losses.policy import (
  Ratio,
  clipped_policy,
  k3,
  policy_gradient,
  sequence_mean_ratio,
  sequence_ratio,
  sum_over,
  token_ratio,
  truncated_importance,
)

__all__ = [
  'Ratio',
  'clipped_policy',
  'k3',
  'margin_mse',
  'policy_gradient',
  'sequence_mean_ratio',
  'sequence_ratio',
  'sum_over',
  'token_ratio',
  'truncated_importance',
]

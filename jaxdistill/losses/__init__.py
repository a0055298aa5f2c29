"""Pure functions of arrays: log-probs in, one value per token out."""

from jaxdistill.losses.distill import (
  Divergence,
  divergence,
  forward_kl,
  generalised_jsd,
  over_all,
  over_given,
  over_student_top,
  over_teacher_top,
  reverse_kl,
  sampled_token,
  summed,
  token_logp,
)
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
  'Divergence',
  'Ratio',
  'clipped_policy',
  'divergence',
  'forward_kl',
  'generalised_jsd',
  'k3',
  'margin_mse',
  'over_all',
  'over_given',
  'over_student_top',
  'over_teacher_top',
  'policy_gradient',
  'reverse_kl',
  'sampled_token',
  'sequence_mean_ratio',
  'sequence_ratio',
  'sum_over',
  'summed',
  'token_logp',
  'token_ratio',
  'truncated_importance',
]

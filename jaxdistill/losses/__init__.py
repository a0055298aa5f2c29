"""Pure functions of arrays: log-probs in, one value per token out."""

from jaxdistill.losses.advantage import group_normalised
from jaxdistill.losses.policy import clipped_policy, grpo, k3

__all__ = ['clipped_policy', 'group_normalised', 'grpo', 'k3']

"""From rewards to advantages."""

import numpy as np


def group_normalised(rewards: np.ndarray, eps: float = 1e-4) -> np.ndarray:
  """GRPO's advantage (arXiv 2402.03300, sec. 4.1.2).

  `(r - mean) / (std + eps)` within each group, with the population's std; 0
  for a group whose rewards are all equal.

  Args:
    rewards: float[..., G], the last axis is the group.
    eps: Added to the standard deviation.

  Returns:
    float[..., G].
  """
  rewards = np.asarray(rewards, np.float64)
  centred = rewards - rewards.mean(-1, keepdims=True)
  scaled = centred / (rewards.std(-1, keepdims=True) + eps)
  equal = rewards.max(-1, keepdims=True) == rewards.min(-1, keepdims=True)
  return np.where(equal, 0.0, scaled)  # rounding of the mean aside

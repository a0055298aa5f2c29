"""From rewards to advantages. Rewards are float[..., G]: one group a row."""

import numpy as np


def group_normalised(rewards: np.ndarray, eps: float = 1e-4) -> np.ndarray:
  """GRPO's advantage (arXiv 2402.03300, sec. 4.1.2).

  `(r - mean) / (std + eps)` within each group, with the population's std; 0
  for a group whose rewards are all equal.

  Args:
    rewards: float[..., G].
    eps: Added to the standard deviation.

  Returns:
    float[..., G].
  """
  rewards = np.asarray(rewards, np.float64)
  return centred(rewards) / (rewards.std(-1, keepdims=True) + eps)


def centred(rewards: np.ndarray) -> np.ndarray:
  """Dr. GRPO's advantage (arXiv 2503.20783, sec. 3.2): `r - mean`.

  Without the division, a group in which almost all agree weighs no more than
  another.

  Args:
    rewards: float[..., G].

  Returns:
    float[..., G].
  """
  rewards = np.asarray(rewards, np.float64)
  difference = rewards - rewards.mean(-1, keepdims=True)
  # Rounding of the mean would be all there is, and be scaled up by the caller.
  return np.where(all_equal(rewards)[..., None], 0.0, difference)


def leave_one_out(rewards: np.ndarray) -> np.ndarray:
  """RLOO's advantage (arXiv 2402.14740, eq. 6).

  `r - mean of the others`: the baseline does not see the sample that it is
  subtracted from, so the estimate is unbiased.

  Args:
    rewards: float[..., G], G at least 2.

  Returns:
    float[..., G].
  """
  size = np.shape(rewards)[-1]
  return centred(rewards) * size / (size - 1)


def all_equal(rewards: np.ndarray) -> np.ndarray:
  """Which groups teach nothing: bool[...].

  DAPO leaves them out (arXiv 2503.14476, sec. 3.2).
  """
  rewards = np.asarray(rewards, np.float64)
  most = rewards.max(-1, initial=-np.inf)
  return np.asarray(most == rewards.min(-1, initial=np.inf))


def after(
  rewards_T: np.ndarray, gamma: float = 1.0, normalised: bool = False
) -> np.ndarray:
  """What comes after each token: its return without its own reward, float[T].

  `sum_{i>t} gamma^(i-t-1) r_i`; 0 for the last token.

  Args:
    rewards_T: One per token.
    gamma: What a reward counts for each token that is between.
    normalised: Whether it is divided by the sum of the powers of gamma
      (MiniLLM, arXiv 2306.08543, section 2.2, divides by their number).
  """
  sums, weights = np.zeros(len(rewards_T)), np.zeros(len(rewards_T))
  for t in range(len(rewards_T) - 2, -1, -1):
    sums[t] = rewards_T[t + 1] + gamma * sums[t + 1]
    weights[t] = 1 + gamma * weights[t + 1]
  return (sums / np.maximum(weights, 1) if normalised else sums).astype(
    np.float32
  )

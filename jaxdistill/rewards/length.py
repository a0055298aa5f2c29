"""What the length of a response costs."""

import numpy as np


def overlong(lengths: np.ndarray, longest: int, margin: int) -> np.ndarray:
  """DAPO's soft penalty (arXiv 2503.14476, eq. 13), added to the reward.

  0 up to `longest - margin` tokens, then falling in a line to -1 at `longest`,
  which is also what a cut response gets; none if `margin` is 0.

  Args:
    lengths: Tokens of each response, int[...].
    longest: Most tokens that a response may have.
    margin: Over how many tokens the penalty grows.

  Returns:
    float[...], from -1 to 0.
  """
  beyond = np.asarray(lengths) - (longest - margin)
  return -np.clip(beyond / max(margin, 1), 0.0, 1.0)

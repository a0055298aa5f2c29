"""How far off a measured number may be, at 95%."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


def half_width(values: np.ndarray) -> np.ndarray:
  """Half of Student's t interval of the mean, over the first axis."""
  n = len(values)
  t = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
  return np.asarray(t * stats.sem(values, axis=0))


def estimate(values: Sequence[float]) -> tuple[float, list[float] | None]:
  """Mean and the 95% interval of Student's t; no interval for one value."""
  mean = float(np.mean(values))
  if len(values) < 2:
    return mean, None
  half = float(half_width(np.asarray(values, float)))
  return mean, [mean - half, mean + half]


def binomial(share: float, n: int) -> tuple[float, float]:
  """Wilson's interval of a share that was seen in n problems."""
  z = stats.norm.ppf((1 + CONFIDENCE) / 2)
  centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
  half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
  half /= 1 + z**2 / n
  return max(float(centre - half), 0.0), min(float(centre + half), 1.0)


def change(before: float, after: float, n: int) -> tuple[float, float]:
  """Newcombe's interval of `after - before`, each a share of n problems.

  It takes the two as independent. Measured on the same problems, as a run
  does, they vary together, and the interval is rather too wide.
  """
  low_before, high_before = binomial(before, n)
  low_after, high_after = binomial(after, n)
  rise = after - before
  return (
    rise - float(np.hypot(after - low_after, high_before - before)),
    rise + float(np.hypot(high_after - after, before - low_before)),
  )

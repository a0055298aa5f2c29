"""How far off a measured number may be, at 95%."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
Interval = tuple[float, float]


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


def binomial(share: float, n: int) -> Interval:
  """Wilson's interval of a share that was seen in n problems."""
  z = stats.norm.ppf((1 + CONFIDENCE) / 2)
  centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
  half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
  half /= 1 + z**2 / n
  return max(float(centre - half), 0.0), min(float(centre + half), 1.0)


def paired(rose: float, fell: float, n: int) -> Interval:
  """Agresti and Min's interval of `rose - fell`, shares of the same n problems.

  Wald's, with half a problem added to each of the four kinds of pairs (Simple
  improved confidence intervals for comparing matched proportions, 2005).
  """
  z, size = float(stats.norm.ppf((1 + CONFIDENCE) / 2)), n + 2
  centre = (rose - fell) * n / size
  square = ((rose + fell) * n + 1) / size - centre**2
  half = z * float(np.sqrt(square / size))
  return max(centre - half, -1.0), min(centre + half, 1.0)


def change(
  before: float, around: Interval, after: float, around_after: Interval
) -> Interval:
  """Newcombe's interval of `after - before`, from the interval of each.

  It takes the two as independent. Measured on the same problems, as a run
  does, they vary together, and the interval is rather too wide.
  """
  low_before, high_before = around
  low_after, high_after = around_after
  rise = after - before
  return (
    rise - float(np.hypot(after - low_after, high_before - before)),
    rise + float(np.hypot(high_after - after, before - low_before)),
  )

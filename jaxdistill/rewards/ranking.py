"""How well scores order the items of a query whose grades are known."""

import math
from collections.abc import Sequence

import numpy as np


def ranking(
  scores: Sequence[float] | np.ndarray, grades: Sequence[float] | np.ndarray
) -> dict[str, list[float]]:
  """Observations of one query: none of what its grades do not tell.

  Args:
    scores: What is held against the grades, item by item.
    grades: Known ones, not negative.

  Returns:
    `order_accuracy`, one for each pair of different grades; `ndcg_10`,
    `spearman` and `margin_mse` (over all pairs), one or none each.
  """
  s, g = np.asarray(scores, float), np.asarray(grades, float)
  return {
    'order_accuracy': ordered(s, g),
    'ndcg_10': _known(ndcg(s, g, 10)),
    'spearman': _known(spearman(s, g)),
    'margin_mse': _known(margin_error(s, g)),
  }


def _known(value: float) -> list[float]:
  return [] if math.isnan(value) else [value]


def ordered(scores: np.ndarray, grades: np.ndarray) -> list[float]:
  """By pair of different grades: 1 if the scores agree, a half if they tie."""
  i, j = np.triu_indices(len(grades), 1)
  apart = np.sign(grades[i] - grades[j])
  agree = np.sign(scores[i] - scores[j]) * apart
  return ((1 + agree[apart != 0]) / 2).tolist()


def ndcg(scores: np.ndarray, grades: np.ndarray, k: int) -> float:
  """Discounted gain of the first k by score over the best there is.

  An item's gain is `2^grade - 1`, discounted by `log2(rank + 1)`; items of one
  score share what their ranks are worth. nan where no item has a gain.
  """
  gains = 2.0**grades - 1
  discounts = np.zeros(len(gains))
  discounts[:k] = 1 / np.log2(np.arange(2, 2 + min(k, len(gains))))
  best = np.sort(gains)[::-1] @ discounts
  _, place = np.unique(-scores, return_inverse=True)
  order = np.argsort(place, kind='stable')
  shared = np.bincount(place[order], discounts) / np.bincount(place)
  return float(gains @ shared[place] / best) if best else math.nan


def spearman(scores: np.ndarray, grades: np.ndarray) -> float:
  """Correlation of ranks, ties ranked by their mean; nan where all tie."""
  middle = (len(grades) + 1) / 2
  a, b = _ranks(scores) - middle, _ranks(grades) - middle
  if not b.any():
    return math.nan
  return float(a @ b / math.sqrt(a @ a * (b @ b))) if a.any() else 0.0


def _ranks(x: np.ndarray) -> np.ndarray:
  _, place, count = np.unique(x, return_inverse=True, return_counts=True)
  return (np.cumsum(count) - (count - 1) / 2)[place]


def margin_error(scores: np.ndarray, grades: np.ndarray) -> float:
  """Mean over all pairs of the squared error of their difference."""
  if len(grades) < 2:
    return math.nan
  return float(2 * np.var(scores - grades, ddof=1))

"""What a verifier is worth: the generation-verification gap (2412.02674).

A model `f` gives response y to problem x, worth u(x, y): 1 if it is right. Its
accuracy is `J(f) = E_x E_y~f u(x, y)`. Learning what a verifier keeps aims at
`f[w](y | x)`, in proportion to `f(y | x) w(score of y)` with w 1 or 0; so one
round can be expected to gain

  gap = J(f[w]) - J(f)            (sec. 2)
  gap_rel = E_x (J_x(f[w]) - J_x(f)) / (1 - J_x(f))

and gains less where the update learns it badly, more where the weights
generalise or a format was learned. J_x is a mean over samples. Our rules where
the paper has none: a problem of which nothing is kept stays as it was (its gap
is 0), and so does one that is always right (its relative gap is 0).
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

QUANTILES = np.linspace(0, 0.9, 10)  # of the scores, tried as thresholds


def gaps_at(
  kept_PG: Bool[np.ndarray, 'P G'], right_PG: Float[np.ndarray, 'P G']
) -> tuple[Float[np.ndarray, 'P'], Float[np.ndarray, 'P']]:
  """Gap and relative gap of each problem.

  Args:
    kept_PG: Which samples a verifier keeps.
    right_PG: What they are worth.
  """
  before_P, count_P = right_PG.mean(1), kept_PG.sum(1)
  sums_P = np.sum(right_PG * kept_PG, 1)
  after_P = np.where(count_P, sums_P / np.maximum(count_P, 1), before_P)
  gap_P, room_P = after_P - before_P, 1 - before_P
  return gap_P, np.where(room_P > 0, gap_P / np.where(room_P, room_P, 1), 0.0)


def auc(
  scores: Sequence[float] | np.ndarray, right: Sequence[float] | np.ndarray
) -> float:
  """The chance that a right response scores above a wrong one; a tie is half.

  Those without a score are left out; NaN where one of the two kinds is missing.
  """
  scores, right = np.ravel(scores), np.ravel(right)
  there = ~np.isnan(scores)
  good, bad = (np.sort(scores[there & (right == r)]) for r in (1, 0))
  if not len(good) or not len(bad):
    return float('nan')
  below = np.searchsorted(bad, good, 'left')
  upto = np.searchsorted(bad, good, 'right')
  return float((below + upto).mean() / 2 / len(bad))


def worth(
  scores: Sequence[Float[np.ndarray, 'P G']], right_PG: Float[np.ndarray, 'P G']
) -> dict[str, Any]:
  """What keeping by scores is worth; with two verifiers, what both keep.

  The thresholds that make most of it are found on half of the problems and
  measured on the other half, both ways: found and measured on the same, even
  scores by chance have a gap.

  Args:
    scores: Of each verifier, NaN where it has none: such a sample is not kept.
    right_PG: 1 or 0.

  Returns:
    `gap` and its standard error `error`, `relative`, `kept` (share of the
    samples), `accuracy` of all and `kept_accuracy` (of `f[w]`), each measured
    so; `thresholds`, one per verifier, those that are best on all problems.
  """
  halves = np.arange(len(right_PG)) % 2 == 0
  kept_PG = np.zeros(right_PG.shape, bool)
  for here in (halves, ~halves):
    found = _best([s[here] for s in scores], right_PG[here])
    kept_PG[~here] = _kept([s[~here] for s in scores], found)
  gap_P, relative_P = gaps_at(kept_PG, right_PG)
  accuracy, gap = float(right_PG.mean()), float(gap_P.mean())
  return {
    'gap': gap,
    'error': float(gap_P.std(ddof=1) / len(gap_P) ** 0.5),
    'relative': float(relative_P.mean()),
    'kept': float(kept_PG.mean()),
    'accuracy': accuracy,
    'kept_accuracy': accuracy + gap,
    'thresholds': [float(t) for t in _best(scores, right_PG)],
  }


def weigh(
  scores: Mapping[str, Float[np.ndarray, 'P G']],
  right_PG: Float[np.ndarray, 'P G'],
  names: Sequence[str],
) -> dict[str, dict[str, Any]]:
  """What each of several verifiers is worth.

  Args:
    scores: By verifier.
    right_PG: 1 or 0.
    names: Of verifiers; `one+other` is what both keep.

  Returns:
    By name what `worth` finds, and of a single verifier also `auc`; and
    `confidence`, the mean score, whose distance from `scored_accuracy`, how
    often what has a score is right, says whether it thinks too well of itself.
  """
  out = {}
  for name in names:
    parts = [scores[one] for one in name.split('+')]
    out[name] = worth(parts, right_PG)
    if len(parts) == 1:
      out[name]['auc'] = auc(parts[0], right_PG)
      there = ~np.isnan(parts[0])
      some = bool(there.any())
      out[name] |= {
        'confidence': float(parts[0][there].mean()) if some else None,
        'scored_accuracy': float(right_PG[there].mean()) if some else None,
      }
  return out


def _kept(scores, thresholds) -> np.ndarray:
  """What all verifiers score at least so high; NaN is above nothing."""
  pairs = zip(scores, thresholds, strict=True)
  return np.logical_and.reduce([s >= t for s, t in pairs])


def _best(scores, right_PG) -> tuple[float, ...]:
  """The thresholds of the largest gap; of equal ones those that keep most."""
  tried = [_tried(s[~np.isnan(s)]) for s in scores]
  return max(
    itertools.product(*tried),
    key=lambda found: (
      round(float(gaps_at(_kept(scores, found), right_PG)[0].mean()), 9),
      -sum(found),
    ),
  )


def _tried(scores: np.ndarray) -> np.ndarray:
  """Thresholds to try, the least of which keeps all that has a score."""
  if not len(scores):
    return np.zeros(1)
  return np.unique(np.quantile(scores, QUANTILES, method='lower'))

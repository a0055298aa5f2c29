"""What self-edits say of their training, and which of them are kept."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

# Says which of the candidates come first, of those that may be kept.
Order = Callable[[np.ndarray, np.random.Generator], np.ndarray]
ORDERS: Mapping[str, Order] = {
  'best': lambda scores_E, rng: np.argsort(-scores_E, kind='stable'),
  'random': lambda scores_E, rng: rng.permutation(len(scores_E)),
}
_KEYS = ('lr_scale', 'epochs')


class Settings(NamedTuple):
  """How an edit is to be learned, as it says itself.

  Attributes:
    lr_scale: Of the learning rate; None: it does not say.
    epochs: None: it does not say.
  """

  lr_scale: float | None = None
  epochs: float | None = None

  def absurd(self, most_scale: float, most_epochs: int) -> bool:
    """Whether they are beyond a limit, or no numbers that can be.

    Args:
      most_scale: The learning rate is at most so many times the usual, and at
        least as small a part of it.
      most_epochs: Whole, and at least 1.
    """
    scale, epochs = (1 if x is None else x for x in self)
    within = 1 / most_scale <= scale <= most_scale
    return not (within and 1 <= epochs <= most_epochs and epochs % 1 == 0)


def read_settings(text: str) -> tuple[str, Settings]:
  """An edit without the lines that set something, and what they set.

  Such a line is a JSON object that has `lr_scale` or `epochs`. A value that is
  no number is NaN, which is absurd. Of several lines the last counts.
  """
  kept, said = [], {}
  for line in text.split('\n'):
    found = _object(line)
    if any(key in found for key in _KEYS):
      said |= {key: _number(found[key]) for key in _KEYS if key in found}
    else:
      kept.append(line)
  return '\n'.join(kept), Settings(**said)


def _object(line: str) -> Mapping[str, Any]:
  try:
    found = json.loads(line)
  except (ValueError, RecursionError):
    return {}
  return found if isinstance(found, dict) else {}


def _number(value: Any) -> float:
  whole = isinstance(value, int | float) and not isinstance(value, bool)
  return float(value) if whole and abs(value) < 1e9 else math.nan


def chosen(
  scores_E: np.ndarray,
  valid_E: np.ndarray,
  least: float,
  keep: int,
  order: Order,
  rng: np.random.Generator,
) -> list[int]:
  """Which edits of a context are learned.

  As many as there are above `least`, `keep` at most, but the first in the
  given order of all that are valid: in a random order the number of edits, and
  which contexts they are of, are the same as in the order of the scores.

  Args:
    scores_E: What each is worth, float[E].
    valid_E: Which of them say something, bool[E].
    least: A score that is not above it is no gain.
    keep: Most edits of a context.
    order: One of `ORDERS`.
    rng: What a random order is drawn by.
  """
  gains = int(np.sum(valid_E & (scores_E > least)))
  first = [int(e) for e in order(scores_E, rng) if valid_E[e]]
  return first[: min(keep, gains)]


def spreads(scores_ES: np.ndarray) -> tuple[float, float]:
  """Standard deviations of a context's scores: between edits, and within one.

  The first is of the edits' means over seeds, the second is over the seeds of
  an edit (the root of its mean square). That of fewer than two is NaN.

  Args:
    scores_ES: float[E, S].
  """
  edits, seeds = scores_ES.shape
  between = scores_ES.mean(1).std(ddof=1) if edits > 1 else math.nan
  if not edits or seeds < 2:
    return float(between), math.nan
  return float(between), float(np.sqrt(scores_ES.var(1, ddof=1).mean()))

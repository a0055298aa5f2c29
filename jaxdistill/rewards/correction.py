"""What a second attempt is worth beside a first one."""

from collections.abc import Sequence

import numpy as np

from jaxdistill.rewards.numbers import equal


def improved(first: np.ndarray, second: np.ndarray, alpha: float) -> np.ndarray:
  """SCoRe's reward of second attempts (arXiv 2409.12917, section 5.2).

  `r2 + alpha (r2 - r1)`: with alpha 10 a wrong attempt put right earns 11, a
  right one kept 1, a wrong one kept 0 and a right one spoilt -10.

  Args:
    first: What the first attempts earned, float[..., G].
    second: What the second ones did.
    alpha: What progress counts.
  """
  return second + alpha * (second - first)


def changed(first: str | None, second: str | None) -> bool:
  """Whether two attempts answer differently, numbers compared as numbers."""
  if first is None or second is None:
    return first is not second
  return equal(first, second) is not True


def transitions(
  right: Sequence[tuple[bool, bool]],
) -> dict[str, list[float]]:
  """What becomes of answers from the first attempt to the second.

  Args:
    right: Whether each one's first and second attempt are right.

  Returns:
    `accuracy_turn_1`, `accuracy_turn_2`, `delta`, `wrong_to_right` and
    `right_to_wrong`, one value each of every pair: of all of them, so that the
    mean of `delta` is that of `wrong_to_right` less that of `right_to_wrong`.
    And `accuracy_corrected`: of those alone whose first attempt is wrong.
  """
  return {
    'accuracy_turn_1': [float(a) for a, _ in right],
    'accuracy_turn_2': [float(b) for _, b in right],
    'delta': [float(b) - float(a) for a, b in right],
    'wrong_to_right': [float(b and not a) for a, b in right],
    'right_to_wrong': [float(a and not b) for a, b in right],
    'accuracy_corrected': [float(b) for a, b in right if not a],
  }

"""What tells the policy-gradient objectives apart: three small choices.

| name      | advantage          | a token weighs     | ratio, clipped       |
|-----------|--------------------|--------------------|----------------------|
| `grpo`    | `group_normalised` | `by_sequence`      | `token_ratio`        |
| `dr_grpo` | `centred`          | `by_longest`       | `token_ratio`        |
| `dapo`    | `group_normalised` | `by_token`         | `token_ratio`        |
| `gspo`    | `group_normalised` | `by_sequence`      | `sequence_mean_ratio`|
| `rloo`    | `leave_one_out`    | `by_sequence`      | `sequence_ratio`     |

`dapo` also drops the groups whose rewards are all equal. Everywhere the KL is
per token and in the loss; RLOO's paper has it in the reward.
"""

import dataclasses
import difflib
from collections.abc import Callable

import numpy as np

from jaxdistill.losses.advantage import (
  centred,
  group_normalised,
  leave_one_out,
)
from jaxdistill.losses.policy import (
  Ratio,
  sequence_mean_ratio,
  sequence_ratio,
  token_ratio,
)


def by_sequence(length: int, longest: int) -> tuple[float, float]:
  """Mean over sequences of each one's mean (GRPO, arXiv 2402.03300, eq. 3).

  Args:
    length: Tokens of a response.
    longest: Most tokens that a response may have.

  Returns:
    The weight of each of its tokens, and what it adds to the denominator.
  """
  del longest
  return 1 / length, 1.0


def by_token(length: int, longest: int) -> tuple[float, float]:
  """Mean over all tokens of the update (DAPO, arXiv 2503.14476, eq. 8)."""
  del longest
  return 1.0, float(length)


def by_longest(length: int, longest: int) -> tuple[float, float]:
  """Sum over tokens by a constant (Dr. GRPO, arXiv 2503.20783, sec. 3.2)."""
  del length
  return 1.0, float(longest)


@dataclasses.dataclass(frozen=True)
class Objective:
  """A policy gradient, by its parts.

  Attributes:
    advantage: Rewards float[..., G] to advantages float[..., G].
    weigh: Length and limit of a response to the weight of its tokens and its
      part of the denominator.
    ratio: Token log-ratios to the log-ratio that is clipped.
    drops_equal: Whether groups whose rewards are all equal are left out.
  """

  advantage: Callable[[np.ndarray], np.ndarray]
  weigh: Callable[[int, int], tuple[float, float]]
  ratio: Ratio
  drops_equal: bool = False


OBJECTIVES = {
  'grpo': Objective(group_normalised, by_sequence, token_ratio),
  'dr_grpo': Objective(centred, by_longest, token_ratio),
  'dapo': Objective(group_normalised, by_token, token_ratio, drops_equal=True),
  'gspo': Objective(group_normalised, by_sequence, sequence_mean_ratio),
  'rloo': Objective(leave_one_out, by_sequence, sequence_ratio),
}


def objective(name: str) -> Objective:
  """An objective by its name.

  Raises:
    ValueError: There is none of that name; the nearest is named.
  """
  if name not in OBJECTIVES:
    near = difflib.get_close_matches(name, OBJECTIVES, 1, 0)[0]
    raise ValueError(
      f'method.objective {name!r} is none of {", ".join(OBJECTIVES)}; the '
      f'nearest is {near!r}'
    )
  return OBJECTIVES[name]

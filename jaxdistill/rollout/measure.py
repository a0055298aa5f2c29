"""What responses look like, apart from being right."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdistill.rollout.markers import doubts
from jaxdistill.types import Rollout


def measure(rollouts: Sequence[Rollout]) -> dict[str, Any]:
  """Observations `rollout/<name>` on sampled responses.

  `length` (tokens), `cut` (by the limit), `entropy` (nats per token: the mean
  of `-logp` over sampled tokens estimates it without bias) and what `doubts`
  counts.
  """
  logp_T = [np.zeros(0, np.float32), *(r.logp_T for r in rollouts)]
  return {
    'rollout/length': [len(r.tokens_T) for r in rollouts],
    'rollout/cut': [float(r.finish == 'length') for r in rollouts],
    'rollout/entropy': -np.concatenate(logp_T),
  } | {f'rollout/{name}': found for name, found in doubts(rollouts).items()}

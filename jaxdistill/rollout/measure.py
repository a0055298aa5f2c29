"""What responses look like, apart from being right."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdistill.types import Rollout

# Words of doubt and of turning back (the ten of arXiv 2603.24472, app. C).
MARKERS = (
  *('wait', 'hmm', 'perhaps', 'maybe', 'actually'),
  *('alternatively', 'seems', 'might', 'likely', 'check'),
)


def measure(rollouts: Sequence[Rollout]) -> dict[str, Any]:
  """Observations `rollout/<name>` on sampled responses.

  `length` (tokens), `cut` (by the limit), `entropy` (nats per token: the mean
  of `-logp` over sampled tokens estimates it without bias) and `markers`
  (occurrences of `MARKERS` per response, parts of words included).
  """
  logp_T = [np.zeros(0, np.float32), *(r.logp_T for r in rollouts)]
  return {
    'rollout/length': [len(r.tokens_T) for r in rollouts],
    'rollout/cut': [float(r.finish == 'length') for r in rollouts],
    'rollout/entropy': -np.concatenate(logp_T),
    'rollout/markers': [markers(r.text) for r in rollouts],
  }


def markers(text: str) -> int:
  """How often a text doubts or turns back."""
  text = text.lower()
  return sum(text.count(word) for word in MARKERS)

"""What a proposal is worth, by how many answers agree with the majority.

Each shape takes a `Vote`; where there is no majority nobody agrees.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from jaxdistill.rewards.vote import Vote


def learnable(vote: Vote) -> float:
  """SQLM's proposer reward (arXiv 2508.03682, sec. 4.2, as released).

  1 if the solver has a majority but not a unanimous one (`1 < agreeing < n`):
  neither too hard nor too easy; else 0.
  """
  return float(0 < vote.share < 1)


def uncertain(vote: Vote) -> float:
  """R-Zero's (arXiv 2508.05004, eq. 2): `1 - 2 |p - 1/2|`, p the agreement.

  1 where half of the answers agree, 0 where all do or none does. (The released
  code has `min(p, 1 - p)`, half of it.)
  """
  return 1 - 2 * abs(vote.share - 0.5)


def hard(vote: Vote) -> float:
  """Absolute Zero's (arXiv 2505.03335, eq. 4): `1 - p`, but 0 at p = 0 and 1.

  The less the answers agree the better, as long as some do.
  """
  return 1 - vote.share if vote.share > 0 else 0.0


def varied(vote: Vote) -> float:
  """SPICE's (arXiv 2510.24684): `exp(-(v - 1/4)^2 / 0.02)`, `v = p (1 - p)`.

  1 where half agree, falling slowly on both sides.
  """
  variance = vote.share * (1 - vote.share)
  return float(np.exp(-((variance - 0.25) ** 2) / 0.02))


def valid(vote: Vote) -> float:
  """1 for whatever can be asked: a control that pays for format alone."""
  del vote
  return 1.0


PROPOSER_REWARDS = {
  f.__name__: f for f in (learnable, uncertain, hard, varied, valid)
}


def repeated(texts: Sequence[str], said: Sequence[str]) -> list[float]:
  """How much of a proposal has been said before, from 0 (new) to below 1.

  `1 - 1 / copies`, the copies counted in `said`. R-Zero
  (arXiv 2508.05004, sec. 3.2) takes the share of the batch that is like it;
  this does not depend on the size of the batch.

  Args:
    texts: Proposals of a step.
    said: All proposals of that step, these among them, and earlier problems.
  """
  copies = Counter(said)
  return [1 - 1 / copies[text] for text in texts]

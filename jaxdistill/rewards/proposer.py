"""What a proposal is worth."""

from jaxdistill.rewards.vote import Vote


def learnable(vote: Vote) -> float:
  """SQLM's proposer reward (arXiv 2508.03682, sec. 4.2, as released).

  1 if the solver has a majority but not a unanimous one (`1 < agreeing < n`):
  neither too hard nor too easy; else 0.
  """
  return float(1 < sum(vote.agrees_G) < len(vote.agrees_G))

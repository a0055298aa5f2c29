"""What an answer is worth: by the vote, by the task, or by a control."""

from collections.abc import Callable, Sequence

import numpy as np

from jaxdistill.rewards.vote import Vote
from jaxdistill.types import Problem

# (problem, answers, their vote, random draws) -> one reward per answer.
SolverReward = Callable[
  [Problem, Sequence[str | None], Vote, np.random.Generator], list[float]
]


def vote(problem, answers_G, vote, rng) -> list[float]:
  """1 for agreeing with the majority (arXiv 2508.03682; TTRL, 2504.16084)."""
  del problem, answers_G, rng
  return [float(agrees) for agrees in vote.agrees_G]


def known(problem, answers_G, vote, rng) -> list[float]:
  """What the task pays: the known answer in the vote's place, an upper bound.

  It reads labels; self-play proper does not.
  """
  del vote, rng
  return list(problem.task.reward(problem, answers_G))


def format_only(problem, answers_G, vote, rng) -> list[float]:
  """1 for any answer that can be read: a control for gains of format alone."""
  del problem, vote, rng
  return [float(answer is not None) for answer in answers_G]


def random(problem, answers_G, vote, rng) -> list[float]:
  """A fair coin per answer: a control for gains of training on oneself."""
  del problem, vote
  return [float(x) for x in rng.integers(0, 2, len(answers_G))]


SOLVER_REWARDS: dict[str, SolverReward] = {
  'vote': vote,
  'known': known,
  'format': format_only,
  'random': random,
}

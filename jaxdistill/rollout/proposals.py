"""What is asked in self-play, and where it comes from."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from jaxdistill import rewards
from jaxdistill.rollout.transcript import transcript
from jaxdistill.types import Problem, Rollout


@dataclasses.dataclass(frozen=True)
class Proposal:
  """A written problem.

  Attributes:
    rollout: As it was written.
    problem: As it is asked; None if it is not.
    rejected: Why it is not asked; empty if it is.
  """

  rollout: Rollout
  problem: Problem | None
  rejected: str = ''


@dataclasses.dataclass(frozen=True)
class Asked:
  """A problem and where it comes from; of a proposal, also its place."""

  problem: Problem
  source: Literal['proposed', 'bank', 'archive', 'known', 'given']
  proposal: int = -1


@dataclasses.dataclass(frozen=True)
class Answered:
  """What was asked, what was answered, and what it earned."""

  asked: Asked
  rollouts_G: Sequence[Rollout]
  answers_G: Sequence[str | None]
  vote: rewards.Vote
  earned_G: Sequence[float]

  def transcript(self) -> dict[str, Any]:
    return transcript(
      self.asked.problem,
      self.rollouts_G,
      self.answers_G,
      vote=self.vote.answer,
      rewards=[float(x) for x in self.earned_G],
    )


def read_proposal(rollout: Rollout, topic: Problem, address: int) -> Proposal:
  """A proposal as its task reads it, with its address."""
  problem = None
  if rollout.finish == 'stop':
    problem = topic.task.parse_problem(rollout.text)
  if problem is None:
    return Proposal(rollout, None, 'malformed')
  if problem.task.held_out(problem):
    return Proposal(rollout, None, 'held out')
  return Proposal(rollout, dataclasses.replace(problem, address=address))


def drawn_from(texts, topics, addresses, seed) -> list[Problem]:
  """One problem of a bank, or of the archive, for each address."""
  if not texts:
    return []
  rngs = [np.random.default_rng([*seed, each]) for each in addresses]
  drawn = [texts[rng.integers(len(texts))] for rng in rngs]
  return [
    dataclasses.replace(topics[0].task.parse_problem(text), address=each)
    for text, each in zip(drawn, addresses, strict=True)
  ]

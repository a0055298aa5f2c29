"""Majority vote over the answers to one problem."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

from jaxdistill.rewards.numbers import number
from jaxdistill.types import Rollout, Task


@dataclasses.dataclass(frozen=True)
class Vote:
  """The outcome of a vote.

  Attributes:
    answer: The majority answer; None if every answer stands alone, if two
      answers tie for the lead, or if nobody answered.
    count: How many voted for the most frequent answer, also where no answer
      won.
    agrees_G: Who voted for the majority; nobody where there is none.
  """

  answer: str | None
  count: int
  agrees_G: tuple[bool, ...]

  @property
  def share(self) -> float:
    """Of the samples that voted for the majority; 0 where there is none."""
    return sum(self.agrees_G) / max(len(self.agrees_G), 1)


def answers(task: Task, rollouts_G: Sequence[Rollout]) -> list[str | None]:
  """What each response answers; None where there is nothing or it was cut.

  A response that the length limit cut casts no vote: such answers formed wrong
  majorities.
  """
  return [
    task.parse_answer(r.text) if r.finish == 'stop' else None
    for r in rollouts_G
  ]


def majority(answers_G: Sequence[str | None]) -> Vote:
  """The most frequent answer, if it is alone in the lead with two or more.

  Numbers are compared as numbers: `'07'` and `'7'` are one answer.

  Args:
    answers_G: One answer per sample; None casts no vote.
  """
  keys_G = [a if a is None else _key(a) for a in answers_G]
  counts = Counter(k for k in keys_G if k is not None).most_common(2)
  if not counts:
    return Vote(None, 0, (False,) * len(answers_G))
  (leader, count), *others = counts
  if count < 2 or (others and others[0][1] == count):
    return Vote(None, count, (False,) * len(answers_G))
  agrees_G = tuple(k == leader for k in keys_G)
  return Vote(answers_G[agrees_G.index(True)], count, agrees_G)


def confidences(answers_G: Sequence[str | None]) -> list[float]:
  """Of each answer the share of the others that agree with it, 0 to 1.

  A response without an answer agrees with nobody.
  """
  keys_G = [a if a is None else _key(a) for a in answers_G]
  counts = Counter(k for k in keys_G if k is not None)
  others = max(len(keys_G) - 1, 1)
  return [0.0 if k is None else (counts[k] - 1) / others for k in keys_G]


def _key(answer: str) -> object:
  value = number(answer)
  return answer.strip() if value is None else value

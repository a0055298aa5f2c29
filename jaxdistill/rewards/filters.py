"""Which written problems are worth learning from.

What a writer's response holds, and the filters of CoT-Self-Instruct
(arXiv 2507.23751). A filter takes problems that have a label and says of each
whether it stays.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdistill.rewards.numbers import is_right
from jaxdistill.rewards.vote import answers, majority
from jaxdistill.types import Problem, Rollout

_PROBLEM = re.compile(r'\bproblem[*_]*:[*_]*', re.IGNORECASE)
_ANSWER = re.compile(
  r'^[#*_ ]*+(?:final )?answer[*_]*:[*_]*', re.IGNORECASE | re.MULTILINE
)


class Rip(NamedTuple):
  """What RIP reads off the scored responses to a problem.

  Attributes:
    least: The lowest score.
    length: Tokens of the response that has it, the first of them.
    gap: The highest score less the lowest.
  """

  least: float
  length: int
  gap: float


class Labelled(NamedTuple):
  """A written problem and what was made of it.

  Attributes:
    text: It.
    label: The majority answer; None where there is none.
    share: Of the votes that agree with the label.
    own: The writer's own answer.
    rip: Of the scored responses; None where none was scored.
    known: The right answer, read to be counted only.
  """

  text: str
  label: str | None
  share: float
  own: str | None = None
  rip: Rip | None = None
  known: str | None = None

  @classmethod
  def read(cls, record: Mapping[str, Any]) -> 'Labelled':
    """One that was JSON."""
    found = cls(**record)
    return found._replace(rip=found.rip and Rip(*found.rip))


def written(text: str) -> tuple[str, str]:
  """A problem and its answer at the end of a writer's response.

  The problem is what follows the last `Problem:`, the answer what follows the
  first line behind it that begins with `Answer:`; empty where there is none.
  """
  _, *behind = _PROBLEM.split(text)
  if not behind:
    return '', ''
  problem, *answer = _ANSWER.split(behind[-1], maxsplit=1)
  return problem.strip(), ''.join(answer).strip()


def rip(
  scores_G: Sequence[float] | np.ndarray, lengths_G: Sequence[int]
) -> Rip | None:
  """What RIP (arXiv 2501.18578) reads off scored responses to one problem.

  Args:
    scores_G: One per response; NaN where there is none.
    lengths_G: Tokens of each.

  Returns:
    None where no response has a score.
  """
  scores_G = np.asarray(scores_G, float)
  if np.isnan(scores_G).all():
    return None
  worst = int(np.nanargmin(scores_G))
  least = float(scores_G[worst])
  return Rip(least, int(lengths_G[worst]), float(np.nanmax(scores_G)) - least)


def labelled(
  problem: Problem,
  votes_G: Sequence[Rollout],
  own: str | None,
  scores_G: Sequence[float] | np.ndarray,
) -> Labelled:
  """What the answers to a written problem make of it.

  Args:
    problem: It.
    votes_G: The answers.
    own: The writer's.
    scores_G: What a verifier gave each, NaN where there is none.
  """
  vote = majority(answers(problem.task, votes_G))
  lengths_G = [len(r.tokens_T) for r in votes_G]
  return Labelled(
    *(problem.text, vote.answer, vote.share, own),
    rip(scores_G, lengths_G),
    problem.answer,
  )


def described(found: Sequence[Labelled]) -> dict[str, list[float]]:
  """Of problems: how many have a label, how often it is right, how sure."""
  named = [x for x in found if x.label is not None]
  scored = [x.rip for x in named if x.rip]
  known = [x for x in named if x.known is not None]
  return {
    'labelled': [float(x.label is not None) for x in found],
    'share': [x.share for x in named],
    'label_right': [float(is_right(x.label, x.known)) for x in known],
    'least_score': [x.least for x in scored],
    'score_gap': [x.gap for x in scored],
  }


def unfiltered(found: Sequence[Labelled], level: float) -> np.ndarray:
  """All stay, bool[N]."""
  del level
  return np.ones(len(found), bool)


def self_consistent(found: Sequence[Labelled], level: float) -> np.ndarray:
  """Those of whose votes more than `level` agree, bool[N]."""
  return np.array([x.share > level for x in found], bool)


def answer_matched(found: Sequence[Labelled], level: float) -> np.ndarray:
  """Those whose writer's own answer is the label, bool[N]."""
  del level
  return np.array([is_right(x.own, x.label) for x in found], bool)


def above_least(found: Sequence[Labelled], level: float) -> np.ndarray:
  """All but the share `level` of them whose lowest score is lowest, bool[N].

  So many go exactly (rounded down), of equals the later ones. What has no
  score goes first, and goes in any case.
  """
  least = np.array([np.nan if x.rip is None else x.rip.least for x in found])
  order = np.argsort(-least, kind='stable')  # what has no score is last
  stays = ~np.isnan(least)
  stays[order[len(found) - int(level * len(found)) :]] = False
  return stays


# Name -> which of the labelled problems stay, given a level.
FILTERS: Mapping[str, Callable[[Sequence[Labelled], float], np.ndarray]] = {
  'none': unfiltered,
  'self_consistency': self_consistent,
  'answer_match': answer_matched,
  'rip': above_least,
}

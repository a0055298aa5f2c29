"""A better and a worse response of the same problem, by a judge's scores."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxdistill.rewards.numbers import is_right
from jaxdistill.rewards.ranking import ordered
from jaxdistill.rewards.vote import answers
from jaxdistill.types import Problem, Rollout


class Judged(NamedTuple):
  """A response and what a judge makes of it.

  Attributes:
    by: Who said it: `own`, `past` or `future`.
    rollout: It.
    score: The judge's; NaN where it gives none.
  """

  by: str
  rollout: Rollout
  score: float


def preference_pair(
  judged_G: Sequence[Judged],
) -> tuple[Judged, Judged] | None:
  """The best of now, or of the future; the worst of now, or of the past.

  Temporal self-rewarding (arXiv 2508.06026): the chosen response is the best
  of `future` where that is strictly better than the best of `own`, the rejected
  one the worst of `past` where it is strictly worse than the worst of `own`.
  Without either it is self-rewarding's pair (arXiv 2401.10020, sec. 2.3). Of
  equal scores the first counts.

  Args:
    judged_G: Responses to one problem, `own` before others. One without a score
      is neither chosen nor rejected.

  Returns:
    Chosen and rejected, two different texts; None where no score is above
    another.
  """
  scored = [x for x in judged_G if not math.isnan(x.score)]
  upper = [x for x in scored if x.by in ('own', 'future')]
  lower = [x for x in scored if x.by in ('own', 'past')]
  if not (upper and lower):
    return None
  chosen = max(upper, key=lambda x: x.score)
  others = [x for x in lower if x.rollout.text != chosen.rollout.text]
  rejected = min(others, key=lambda x: x.score, default=chosen)
  return (chosen, rejected) if chosen.score > rejected.score else None


def pair_metrics(
  problems: Sequence[Problem], judged_PG: Sequence[Sequence[Judged]]
) -> dict[str, list[float]]:
  """What judged responses come to: the same names, whoever responded.

  `pairs`: by problem, whether there is one. `score_gap`: by pair, the chosen
  score less the rejected. `own_gap`: the same of the best and the worst of
  `own`, by problem with a score. `future_chosen`, `past_rejected`: by pair,
  whose its halves are. `judge_auc`: by right and wrong response of `own` to one
  problem, 1 if the right one scores more, a half where both score the same; the
  mean is the area under the judge's curve within problems, where pairs are
  made. `chosen_length`, `chosen_right` and so on: tokens, and whether the
  answer is right. What needs a known answer is silent without.
  """
  found: dict[str, list[float]] = {
    **{name: [] for name in ('pairs', 'score_gap', 'own_gap', 'judge_auc')},
    **{name: [] for name in ('future_chosen', 'past_rejected')},
    **{f'{half}_length': [] for half in ('chosen', 'rejected')},
    **{f'{half}_right': [] for half in ('chosen', 'rejected')},
  }
  for problem, judged_G in zip(problems, judged_PG, strict=True):
    own = [x for x in judged_G if x.by == 'own' and not math.isnan(x.score)]
    scores = np.array([x.score for x in own])
    found['own_gap'] += [float(np.ptp(scores))] if own else []
    if problem.answer is not None:
      right = np.array([_right(problem, x.rollout) for x in own])
      found['judge_auc'] += ordered(scores, right)
    pair = preference_pair(judged_G)
    found['pairs'].append(float(pair is not None))
    if pair is None:
      continue
    chosen, rejected = pair
    found['score_gap'].append(chosen.score - rejected.score)
    found['future_chosen'].append(float(chosen.by == 'future'))
    found['past_rejected'].append(float(rejected.by == 'past'))
    for name, half in (('chosen', chosen), ('rejected', rejected)):
      found[f'{name}_length'].append(len(half.rollout.tokens_T))
      if problem.answer is not None:
        found[f'{name}_right'].append(_right(problem, half.rollout))
  return found


def _right(problem: Problem, rollout: Rollout) -> float:
  (answer,) = answers(problem.task, [rollout])
  return float(is_right(answer, problem.answer))

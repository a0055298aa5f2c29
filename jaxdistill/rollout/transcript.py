"""What was said to one problem, as it is kept."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdistill import rewards
from jaxdistill.types import Problem, Rollout


def transcript(
  problem: Problem,
  rollouts_G: Sequence[Rollout],
  answers_G: Sequence[str | None] | None = None,
  by_text: Mapping[str, Sequence[Any]] | None = None,
  **more: Any,
) -> dict[str, Any]:
  """A record of `rollouts/`, by which a report says what was right.

  Args:
    problem: Asked.
    rollouts_G: The responses to it.
    answers_G: What they answer; None: it is read from them.
    by_text: What a method has to tell of each response, by name; a report shows
      it beside the text.
    more: What else it has to tell.
  """
  if answers_G is None:
    answers_G = rewards.answers(problem.task, rollouts_G)
  if by_text:
    more |= {**by_text, 'by_text': [*by_text]}
  return {
    'problem': problem.text,
    'known': problem.answer,
    'answers': answers_G,
    **more,
    'texts': [r.text for r in rollouts_G],
  }


def preferences(
  problem: Problem, judged_G: Sequence[rewards.Judged]
) -> dict[str, Any]:
  """The same of judged responses: by whom, what score, and who is paired."""
  halves = rewards.preference_pair(judged_G) or ()
  names = {
    id(x): name for x, name in zip(halves, ('chosen', 'rejected'), strict=False)
  }
  return transcript(
    problem,
    [x.rollout for x in judged_G],
    by_text={
      'by': [x.by for x in judged_G],
      'scores': [None if math.isnan(x.score) else x.score for x in judged_G],
      'paired': [names.get(id(x), '') for x in judged_G],
    },
  )

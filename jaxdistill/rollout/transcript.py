"""What was said to one problem, as it is kept."""

from collections.abc import Sequence
from typing import Any

from jaxdistill import rewards
from jaxdistill.types import Problem, Rollout


def transcript(
  problem: Problem,
  rollouts_G: Sequence[Rollout],
  answers_G: Sequence[str | None] | None = None,
  **more: Any,
) -> dict[str, Any]:
  """A record of `rollouts/`, by which a report says what was right.

  Args:
    problem: Asked.
    rollouts_G: The responses to it.
    answers_G: What they answer; None: it is read from them.
    more: What else a method has to tell, of the problem or by response.
  """
  if answers_G is None:
    answers_G = rewards.answers(problem.task, rollouts_G)
  return {
    'problem': problem.text,
    'known': problem.answer,
    'answers': answers_G,
    **more,
    'texts': [r.text for r in rollouts_G],
  }

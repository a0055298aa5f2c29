"""How far two players are from each other, token by token."""

from collections.abc import Sequence

import numpy as np

from jaxdistill import dist
from jaxdistill.batch import make_batch, take_rows
from jaxdistill.models.linear import place_of
from jaxdistill.rollout.player import Player
from jaxdistill.rollout.score import Apart, score_both
from jaxdistill.types import Prompt, Rollout, RowSet, response_row


def apart(
  student: Player,
  teacher: Player,
  rollouts: Sequence[Rollout],
  prompts: Sequence[Prompt],
  top: int,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """What two players would say in the place of each token of responses.

  All processes call it together, each with its own rollouts.

  Args:
    student: Who reads the responses after their own prompts.
    teacher: Who reads them after others.
    rollouts: This host's, all of one role over all hosts.
    prompts: What the teacher reads before each.
    top: Of how many likeliest tokens of each those in both are counted.

  Returns:
    By rollout KL(student || teacher) over the whole vocabulary, in nats,
    float32[T], and the share of the `top` likeliest that both have, float32[T].

  Raises:
    ValueError: The two have not the same vocabulary, or not the same roles.
  """
  role = student.role_of([r.prompt for r in rollouts])

  def read():
    _check(student, teacher, rollouts)
    if any(place_of(p.role, teacher.roles) != role for p in prompts):
      raise ValueError(
        'models are compared in one role, with the same place in both; these '
        f'have {student.roles} and {teacher.roles}'
      )
    return [teacher.encode(p) for p in prompts]

  rows = [
    response_row(rollout, 0, 0, teacher_prompt_T=ids)
    for rollout, ids in zip(rollouts, dist.together(read), strict=True)
  ]
  batch, places = make_batch(
    RowSet('', rows, taught=True), role, student.mesh, student.shapes
  )
  values = score_both(
    (student.graphdef, teacher.graphdef),
    (student.params, teacher.params),
    *(batch, np.float32(1)),
    what=Apart(top),
  )
  kl, shared = (take_rows(v, places, rows) for v in values)
  return kl, shared


def _check(student: Player, teacher: Player, rollouts: Sequence[Rollout]):
  """Refuses tokens that are not of both vocabularies."""
  names = {p.tokenizer.vocabulary for p in (student, teacher)}
  sizes = [p.config.vocab_size for p in (student, teacher)]
  if len(names | {r.vocabulary for r in rollouts} - {''}) > 1:
    raise ValueError(
      'models of different tokenizers have no KL token by token; they have a '
      "perplexity of each other's texts"
    )
  if sizes[0] != sizes[1]:
    raise ValueError(f'models of {sizes[0]} and {sizes[1]} tokens have no KL')

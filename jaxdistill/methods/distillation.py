"""What methods share that learn from a teacher's next tokens; no method itself.

Every response is scored twice, by the student after its own prompt and by the
teacher after another one or with other weights, and the student is drawn
towards the teacher token by token (`losses/distill.py`).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from jaxdistill import losses
from jaxdistill.batch import Batch
from jaxdistill.dist.hosts import sum_over_hosts
from jaxdistill.methods.method import check_choice
from jaxdistill.models.decoder import Decoder
from jaxdistill.rollout import merged
from jaxdistill.types import Rollout, Row, RowSet, response_row

# Logits of student and teacher, the tokens, and how -> value and reverse KL.
Distance = Callable[..., tuple[Array, Array]]


def _between(log_s, log_t, how: 'Distillation'):
  """A divergence over outcomes, and the reverse KL over the same."""
  terms = losses.divergence(how.alpha, how.rescaled)(log_s, log_t)
  value = losses.summed(terms, how.entry_clip)
  return value, losses.summed(losses.reverse_kl(log_s, log_t))


def _all(student, teacher, targets, how):
  del targets
  return _between(*losses.over_all(student, teacher), how)


def _student(student, teacher, targets, how):
  del targets
  pair = losses.over_student_top(student, teacher, how.support_k, how.tail)
  return _between(*pair, how)


def _teacher(student, teacher, targets, how):
  del targets
  pair = losses.over_teacher_top(student, teacher, how.support_k, how.tail)
  return _between(*pair, how)


def _sampled(student, teacher, targets, how):
  del how
  logp, teacher_logp = (
    losses.token_logp(logits, targets) for logits in (student, teacher)
  )
  return losses.sampled_token(logp, teacher_logp), logp - teacher_logp


SUPPORTS: dict[str, Distance] = {
  'all': _all,
  'student': _student,
  'teacher': _teacher,
  'sampled': _sampled,
}


def check_alpha(alpha: float) -> None:
  """Finds a mixture of the two KLs that cannot be.

  Raises:
    ValueError: It is none.
  """
  if not 0 <= alpha <= 1:
    raise ValueError(
      f'method.alpha is {alpha}; it must be from 0 (forward KL) to 1 '
      '(reverse KL)'
    )


@dataclasses.dataclass(frozen=True)
class Distillation:
  """How a student is drawn towards its teacher.

  A method holds one as a field; its keys are then keys of the method.

  Attributes:
    alpha: 0 is the forward KL, 1 the reverse, what is between them the
      generalised JSD, see `losses/distill.py`.
    rescaled: Whether that is divided by `alpha (1 - alpha)`.
    support: Over which tokens: `all` of the vocabulary, the likeliest ones of
      the `student` or of the `teacher`, or the `sampled` one, for the reverse
      KL.
    support_k: How many the likeliest are.
    tail: Whether all other tokens count as one more, or not at all.
    entry_clip: What a token of the vocabulary contributes at most, in nats; 0
      is no limit.
    late: Tokens weigh by this power of their place in the response: teachers
      are more reliable late (arXiv 2605.21606); 0 is alike.
    entropy: Tokens weigh `exp(-entropy * H)` with the teacher's entropy `H` in
      nats (SRPO, arXiv 2604.02288, eq. 9); 0 is alike. The mean weight of a
      step is 1.
  """

  alpha: float = 0.5
  rescaled: bool = False
  support: str = 'student'
  support_k: int = 100
  tail: bool = True
  entry_clip: float = 0.0
  late: float = 0.0
  entropy: float = 0.0

  def __post_init__(self):
    check_choice(self, 'support', SUPPORTS)
    check_alpha(self.alpha)
    if self.support == 'sampled' and self.alpha != 1:
      raise ValueError(
        f'method.alpha is {self.alpha}; from the sampled token alone only the '
        'reverse KL is known: method.alpha=1'
      )

  def loss(
    self,
    model: Decoder,
    batch: Batch,
    teachers: Sequence[Decoder],
    temperature: float,
    mix: Callable[..., Array] = lambda teacher: teacher,
  ) -> tuple[Float[Array, 'B R'], dict[str, Float[Array, 'B R']]]:
    """The distance of each token; `kl_teacher` is the reverse KL over
    the support.

    Where rows say by which log-prob the student drew a token, one that has
    become likelier since weighs more, at most `importance_cap` times as much
    (SDPO, arXiv 2601.20802).

    Args:
      model: The student.
      batch: Perhaps with the field `old_logp` and the coefficient
        `importance_cap`.
      teachers: Who is followed; they read the teacher's prompts.
      temperature: Divides the logits of all.
      mix: Makes one teacher's logits of those of all.
    """

    drawn = 'old_logp' in batch.fields

    def distance(student, *others):
      *others, targets = others
      logp = losses.token_logp(student / temperature, targets)
      student, *others = losses.in_common(student, *others)
      teacher = mix(*others)
      value, kl = SUPPORTS[self.support](
        student / temperature, teacher / temperature, targets, self
      )
      return value, kl, logp

    value, kl, logp = batch.over_targets(
      distance, model, *teachers, arrays=(batch.targets,)
    )
    if drawn:
      cap: Any = batch.coefficients['importance_cap']
      since = logp - batch.fields['old_logp']
      value *= losses.truncated_importance(since, cap)
    return value, {'kl_teacher': kl}

  def weights(self, length: int) -> np.ndarray:
    """What each token of a response weighs by its place, float32[R]."""
    place_R = (np.arange(length) + 1.0) / length
    weight_R = place_R**self.late
    return (weight_R / weight_R.mean()).astype(np.float32)


# As it is where nobody sets it; and what says how far student and teacher are.
UNTAUGHT = Distillation()
DISTANCE = ('alpha', 'rescaled', 'support', 'support_k', 'tail', 'entry_clip')


def taught_rows(
  rollouts: Sequence[Rollout],
  weights: Sequence[np.ndarray],
  teacher_prompts: Sequence[np.ndarray | None],
) -> list[Row]:
  """Rows whose every token counts the same on average, by token.

  Identical responses that the teacher reads after the same prompt are trained
  once, their number in the weight.

  Args:
    rollouts: Responses to learn from.
    weights: Of the tokens of each, float32[R].
    teacher_prompts: What the teacher reads before each, int32[T]; None where
      it is the student's prompt.
  """
  return merged(
    [
      response_row(
        r,
        weight=weight_R,
        total=len(r.tokens_T),
        teacher_prompt_T=ids,
        old_logp=r.logp_T,
      )
      for r, weight_R, ids in zip(
        rollouts, weights, teacher_prompts, strict=True
      )
    ]
  )


def drawn_set(
  rows: Sequence[Row], importance_cap: float, taught: bool = False
) -> RowSet:
  """Rows of what the student drew, as a set that `Distillation.loss` reads.

  Args:
    rows: From `taught_rows`.
    importance_cap: What a token weighs at most that has become likelier.
    taught: Whether the teacher reads prompts of its own.
  """
  cap = {'importance_cap': importance_cap}
  return RowSet('solver', rows, ('old_logp',), cap, taught=taught)


def by_share(
  sets: Sequence[Sequence[Row]], tokens: Sequence[int]
) -> list[list[Row]]:
  """Rows of several sets that count by their share of the tokens of all.

  Every set is averaged by its own denominator; summed as they are, few rows of
  one would count as much as many of another.

  Args:
    sets: Rows of this host.
    tokens: How many tokens of this host each set is of.
  """
  everyones = sum_over_hosts(np.array(tokens))
  shares = everyones / max(everyones.sum(), 1)
  return [
    [
      dataclasses.replace(row, weight_R=np.float32(share) * row.weight_R)
      for row in rows
    ]
    for rows, share in zip(sets, shares.tolist(), strict=True)
  ]

"""How far a student's next token is from a teacher's, token by token.

S is the student's distribution after a prefix, T the teacher's. A divergence is
a sum over outcomes of what each contributes; which outcomes there are is the
*support*: the whole vocabulary, or a few tokens and a bucket for the rest. All
of it works on a chunk of tokens (`Batch.over_targets`), so that no array of
`[B, R, V]` exists. No gradient is meant to go through T.

| alpha  | divergence                                                      |
|--------|-----------------------------------------------------------------|
| 0      | forward KL, `sum T (log T - log S)`: covers all that T may say  |
| 1      | reverse KL, `sum S (log S - log T)`: seeks one of T's modes     |
| others | generalised JSD, `alpha KL(T|M) + (1 - alpha) KL(S|M)` with the |
|        | mixture `M = alpha T + (1 - alpha) S` (GKD, arXiv 2306.13649)   |

Beware of the scale: the JSD is not a blend of the two ends but vanishes towards
both, as `alpha` times the forward and as `1 - alpha` times the reverse KL: at
`alpha = 0.01` it is a hundredth of what it is at 0. Adam hides the scale of a
loss that stands alone, not that of one beside others, nor what clipping the
gradient does. Divided by `alpha (1 - alpha)` (`rescaled`) the family is
continuous from end to end.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Log-probs of the outcomes under student and teacher -> what each contributes.
Divergence = Callable[
  [Float[Array, '*Z V'], Float[Array, '*Z V']], Float[Array, '*Z V']
]


def forward_kl(
  log_s: Float[Array, '*Z V'], log_t: Float[Array, '*Z V']
) -> Float[Array, '*Z V']:
  """What each outcome contributes to KL(T|S)."""
  return jnp.exp(log_t) * (log_t - log_s)


def reverse_kl(
  log_s: Float[Array, '*Z V'], log_t: Float[Array, '*Z V']
) -> Float[Array, '*Z V']:
  """What each outcome contributes to KL(S|T)."""
  return forward_kl(log_t, log_s)


def generalised_jsd(
  log_s: Float[Array, '*Z V'], log_t: Float[Array, '*Z V'], alpha: float
) -> Float[Array, '*Z V']:
  """What each outcome contributes to the generalised Jensen-Shannon divergence.

  Args:
    log_s: Log-probs of the student.
    log_t: Log-probs of the teacher.
    alpha: Share of the teacher in the mixture, between 0 and 1.
  """
  log_m = jnp.logaddexp(log_t + jnp.log(alpha), log_s + jnp.log1p(-alpha))
  to_teacher, to_student = forward_kl(log_m, log_t), forward_kl(log_m, log_s)
  return alpha * to_teacher + (1 - alpha) * to_student


def divergence(alpha: float, rescaled: bool = False) -> Divergence:
  """The divergence that `alpha` names.

  Args:
    alpha: From 0, the forward KL, to 1, the reverse.
    rescaled: Whether what is between them is divided by `alpha (1 - alpha)`.
  """
  if alpha in (0, 1):
    return reverse_kl if alpha else forward_kl
  jsd = functools.partial(generalised_jsd, alpha=alpha)
  if not rescaled:
    return jsd
  return lambda log_s, log_t: jsd(log_s, log_t) / (alpha * (1 - alpha))


def summed(
  contributions: Float[Array, '*Z V'], entry_clip: float = 0.0
) -> Float[Array, '*Z']:
  """A divergence, from what each outcome contributes to it.

  Args:
    contributions: From a `Divergence`.
    entry_clip: If above 0, none counts for more. Words of style carry many
      times what the others do; what is left may then be negative, because only
      what is positive is cut (OPSD, arXiv 2601.18734, pointwise clip).
  """
  if entry_clip:
    contributions = jnp.minimum(contributions, entry_clip)
  return jnp.sum(contributions, -1)


def in_common(*logits: Float[Array, '...']) -> list[Array]:
  """The logits of the tokens that all models have room for.

  Models of one tokenizer may have different room for what it lacks.
  """
  size = min(x.shape[-1] for x in logits)
  return [x[..., :size] for x in logits]


def over_all(
  student: Float[Array, '*Z V'], teacher: Float[Array, '*Z V']
) -> tuple[Float[Array, '*Z V'], Float[Array, '*Z V']]:
  """Log-probs of the whole vocabulary under both, from logits: exact."""
  return jax.nn.log_softmax(student), jax.nn.log_softmax(teacher)


def over_student_top(
  student: Float[Array, '*Z V'],
  teacher: Float[Array, '*Z V'],
  k: int,
  tail: bool = True,
) -> tuple[Array, Array]:
  """Log-probs of the student's k likeliest tokens under both.

  This is the support of SDPO (arXiv 2601.20802).

  Args:
    student: Logits.
    teacher: Logits.
    k: How many tokens; all, if there are no more.
    tail: Whether all others are one more outcome. It makes the divergence a
      lower bound of the exact one (outcomes are only merged). Without it both
      are renormalised over the k, and mass that leaks to others is not seen.

  Returns:
    Under the student and under the teacher, float[..., k] or [..., k + 1].
  """
  _, ids = jax.lax.top_k(student, min(k, student.shape[-1]))
  return _of(student, ids, tail), _of(teacher, ids, tail)


def over_teacher_top(
  student: Float[Array, '*Z V'],
  teacher: Float[Array, '*Z V'],
  k: int,
  tail: bool = True,
) -> tuple[Array, Array]:
  """The same of the teacher's k likeliest tokens; suits the forward KL."""
  _, ids = jax.lax.top_k(teacher, min(k, teacher.shape[-1]))
  return _of(student, ids, tail), _of(teacher, ids, tail)


def over_given(
  student: Float[Array, '*Z V'],
  ids: Int[Array, '*Z C'],
  teacher_logp: Float[Array, '*Z C'],
  tail: bool = True,
) -> tuple[Array, Array]:
  """The same of tokens whose log-probs a teacher has left behind.

  Args:
    student: Logits.
    ids: The tokens.
    teacher_logp: Their log-probs, of the full softmax.
    tail: As above.
  """
  return _of(student, ids, tail), _closed(teacher_logp, tail)


def _of(logits, ids, tail):
  total = jax.nn.logsumexp(logits, -1, keepdims=True)
  return _closed(jnp.take_along_axis(logits, ids, -1) - total, tail)


def _closed(logp, tail):
  """Log-probs of k tokens as a distribution: with a tail, or renormalised."""
  total = jax.nn.logsumexp(logp, -1, keepdims=True)
  if not tail:
    return logp - total
  # Of what rounding leaves: in float32 a rest below 1e-4 is known to a percent.
  rest = jnp.log(-jnp.expm1(jnp.minimum(total, -1e-7)))
  return jnp.concatenate([logp, rest], -1)


def token_logp(
  logits: Float[Array, '*Z V'], tokens: Int[Array, '*Z']
) -> Float[Array, '*Z']:
  """log p of one token each."""
  picked = jnp.take_along_axis(logits, tokens[..., None], -1)[..., 0]
  return picked - jax.nn.logsumexp(logits, -1)


def sampled_token(
  logp: Float[Array, '*Z'], teacher_logp: Float[Array, '*Z']
) -> Float[Array, '*Z']:
  """What has the gradient of the reverse KL, from the sampled token alone.

  `-A log S(y)` with the constant `A = log T(y) - log S(y)`: for tokens that the
  student sampled, its gradient is that of KL(S|T) after the same prefix on
  average, and of high variance. What a token does to later ones is left out, as
  it is in all divergences here.

  Args:
    logp: Log-prob of the token under the student, differentiated.
    teacher_logp: Under the teacher.
  """
  advantage = jax.lax.stop_gradient(teacher_logp - logp)
  return -advantage * logp

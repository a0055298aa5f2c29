"""Of two responses the better one: a value per pair, at each of its tokens.

A pair's margin is how much likelier its chosen response has become than its
rejected one, against a reference; a loss is a function of it. Each token of a
pair weighs `1 / tokens of the pair`, and the pair is 1 of the denominator.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxdistill.losses.policy import sum_over

# (log-ratios, signs, trained, segments, pairs) -> margin at each token.
Margin = Callable[
  [
    Float[Array, 'B R'],
    Float[Array, 'B R'],
    Bool[Array, 'B R'],
    Int[Array, 'B R'],
    Int[Array, 'B R'],
  ],
  Float[Array, 'B R'],
]


def margin_of_sums(
  log_ratio: Float[Array, 'B R'],
  sign: Float[Array, 'B R'],
  trained: Bool[Array, 'B R'],
  segments: Int[Array, 'B R'],
  pairs: Int[Array, 'B R'],
) -> Float[Array, 'B R']:
  """Sum of log-ratios over the chosen less that over the rejected response.

  Args:
    log_ratio: Log-probs under the policy minus those under the reference.
    sign: 1 at tokens of a chosen response, -1 at those of a rejected one.
    trained: Which tokens are of a response.
    segments: Which response of the packed sequence a token is of.
    pairs: Which pair.
  """
  del segments
  return sum_over(jnp.where(trained, sign * log_ratio, 0), pairs)


def margin_of_means(
  log_ratio: Float[Array, 'B R'],
  sign: Float[Array, 'B R'],
  trained: Bool[Array, 'B R'],
  segments: Int[Array, 'B R'],
  pairs: Int[Array, 'B R'],
) -> Float[Array, 'B R']:
  """The same of means over each response's tokens; see `margin_of_sums`."""
  length = sum_over(trained.astype(log_ratio.dtype), segments)
  share = sign * log_ratio / jnp.maximum(length, 1)
  return sum_over(jnp.where(trained, share, 0), pairs)


def dpo(
  margin: Float[Array, '*Z'], beta: Float[Array, ''] | float
) -> Float[Array, '*Z']:
  """`-log sigma(beta * margin)` (DPO, arXiv 2305.18290, eq. 7).

  Args:
    margin: Of sums.
    beta: How strongly the reference holds. The gradient of a pair is
      `-beta * sigma(-beta * margin)` times that of its margin: pairs that are
      apart already teach little.
  """
  return -jax.nn.log_sigmoid(beta * margin)


def ipo(
  margin: Float[Array, '*Z'], tau: Float[Array, ''] | float
) -> Float[Array, '*Z']:
  """`(margin - 1 / (2 tau))^2` (IPO, arXiv 2310.12036, eq. 17).

  The margin has an aim, so it does not grow without end where one response is
  always preferred. It is that of means, as TRL has it, which says that the
  paper's authors confirm that theirs was; the paper writes sums.

  Args:
    margin: Of means.
    tau: How strongly the reference holds.
  """
  return (margin - 1 / (2 * tau)) ** 2


# Which margin, and the loss of it.
PREFERENCES: dict[str, tuple[Margin, Callable[..., Array]]] = {
  'dpo': (margin_of_sums, dpo),
  'ipo': (margin_of_means, ipo),
}


def preference(
  logp: Float[Array, 'B R'],
  trained: Bool[Array, 'B R'],
  segments: Int[Array, 'B R'],
  pairs: Int[Array, 'B R'],
  fields: Mapping[str, Float[Array, 'B R']],
  beta: Float[Array, ''] | float,
  name: str = 'dpo',
) -> tuple[Float[Array, 'B R'], dict[str, Float[Array, 'B R']]]:
  """The loss of pairs, against the policy as it was before the update.

  Args:
    logp: Log-probs under the current policy.
    trained: Which tokens are of a response.
    segments: Which response of the packed sequence a token is of.
    pairs: Which pair.
    fields: `sign`, see `margin_of_sums`; `old_logp`, the reference's log-probs;
      and `start_logp` of older rows, those of the policy that the update began
      with, which then are the reference: inf where that is the current one.
    beta: How strongly the reference holds.
    name: One of `PREFERENCES`.

  Returns:
    The value to be minimised; `margin`, and `chosen_ratio`, its part that is
    the chosen response's: below 0, that one became less likely too.
  """
  logp, reference = jnp.where(trained, logp, 0), fields['old_logp']
  if 'start_logp' in fields:
    given, own = fields['start_logp'], jax.lax.stop_gradient(logp)
    reference = jnp.where(trained & ~jnp.isposinf(given), given, own)
  margin_of, value = PREFERENCES[name]
  margin, chosen = (
    margin_of(logp - reference, sign, trained, segments, pairs)
    for sign in (fields['sign'], jnp.maximum(fields['sign'], 0))
  )
  return value(margin, beta), {'margin': margin, 'chosen_ratio': chosen}

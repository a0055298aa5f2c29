"""Policy-gradient values and divergences, per token."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# (log-ratios, trained, segments) -> the log-ratio that stands at each token.
Ratio = Callable[
  [Float[Array, 'B R'], Bool[Array, 'B R'], Int[Array, 'B R']],
  Float[Array, 'B R'],
]


def token_ratio(
  log_ratio: Float[Array, 'B R'],
  trained: Bool[Array, 'B R'],
  segments: Int[Array, 'B R'],
) -> Float[Array, 'B R']:
  """Each token's own (PPO, arXiv 1707.06347; GRPO)."""
  del trained, segments
  return log_ratio


def sequence_ratio(
  log_ratio: Float[Array, 'B R'],
  trained: Bool[Array, 'B R'],
  segments: Int[Array, 'B R'],
) -> Float[Array, 'B R']:
  """The log-ratio of the whole response, at each of its tokens.

  A response is one action (RLOO, arXiv 2402.14740, sec. 3.3). The paper is on
  policy, where the ratio is 1; this is what TRL does off policy.

  Args:
    log_ratio: Log-probs under one policy minus those under another.
    trained: Which tokens are of a response.
    segments: Which response of the packed sequence a token is of.
  """
  return sum_over(jnp.where(trained, log_ratio, 0), segments)


def sequence_mean_ratio(
  log_ratio: Float[Array, 'B R'],
  trained: Bool[Array, 'B R'],
  segments: Int[Array, 'B R'],
) -> Float[Array, 'B R']:
  """The response's mean log-ratio, at each token (GSPO, 2507.18071, eq. 7).

  Args:
    log_ratio: Log-probs under one policy minus those under another.
    trained: Which tokens are of a response.
    segments: Which response of the packed sequence a token is of.
  """
  count = sum_over(trained.astype(log_ratio.dtype), segments)
  total = sequence_ratio(log_ratio, trained, segments)
  return total / jnp.maximum(count, 1)


def sum_over(
  values: Float[Array, 'B R'], segments: Int[Array, 'B R']
) -> Float[Array, 'B R']:
  """The sum over each response, or pair, at every one of its tokens.

  A value per response is written so: the same at each of its tokens, each of
  them with the weight `1 / length`.

  Args:
    values: One per token.
    segments: `Batch.segments`, or `Batch.pairs`.
  """

  def row(values, segments):
    sums = jax.ops.segment_sum(values, segments, values.shape[0] + 1)
    return sums[segments]

  return jax.vmap(row)(values, segments)


def clipped_policy(
  log_ratio: Float[Array, '*Z'],
  advantage: Float[Array, '*Z'],
  clip_low: Float[Array, ''] | float,
  clip_high: Float[Array, ''] | float,
) -> Float[Array, '*Z']:
  """The clipped surrogate (PPO, arXiv 1707.06347, eq. 7), to be minimised.

  `-min(r * A, clip(r, 1 - low, 1 + high) * A)` with `r = exp(log_ratio)`. With
  `high > low` it is DAPO's clip-higher (arXiv 2503.14476, eq. 8).

  Args:
    log_ratio: Log-prob under the current policy minus that under the policy
      that sampled or, of older rows, that the update began with, at the same
      temperature.
    advantage: `A`.
    clip_low: How far below 1 the ratio counts.
    clip_high: How far above 1.
  """
  # Far beyond any range; a ratio that overflows would make 0 * inf of A = 0.
  ratio = jnp.exp(jnp.clip(log_ratio, -20.0, 20.0))
  clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
  return -jnp.minimum(ratio * advantage, clipped * advantage)


def truncated_importance(
  log_ratio: Float[Array, '*Z'], cap: Float[Array, ''] | float
) -> Float[Array, '*Z']:
  """What a sample of another policy weighs, at most `cap`; a constant.

  `min(exp(log_ratio), cap)`: a few samples that were all but impossible there
  do not outweigh all others (truncated importance sampling, Ionides, JCGS
  17(2), 2008).

  Args:
    log_ratio: Log-prob under the policy that learns minus that under the
      policy that sampled.
    cap: At least 1, so that samples of the very policy count whole.
  """
  return jax.lax.stop_gradient(jnp.minimum(jnp.exp(log_ratio), cap))


def k3(
  logp: Float[Array, '*Z'], anchor_logp: Float[Array, '*Z']
) -> Float[Array, '*Z']:
  """Estimate of KL(policy || anchor) on the policy's own tokens.

  `exp(d) - d - 1` with `d = anchor_logp - logp`: never negative, unbiased
  (Schulman, "Approximating KL divergence", 2020; used as in GRPO,
  arXiv 2402.03300, eq. 4).
  """
  d = anchor_logp - logp
  return jnp.expm1(d) - d


def policy_gradient(
  logp: Float[Array, 'B R'],
  trained: Bool[Array, 'B R'],
  segments: Int[Array, 'B R'],
  fields: Mapping[str, Float[Array, 'B R']],
  coefficients: Mapping[str, Float[Array, ''] | float],
  ratio: Ratio = token_ratio,
) -> tuple[Float[Array, 'B R'], dict[str, Float[Array, 'B R']]]:
  """Clipped policy plus KL: GRPO (arXiv 2402.03300, eq. 3) and its kin.

  Where rows were drawn by older weights, the policy that sampled and the one
  that the clipped ratio holds on to are two (decoupled PPO: Hilton et al.,
  arXiv 2110.00641; AReaL, arXiv 2505.24298): the ratio is to
  `start_logp`, and the clipped value is weighed by how much likelier the tokens
  became from `old_logp` to there, truncated. The divergence is not weighed.

  Args:
    logp: Log-probs under the current policy.
    trained: Which tokens count. Others get the value that `logp = 0` has, so
      that an all but impossible token of a prompt breaks nothing.
    segments: Which response of the packed sequence a token is of.
    fields: `old_logp` and `advantage`; `anchor_logp`, without which there is
      no divergence; and `start_logp` of older rows, under the policy that the
      update began with, inf where that is the current one.
    coefficients: `clip_low`, `clip_high`, and `kl`, the weight of the
      divergence; for older rows `importance_cap`.
    ratio: What is clipped, see `policy_gradient`.

  Returns:
    The value to be minimised, `clipped` (1 where the ratio is out of its
    range), of older rows `capped` (1 where the weight is truncated) and, with
    an anchor, `kl_base`.
  """
  logp = jnp.where(trained, logp, 0.0)
  old_logp = start_logp = fields['old_logp']
  if 'start_logp' in fields:
    given, own = fields['start_logp'], jax.lax.stop_gradient(logp)
    start_logp = jnp.where(trained & ~jnp.isposinf(given), given, own)
  log_ratio = ratio(logp - start_logp, trained, segments)
  low, high = coefficients['clip_low'], coefficients['clip_high']
  policy = clipped_policy(log_ratio, fields['advantage'], low, high)
  beyond = (log_ratio < jnp.log1p(-low)) | (log_ratio > jnp.log1p(high))
  metrics = {'clipped': beyond.astype(policy.dtype)}
  if 'start_logp' in fields:
    since, cap = start_logp - old_logp, coefficients['importance_cap']
    since = ratio(since, trained, segments)
    policy = policy * truncated_importance(since, cap)
    metrics['capped'] = (since > jnp.log(cap)).astype(policy.dtype)
  if 'anchor_logp' not in fields:
    return policy, metrics
  kl = k3(logp, fields['anchor_logp'])
  return policy + coefficients['kl'] * kl, metrics | {'kl_base': kl}

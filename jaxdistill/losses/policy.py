"""Policy-gradient values and divergences, per token."""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def clipped_policy(
  logp: Float[Array, '*N'],
  old_logp: Float[Array, '*N'],
  advantage: Float[Array, '*N'],
  clip: Float[Array, ''] | float,
) -> Float[Array, '*N']:
  """The clipped surrogate (PPO, arXiv 1707.06347, eq. 7), to be minimised.

  `-min(r * A, clip(r, 1 - c, 1 + c) * A)` with `r = exp(logp - old_logp)`.

  Args:
    logp: Log-probs under the current policy.
    old_logp: Log-probs under the policy that sampled, at the same temperature.
    advantage: `A`.
    clip: `c`.
  """
  ratio = jnp.exp(logp - old_logp)
  clipped = jnp.clip(ratio, 1 - clip, 1 + clip)
  return -jnp.minimum(ratio * advantage, clipped * advantage)


def k3(
  logp: Float[Array, '*N'], anchor_logp: Float[Array, '*N']
) -> Float[Array, '*N']:
  """Estimate of KL(policy || anchor) on the policy's own tokens.

  `exp(d) - d - 1` with `d = anchor_logp - logp`: never negative, unbiased
  (Schulman, "Approximating KL divergence", 2020; used as in GRPO,
  arXiv 2402.03300, eq. 4).
  """
  d = anchor_logp - logp
  return jnp.expm1(d) - d


def grpo(
  logp: Float[Array, '*N'],
  trained: Bool[Array, '*N'],
  fields: Mapping[str, Float[Array, '*N']],
  coefficients: Mapping[str, Float[Array, ''] | float],
) -> tuple[Float[Array, '*N'], dict[str, Float[Array, '*N']]]:
  """GRPO's objective (arXiv 2402.03300, eq. 3): clipped policy plus KL.

  Args:
    logp: Log-probs under the current policy.
    trained: Which tokens count. Others get the value that `logp = 0` has, so
      that an all but impossible token of a prompt breaks nothing.
    fields: `old_logp`, `advantage` and `anchor_logp`.
    coefficients: `clip`, and `kl`, the weight of the divergence.

  Returns:
    The value to be minimised, and `kl_base`.
  """
  logp = jnp.where(trained, logp, 0.0)
  policy = clipped_policy(
    logp, fields['old_logp'], fields['advantage'], coefficients['clip']
  )
  kl = k3(logp, fields['anchor_logp'])
  return policy + coefficients['kl'] * kl, {'kl_base': kl}

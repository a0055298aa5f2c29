"""Policy-gradient values and divergences, per token."""

import jax.numpy as jnp
from jaxtyping import Array, Float


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

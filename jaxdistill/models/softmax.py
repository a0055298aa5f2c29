"""Softmax of logits that come a block at a time (FlashAttention-2, arXiv
2307.08691): the arithmetic that all forms of attention share.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def soft_cap(x: Float[Array, '*Z'], cap: float) -> Float[Array, '*Z']:
  """`cap * tanh(x / cap)` (Gemma 2, arXiv 2408.00118, sec. 2); 0 is none."""
  return cap * jnp.tanh(x / cap) if cap else x


def softmax_step(
  logits: Float[Array, '...'],
  mask: Bool[Array, '...'],
  top: Float[Array, '...'],
  total: Float[Array, '...'],
) -> tuple[Float[Array, '...'], ...]:
  """One block of keys more (FlashAttention-2, arXiv 2307.08691, algorithm 1).

  Args:
    logits: `[... T S]`, capped.
    mask: Which of them count.
    top: Greatest logit so far, `[... T 1]`; -1e30 before the first.
    total: Sum of exp(logit - top) so far, `[... T 1]`.

  Returns:
    Weights to add, the factor of what was added before, and the new `top` and
    `total`.
  """
  above = jnp.max(jnp.where(mask, logits, -1e30), -1, keepdims=True)
  new = jnp.maximum(top, above)
  p = jnp.where(mask, jnp.exp(logits - new), 0)
  old = jnp.exp(top - new)
  return p, old, new, total * old + p.sum(-1, keepdims=True)


def log_sum(
  top: Float[Array, '...'], total: Float[Array, '...']
) -> Float[Array, '...']:
  """log of the sum of exponentials; 0 where nothing was seen."""
  some = total > 0
  return jnp.where(some, top + jnp.log(jnp.where(some, total, 1)), 0)


def softmax_pull(
  logits: Float[Array, '...'],
  mask: Bool[Array, '...'],
  log_total: Float[Array, '...'],
  pulled: Float[Array, '...'],
  delta: Float[Array, '...'],
  cap: float,
) -> tuple[Float[Array, '...'], Float[Array, '...']]:
  """Weights of a block again, and the gradient of its uncapped logits.

  FlashAttention-2, algorithm 2; either way round, as the shapes broadcast.

  Args:
    logits: Capped.
    mask: Which of them count.
    log_total: What `log_sum` gave.
    pulled: Gradient of the weights.
    delta: Inner product of each output and its gradient.
    cap: Of the logits; 0 is none.
  """
  p = jnp.where(mask, jnp.exp(logits - log_total), 0)
  grads = p * (pulled - delta)
  return p, grads * (1 - jnp.square(logits / cap)) if cap else grads

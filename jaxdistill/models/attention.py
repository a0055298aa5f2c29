"""Attention over whole sequences."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxdistill.models.config import DecoderConfig

_NEG = -1e30


def soft_cap(x: Float[Array, '*Z'], cap: float) -> Float[Array, '*Z']:
  """`cap * tanh(x / cap)` (Gemma 2, arXiv 2408.00118, sec. 2); 0 is none."""
  return cap * jnp.tanh(x / cap) if cap else x


def attend(
  q: Float[Array, 'B T N H'],
  k: Float[Array, 'B S K H'],
  v: Float[Array, 'B S K H'],
  mask: Bool[Array, 'B T S'],
  config: DecoderConfig,
) -> Float[Array, 'B T N H']:
  """Attention with grouped queries, softmax in float32."""
  b, t, n, h = q.shape
  kv = k.shape[2]
  q = q.reshape(b, t, kv, n // kv, h)
  exact = {'preferred_element_type': jnp.float32}
  logits = jnp.einsum('btknh,bskh->bknts', q, k, **exact)
  logits = soft_cap(logits, config.attention_cap)
  p = jax.nn.softmax(jnp.where(mask[:, None, None], logits, _NEG), -1)
  out = jnp.einsum('bknts,bskh->btknh', p.astype(q.dtype), v, **exact)
  return out.astype(q.dtype).reshape(b, t, n, h)

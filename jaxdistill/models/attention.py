"""Attention: of whole sequences, and of one new token per row."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

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


def attend_rows(
  q: Float[Array, 'W U N H'],
  prompt: tuple[Float[Array, 'W B K S H'], Float[Array, 'W B K S H']],
  own: tuple[Float[Array, 'W U K T H'], Float[Array, 'W U K T H']],
  slots: Int[Array, 'W U'],
  masks: tuple[Bool[Array, 'W B S'], Bool[Array, 'T']],
  group: int,
  config: DecoderConfig,
) -> Float[Array, 'W U N H']:
  """Attention of one new token per row, softmax in float32.

  A prompt's keys are read once for all rows of it and never repeated: queries,
  which are small, go to where they are.
  """
  (d, n, m, h), (prompt_k, prompt_v), (own_k, own_v) = q.shape, prompt, own
  b, kv = prompt_k.shape[1:3]
  q = q.reshape(d, n, kv, m // kv, h)
  exact = {'preferred_element_type': jnp.float32}

  # By vmap, for indices that name the shard make XLA gather from all of them.
  def go(x):
    out = jnp.zeros((d, b * group, *x.shape[2:]), x.dtype)
    out = jax.vmap(lambda o, i, x: o.at[i].set(x, mode='drop'))(out, slots, x)
    return out.reshape(d, b, group, *x.shape[2:])

  def come_back(x):
    x = x.reshape(d, b * group, *x.shape[3:])
    get = jax.vmap(lambda x, i: x.at[i].get(mode='fill', fill_value=0))
    return get(x, slots)

  there = jnp.einsum('dbgkmh,dbksh->dbgkms', go(q), prompt_k, **exact)
  here = jnp.einsum('dnkmh,dnkth->dnkmt', q, own_k, **exact)
  there, here = (soft_cap(x, config.attention_cap) for x in (there, here))
  there = jnp.where(masks[0][:, :, None, None, None], there, _NEG)
  here = jnp.where(masks[1], here, _NEG)
  p = jnp.concatenate([come_back(there), here], -1)
  p = jax.nn.softmax(p, -1).astype(q.dtype)
  p_there, p_here = jnp.split(p, [there.shape[-1]], -1)
  out = jnp.einsum('dbgkms,dbksh->dbgkmh', go(p_there), prompt_v, **exact)
  out = come_back(out)
  out = out + jnp.einsum('dnkmt,dnkth->dnkmh', p_here, own_v, **exact)
  return out.astype(q.dtype).reshape(d, n, m, h)

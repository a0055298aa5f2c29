"""Attention: of whole sequences, and of one new token per row."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxdistill.models import flash
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.softmax import soft_cap
from jaxdistill.models.spans import Spans, dense, spans_after

_NEG = -1e30
SHORT = 256  # up to so many keys, all logits at once are small and as fast
# `auto` takes only what has been through the device's own compiler.
_KERNELS = {
  'auto': flash.TPU,
  'pallas': flash.KERNELS,
  'chunked': flash.CHUNKED,
}


def form_of(config: DecoderConfig, keys: int, platform: str) -> str:
  """Which form of attention runs: `dense`, `chunked` or `pallas`.

  Args:
    config: Its `attention` chooses; `auto` goes by the rest.
    keys: How many there are at most.
    platform: `cpu`, `tpu`, or `gpu`.
  """
  if _all_at_once(config, keys):
    return 'dense'
  name = {'gpu': 'cuda'}.get(platform, platform)
  return 'pallas' if name in dict(_KERNELS[config.attention]) else 'chunked'


def _all_at_once(config: DecoderConfig, keys: int) -> bool:
  short = config.attention == 'auto' and keys <= SHORT
  return short or config.attention == 'dense'


def attend(
  q: Float[Array, 'B T N H'],
  k: Float[Array, 'B S K H'],
  v: Float[Array, 'B S K H'],
  spans: Spans,
  config: DecoderConfig,
) -> Float[Array, 'B T N H']:
  """Attention with grouped queries, softmax in float32.

  Queries that see nothing get 0, and no gradient.
  """
  cap = config.attention_cap
  if _all_at_once(config, k.shape[1]):
    return _at_once(q, k, v, dense(spans), cap)
  return flash.attention(q, k, v, spans, cap, _KERNELS[config.attention])


def _at_once(
  q: Float[Array, 'B T N H'],
  k: Float[Array, 'B S K H'],
  v: Float[Array, 'B S K H'],
  mask: Bool[Array, 'B T S'],
  cap: float,
) -> Float[Array, 'B T N H']:
  """With all logits in memory."""
  b, t, n, h = q.shape
  kv = k.shape[2]
  q = q.reshape(b, t, kv, n // kv, h)
  exact = {'preferred_element_type': jnp.float32}
  logits = soft_cap(jnp.einsum('btknh,bskh->bknts', q, k, **exact), cap)
  p = jax.nn.softmax(jnp.where(mask[:, None, None], logits, _NEG), -1)
  out = jnp.einsum('bknts,bskh->btknh', p.astype(q.dtype), v, **exact)
  out = jnp.where(mask.any(-1)[..., None, None, None], out, 0)
  return out.astype(q.dtype).reshape(b, t, n, h)


def deviation(form: str) -> float:
  """How far gradients of `form` are from the plain ones on this device.

  Of a few packed rows; relative to the greatest.
  """
  t, row = 512, 96
  key = jax.random.key(0)
  q, k, v = (
    jax.random.normal(jax.random.fold_in(key, i), (1, t, heads, 64))
    for i, heads in enumerate((4, 2, 2))
  )
  places = jnp.arange(t)[None]
  until = jnp.minimum((places // row + 1) * row, t)
  spans = spans_after(0, until, places % row)

  def pulled(form, *given):
    config = DecoderConfig(1, 256, 1, 4, 2, 64, 1, 1.0, attention=form)
    out, pull = jax.vjp(lambda q, k, v: attend(q, k, v, spans, config), *given)
    return pull(jnp.cos(jnp.arange(out.size)).reshape(out.shape))

  # Given to the program, so that nothing is computed while it is compiled.
  found, plain = (
    jax.jit(pulled, static_argnums=0)(how, q / 8, k, v)
    for how in (form, 'dense')
  )
  apart = [
    jnp.abs(x - y).max() / jnp.abs(y).max()
    for x, y in zip(found, plain, strict=True)
  ]
  return float(jnp.max(jnp.stack(apart)))


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

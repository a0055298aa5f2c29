"""Attention over whole sequences."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxdistill.dist import READ, constrain, parts
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
  return 'pallas' if name in dict(_kernels(config)) else 'chunked'


def _kernels(config: DecoderConfig) -> tuple:
  """None of them reads backwards."""
  return _KERNELS[config.attention] if config.causal else flash.CHUNKED


def _all_at_once(config: DecoderConfig, keys: int) -> bool:
  short = config.attention == 'auto' and keys <= SHORT
  return short or config.attention == 'dense'


def attend(
  q: Float[Array, 'B T N H'],
  k: Float[Array, 'B S K H'],
  v: Float[Array, 'B S K H'],
  spans: Spans,
  config: DecoderConfig,
  axes: tuple[str, str | None] = READ,
) -> Float[Array, 'B T N H']:
  """Attention with grouped queries, softmax in float32.

  Queries that see nothing get 0, and no gradient. Where tokens are split over
  devices, each asks the keys of all with the queries that it has.
  """
  cap = config.attention_cap
  if not _all_at_once(config, k.shape[1]):
    return flash.attention(q, k, v, spans, cap, _kernels(config), axes)
  if axes == READ and parts('tokens', q.shape[1]) > 1:
    k, v = (constrain(x, axes[0], None, 'kv_heads', None) for x in (k, v))
  return _at_once(q, k, v, dense(spans), cap)


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

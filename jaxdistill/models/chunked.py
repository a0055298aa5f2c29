"""Attention in linear memory by XLA alone, for any device.

One loop over the pairs of blocks (of queries and of keys) of which the mask
leaves something; how many there are depends on the mask, not on its shape.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdistill.models.softmax import (
  log_sum,
  soft_cap,
  softmax_pull,
  softmax_step,
)
from jaxdistill.models.spans import Spans, blocks, pad_spans, pad_to, seen

BLOCK = 128
_F32: Any = {'preferred_element_type': jnp.float32}


def forward(
  q: Float[Array, 'B N T H'],
  k: Float[Array, 'B K S H'],
  v: Float[Array, 'B K S H'],
  spans: Spans,
  cap: float,
  block: int = BLOCK,
) -> tuple[Float[Array, 'B N T H'], Float[Array, 'B N T']]:
  """Output, and the log of the sum of each query's exponentials."""
  (b, n, t, h), kv = q.shape, k.shape[1]
  q, k, v = (pad_to(x, 2, block) for x in (q, k, v))
  q = q.reshape(b, kv, n // kv, -1, h)
  padded = pad_spans(spans, block)

  def add(i, j, carry):
    own, left = _cut(block, i, q, *carry), _cut(block, j, k, v)
    (q_i, sums, top, total), (k_j, v_j) = own, left
    mask = _mask(padded, i, j, block)
    logits = soft_cap(jnp.einsum('bkgth,bksh->bkgts', q_i, k_j, **_F32), cap)
    p, old, top, total = softmax_step(logits, mask, top, total)
    new = jnp.einsum('bkgts,bksh->bkgth', p.astype(v.dtype), v_j, **_F32)
    return _put(block, i, carry, (sums * old + new, top, total))

  column = jnp.zeros((*q.shape[:-1], 1), jnp.float32)
  begin = jnp.zeros(q.shape, jnp.float32), column - 1e30, column
  sums, top, total = _over_pairs(add, begin, padded, block)
  out = (sums / jnp.where(total > 0, total, 1)).astype(q.dtype)
  logs = log_sum(top, total)
  shape = (b, n, -1)
  return out.reshape(*shape, h)[:, :, :t], logs.reshape(shape)[:, :, :t]


def backward(
  q: Float[Array, 'B N T H'],
  k: Float[Array, 'B K S H'],
  v: Float[Array, 'B K S H'],
  spans: Spans,
  logs: Float[Array, 'B N T'],
  delta: Float[Array, 'B N T'],
  grad: Float[Array, 'B N T H'],
  cap: float,
  block: int = BLOCK,
) -> tuple[
  Float[Array, 'B N T H'], Float[Array, 'B K S H'], Float[Array, 'B K S H']
]:
  """Gradients of queries, keys and values; arguments as of `flash_tpu`'s."""
  (b, n, t, h), (kv, s), dtype = q.shape, k.shape[1:3], q.dtype
  q, grad, logs, delta = (
    pad_to(x, 2, block).reshape(b, kv, n // kv, -1, x.shape[3])
    for x in (q, grad, logs[..., None], delta[..., None])
  )
  k, v = (pad_to(x, 2, block) for x in (k, v))
  padded = pad_spans(spans, block)

  def add(i, j, carry):
    dq, dk, dv = carry
    q_i, grad_i, logs_i, delta_i, dq_i = _cut(
      block, i, q, grad, logs, delta, dq
    )
    k_j, v_j, dk_j, dv_j = _cut(block, j, k, v, dk, dv)
    mask = _mask(padded, i, j, block)
    logits = soft_cap(jnp.einsum('bkgth,bksh->bkgts', q_i, k_j, **_F32), cap)
    pulled = jnp.einsum('bkgth,bksh->bkgts', grad_i, v_j, **_F32)
    p, ds = softmax_pull(logits, mask, logs_i, pulled, delta_i, cap)
    p, ds = p.astype(dtype), ds.astype(dtype)
    dv_j += jnp.einsum('bkgts,bkgth->bksh', p, grad_i, **_F32)
    dk_j += jnp.einsum('bkgts,bkgth->bksh', ds, q_i, **_F32)
    dq_i += jnp.einsum('bkgts,bksh->bkgth', ds, k_j, **_F32)
    (dq,) = _put(block, i, (dq,), (dq_i,))
    return dq, *_put(block, j, (dk, dv), (dk_j, dv_j))

  begin = tuple(jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))
  grads = _over_pairs(add, begin, padded, block)
  dq, dk, dv = (x.astype(dtype) for x in grads)
  return dq.reshape(b, n, -1, h)[:, :, :t], dk[:, :, :s], dv[:, :, :s]


def _over_pairs(fn, carry, spans, block):
  """`carry = fn(i, j, carry)` for each pair of blocks that has something."""
  some = blocks(spans, block).any(0)
  i, j = jnp.nonzero(some, size=some.size, fill_value=0)
  return jax.lax.fori_loop(
    0, some.sum(), lambda x, carry: fn(i[x], j[x], carry), carry
  )


def _mask(spans, i, j, block):
  """Of query block i and key block j, `[B 1 1 C C]`."""
  queries, rows = (
    x[:, None, None, :, None]
    for x in _cut(block, i, spans.queries, spans.rows, axis=1)
  )
  since, until, keys = (
    x[:, None, None, None]
    for x in _cut(block, j, spans.since, spans.until, spans.keys, axis=1)
  )
  return seen(rows, since, until, queries, keys, spans.window)


def _cut(block, i, *arrays, axis=-2):
  """Block i of each."""
  cut = jax.lax.dynamic_slice_in_dim
  return tuple(
    cut(x, i * block, block, axis if axis > 0 else x.ndim + axis)
    for x in arrays
  )


def _put(block, i, arrays, parts):
  """The arrays with other values in their block i."""
  put = jax.lax.dynamic_update_slice_in_dim
  return tuple(
    put(x, part, i * block, x.ndim - 2)
    for x, part in zip(arrays, parts, strict=True)
  )

"""Attention in linear memory as kernels for GPU (Pallas, Triton).

A program owns a block of queries (or of keys) and loops over the blocks that it
sees (or is seen by), which are listed beforehand.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

from jaxdistill.models.softmax import (
  log_sum,
  soft_cap,
  softmax_pull,
  softmax_step,
)
from jaxdistill.models.spans import (
  Spans,
  blocks,
  listed,
  pad_spans,
  pad_to,
  seen,
)

BLOCK = 64
_PLACES = 'query', 'query', 'key', 'key', 'key', 'one'
_PARAMS = plgpu.CompilerParams(num_warps=4, num_stages=2)


def forward(
  q: Float[Array, 'B N T H'],
  k: Float[Array, 'B K S H'],
  v: Float[Array, 'B K S H'],
  spans: Spans,
  cap: float,
  block: int = BLOCK,
  interpret: bool = False,
) -> tuple[Float[Array, 'B N T H'], Float[Array, 'B N T']]:
  """Output, and the log of the sum of each query's exponentials."""
  t, h = q.shape[2:]
  c = _block(block, h)
  q, k, v = (_whole(x, c) for x in (q, k, v))
  padded = pad_spans(spans, c)
  order, count = listed(blocks(padded, c))
  specs = _by_query(q, k, order, c)
  arrays = (q, k, v, *_places(padded), order, count)
  out, logs = pl.pallas_call(
    functools.partial(_forward, c, cap),
    out_shape=(
      jax.ShapeDtypeStruct(q.shape, q.dtype),
      jax.ShapeDtypeStruct(q.shape[:3], jnp.float32),
    ),
    grid=(order.shape[1], *q.shape[1::-1]),
    in_specs=[specs[x] for x in ('q', 'k', 'k', *_PLACES, 'order', 'count')],
    out_specs=[specs['q'], specs['row']],
    compiler_params=_PARAMS,
    interpret=interpret,
    name='attention_forward',
  )(*arrays)
  return out[:, :, :t, :h], logs[:, :, :t]


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
  interpret: bool = False,
) -> tuple[
  Float[Array, 'B N T H'], Float[Array, 'B K S H'], Float[Array, 'B K S H']
]:
  """Gradients of queries, keys and values; arguments as of `flash_tpu`'s."""
  t, h, s = *q.shape[2:], k.shape[2]
  c = _block(block, h)
  q, k, v, grad = (_whole(x, c) for x in (q, k, v, grad))
  logs, delta = (pad_to(x, 2, c) for x in (logs, delta))
  padded = pad_spans(spans, c)
  some = blocks(padded, c)
  arrays = (q, k, v, *_places(padded), grad, logs, delta)
  names = (
    *('q', 'k', 'k', *_PLACES, 'q', 'row', 'row'),
    *('order', 'count'),
  )
  order, count = listed(some)
  specs = _by_query(q, k, order, c)
  dq = pl.pallas_call(
    functools.partial(_query_gradient, c, cap),
    out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
    grid=(order.shape[1], *q.shape[1::-1]),
    in_specs=[specs[x] for x in names],
    out_specs=specs['q'],
    compiler_params=_PARAMS,
    interpret=interpret,
    name='attention_query_gradient',
  )(*arrays, order, count)

  order, count = listed(some.swapaxes(1, 2))
  specs = _by_key(q, k, order, c)
  dk, dv = pl.pallas_call(
    functools.partial(_key_gradient, c, cap),
    out_shape=(
      jax.ShapeDtypeStruct(k.shape, k.dtype),
      jax.ShapeDtypeStruct(v.shape, v.dtype),
    ),
    grid=(order.shape[1], *k.shape[1::-1]),
    in_specs=[specs[x] for x in names],
    out_specs=[specs['k']] * 2,
    compiler_params=_PARAMS,
    interpret=interpret,
    name='attention_key_gradient',
  )(*arrays, order, count)
  return dq[:, :, :t, :h], dk[:, :, :s, :h], dv[:, :, :s, :h]


def _forward(c, cap, *refs):
  (q, k, v), places, refs = refs[:3], refs[3:9], refs[9:]
  order, count, out, logs = refs
  (query, key, window), q = _cut(places), q[...]
  query = query()

  def add(t, carry):
    sums, top, total = carry
    j = order[t]
    at = pl.ds(j * c, c)
    logits = soft_cap(_dot(q, k[at, :].T), cap)
    mask = _mask(query, key(at), window)
    p, old, top, total = softmax_step(logits, mask, top, total)
    return sums * old + _dot(p.astype(v.dtype), v[at, :]), top, total

  column = jnp.zeros((c, 1), jnp.float32)
  begin = jnp.zeros(q.shape, jnp.float32), column - 1e30, column
  sums, top, total = jax.lax.fori_loop(0, count[0], add, begin)
  out[...] = (sums / jnp.where(total > 0, total, 1)).astype(out.dtype)
  logs[...] = log_sum(top, total).reshape(c)


def _query_gradient(c, cap, *refs):
  (q, k, v), places, refs = refs[:3], refs[3:9], refs[9:]
  grad, logs, delta, order, count, dq = refs
  (query, key, window), q, grad = _cut(places), q[...], grad[...]
  query = query()
  logs, delta = logs[...][:, None], delta[...][:, None]

  def add(t, sums):
    j = order[t]
    at = pl.ds(j * c, c)
    keys = k[at, :]
    logits = soft_cap(_dot(q, keys.T), cap)
    mask = _mask(query, key(at), window)
    pulled = _dot(grad, v[at, :].T)
    _, ds = softmax_pull(logits, mask, logs, pulled, delta, cap)
    return sums + _dot(ds.astype(keys.dtype), keys)

  sums = jnp.zeros(q.shape, jnp.float32)
  sums = jax.lax.fori_loop(0, count[0], add, sums)
  dq[...] = sums.astype(dq.dtype)


def _key_gradient(c, cap, *refs):
  (q, k, v), places, refs = refs[:3], refs[3:9], refs[9:]
  grad, logs, delta, order, count, dk, dv = refs
  (query, key, window), keys, values = _cut(places), k[...], v[...]
  key = key()

  def add(g):
    def add_block(t, carry):
      k_sums, v_sums = carry
      i = order[t]
      at = pl.ds(i * c, c)
      own, pulling = q[g, at, :], grad[g, at, :]
      logits = soft_cap(_dot(own, keys.T), cap)
      mask = _mask(query(at), key, window)
      pulled = _dot(pulling, values.T)
      log, inner = logs[g, at][:, None], delta[g, at][:, None]
      p, ds = softmax_pull(logits, mask, log, pulled, inner, cap)
      v_sums = v_sums + _dot(p.astype(pulling.dtype).T, pulling)
      return k_sums + _dot(ds.astype(own.dtype).T, own), v_sums

    return add_block

  sums = (jnp.zeros(keys.shape, jnp.float32),) * 2
  for g in range(q.shape[0]):
    sums = jax.lax.fori_loop(0, count[0], add(g), sums)
  dk[...] = sums[0].astype(dk.dtype)
  dv[...] = sums[1].astype(dv.dtype)


def _places(spans):
  """What a program is given of a mask, each as in `_PLACES`."""
  queries, keys = spans.queries, spans.keys
  window = jnp.reshape(spans.window, (1,))
  return queries, spans.rows, keys, spans.since, spans.until, window


def _cut(places):
  """What gives those of queries and those of keys, at a slice; the window."""
  queries, rows, keys, since, until, window = places

  def of(*refs):
    return lambda at=...: [ref[at] for ref in refs]

  return of(queries, rows), of(keys, since, until), window[0]


def _mask(query, key, window):
  """Of a block of queries and one of keys, `[C C]`."""
  (own, row), (others, since, until) = query, key
  return seen(
    *(row[:, None], since[None], until[None]),
    *(own[:, None], others[None], window),
  )


def _dot(x, y):
  return plgpu.dot(x, y)


def _block(most: int, h: int) -> int:
  """Tokens of a block; of wide heads fewer fit."""
  return min(most, BLOCK if h <= 128 else BLOCK // 2)


def _whole(x, c):
  """Whole blocks, and heads of a power of two, as Triton wants them."""
  h = max(16, 1 << (x.shape[-1] - 1).bit_length())
  return pad_to(pad_to(x, 2, c), 3, h)


def _by_query(q, k, order, c):
  """Blocks of a grid `(query blocks, N, B)`."""
  (_, n, _, h), (_, kv, s, _) = q.shape, k.shape
  group = n // kv
  return {
    'q': pl.BlockSpec((None, None, c, h), lambda i, n, b: (b, n, i, 0)),
    'row': pl.BlockSpec((None, None, c), lambda i, n, b: (b, n, i)),
    'query': pl.BlockSpec((None, c), lambda i, n, b: (b, i)),
    'k': pl.BlockSpec(
      (None, None, s, h), lambda i, n, b: (b, jax.lax.div(n, group), 0, 0)
    ),
    'key': pl.BlockSpec((None, s), lambda i, n, b: (b, 0)),
    'one': pl.BlockSpec((1,), lambda i, n, b: (0,)),
    'order': pl.BlockSpec(
      (None, None, order.shape[2]), lambda i, n, b: (b, i, 0)
    ),
    'count': pl.BlockSpec((None, 1), lambda i, n, b: (b, i)),
  }


def _by_key(q, k, order, c):
  """Blocks of a grid `(key blocks, K, B)`."""
  (_, n, t, h), kv = q.shape, k.shape[1]
  group = n // kv
  return {
    'q': pl.BlockSpec((None, group, t, h), lambda j, n, b: (b, n, 0, 0)),
    'row': pl.BlockSpec((None, group, t), lambda j, n, b: (b, n, 0)),
    'query': pl.BlockSpec((None, t), lambda j, n, b: (b, 0)),
    'k': pl.BlockSpec((None, None, c, h), lambda j, n, b: (b, n, j, 0)),
    'key': pl.BlockSpec((None, c), lambda j, n, b: (b, j)),
    'one': pl.BlockSpec((1,), lambda j, n, b: (0,)),
    'order': pl.BlockSpec(
      (None, None, order.shape[2]), lambda j, n, b: (b, j, 0)
    ),
    'count': pl.BlockSpec((None, 1), lambda j, n, b: (b, j)),
  }

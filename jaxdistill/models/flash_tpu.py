"""Attention in linear memory as kernels for TPU (Pallas, Mosaic).

The grid's last axis goes over the blocks that a block sees (or is seen by),
which are listed beforehand and prefetched as scalars; its length is that of the
longest list. Between its steps, sums stay in VMEM.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
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

BLOCK = 512


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
  t, c = q.shape[2], _block(block, k.shape[2])
  q, k, v = (pad_to(x, 2, c) for x in (q, k, v))
  padded = pad_spans(spans, c)
  order, count = listed(blocks(padded, c))
  specs = _by_query(q, k, order, c)
  (b, n, _, h), places = q.shape, (*q.shape[:2], 1, q.shape[2])
  call = pl.pallas_call(
    functools.partial(_forward, order.shape[1:], cap),
    out_shape=(
      jax.ShapeDtypeStruct(q.shape, q.dtype),
      jax.ShapeDtypeStruct(places, jnp.float32),
    ),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=3,
      grid=(b, n, order.shape[1], jnp.maximum(count.max(), 1)),
      in_specs=[specs[x] for x in ('q', 'query', 'k', 'k', 'key')],
      out_specs=[specs['q'], specs['row']],
      scratch_shapes=[
        pltpu.VMEM((c, h), jnp.float32),
        pltpu.VMEM((c, 1), jnp.float32),
        pltpu.VMEM((c, 1), jnp.float32),
      ],
    ),
    compiler_params=_PARAMS,
    interpret=interpret,
    name='attention_forward',
  )
  out, logs = call(
    *_scalars(order, count, padded), q, *_places(padded, q, k, v)
  )
  return out[:, :, :t], logs[:, :, 0, :t]


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
  """Gradients of queries, keys and values.

  Args:
    q: Queries, and so on: as they went forward.
    k: Keys.
    v: Values.
    spans: Which keys are seen.
    logs: What `forward` gave.
    delta: Inner products of outputs and their gradients.
    grad: Of the output.
    cap: Of the logits.
    block: Tokens of a block at most.
    interpret: Without a TPU, slowly.
  """
  t, s = q.shape[2], k.shape[2]
  c = _block(block, s)
  q, k, v, grad = (pad_to(x, 2, c) for x in (q, k, v, grad))
  logs, delta = (pad_to(x, 2, c)[:, :, None] for x in (logs, delta))
  padded = pad_spans(spans, c)
  some = blocks(padded, c)
  (b, n, _, h), kv = q.shape, k.shape[1]
  arrays = (q, *_places(padded, q, k, v), grad, logs, delta)
  names = ('q', 'query', 'k', 'k', 'key', 'q', 'row', 'row')

  order, count = listed(some)
  specs = _by_query(q, k, order, c)
  dq = pl.pallas_call(
    functools.partial(_query_gradient, order.shape[1:], cap),
    out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=3,
      grid=(b, n, order.shape[1], jnp.maximum(count.max(), 1)),
      in_specs=[specs[x] for x in names],
      out_specs=specs['q'],
      scratch_shapes=[pltpu.VMEM((c, h), jnp.float32)],
    ),
    compiler_params=_PARAMS,
    interpret=interpret,
    name='attention_query_gradient',
  )(*_scalars(order, count, padded), *arrays)

  order, count = listed(some.swapaxes(1, 2))
  specs = _by_key(q, k, order, c)
  dk, dv = pl.pallas_call(
    functools.partial(_key_gradient, order.shape[1:], cap),
    out_shape=(
      jax.ShapeDtypeStruct(k.shape, k.dtype),
      jax.ShapeDtypeStruct(v.shape, v.dtype),
    ),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=3,
      grid=(b, kv, order.shape[1], n // kv, jnp.maximum(count.max(), 1)),
      in_specs=[specs[x] for x in names],
      out_specs=[specs['k']] * 2,
      scratch_shapes=[pltpu.VMEM((c, h), jnp.float32)] * 2,
    ),
    compiler_params=_KEY_PARAMS,
    interpret=interpret,
    name='attention_key_gradient',
  )(*_scalars(order, count, padded), *arrays)
  return dq[:, :, :t], dk[:, :, :s], dv[:, :, :s]


def _forward(lists, cap, order, count, window, *refs):
  q, query, k, v, key, out, logs, sums, top, total = refs
  t, some = _step(lists, order, count, 3)

  @pl.when(t == 0)
  def begin():
    sums[...] = jnp.zeros_like(sums)
    top[...] = jnp.full_like(top, -1e30)
    total[...] = jnp.zeros_like(total)

  @pl.when(some)
  def add():
    mask = _mask(query, key, window[0])
    logits = soft_cap(_dot(q[...], k[...], 1, 1), cap)
    p, old, top[...], total[...] = softmax_step(
      logits, mask, top[...], total[...]
    )
    sums[...] = sums[...] * old + _dot(p.astype(v.dtype), v[...], 1, 0)

  @pl.when(t == pl.num_programs(3) - 1)
  def end():
    y = sums[...] / jnp.where(total[...] > 0, total[...], 1)
    out[...] = y.astype(out.dtype)
    logs[...] = log_sum(top[...], total[...]).reshape(logs.shape)


def _query_gradient(lists, cap, order, count, window, *refs):
  q, query, k, v, key, grad, logs, delta, dq, sums = refs
  t, some = _step(lists, order, count, 3)

  @pl.when(t == 0)
  def begin():
    sums[...] = jnp.zeros_like(sums)

  @pl.when(some)
  def add():
    mask = _mask(query, key, window[0])
    logits = soft_cap(_dot(q[...], k[...], 1, 1), cap)
    pulled = _dot(grad[...], v[...], 1, 1)
    _, ds = softmax_pull(
      logits, mask, _column(logs), pulled, _column(delta), cap
    )
    sums[...] += _dot(ds.astype(k.dtype), k[...], 1, 0)

  @pl.when(t == pl.num_programs(3) - 1)
  def end():
    dq[...] = sums[...].astype(dq.dtype)


def _key_gradient(lists, cap, order, count, window, *refs):
  """The same the other way round: keys are rows, queries are columns."""
  q, query, k, v, key, grad, logs, delta, dk, dv, k_sums, v_sums = refs
  t, some = _step(lists, order, count, 4)
  g = pl.program_id(3)

  @pl.when((g == 0) & (t == 0))
  def begin():
    k_sums[...] = jnp.zeros_like(k_sums)
    v_sums[...] = jnp.zeros_like(v_sums)

  @pl.when(some)
  def add():
    mask = _mask(query, key, window[0], turned=True)
    logits = soft_cap(_dot(k[...], q[...], 1, 1), cap)
    pulled = _dot(v[...], grad[...], 1, 1)
    p, ds = softmax_pull(logits, mask, logs[...], pulled, delta[...], cap)
    v_sums[...] += _dot(p.astype(grad.dtype), grad[...], 1, 0)
    k_sums[...] += _dot(ds.astype(q.dtype), q[...], 1, 0)

  last = pl.num_programs(4) - 1

  @pl.when((g == pl.num_programs(3) - 1) & (t == last))
  def end():
    dk[...] = k_sums[...].astype(dk.dtype)
    dv[...] = v_sums[...].astype(dv.dtype)


def _step(lists, order, count, axis):
  """Which of its list the other block is, and whether it is."""
  del order  # which block: the specs have read it
  row = pl.program_id(0) * lists[0] + pl.program_id(2)
  t = pl.program_id(axis)
  return t, t < count[row]


def _mask(query, key, window, turned=False):
  """Of a block of queries, which go down, and one of keys: `[C C]`, or turned.

  Args:
    query: Positions of the queries, above their rows, `[2 C]`.
    key: Of the keys, above the rows that see them, since and until, `[3 C]`.
    window: How many positions are seen.
    turned: Whether keys go down.
  """
  (own, row), (others, since, until) = (
    [_column(x, i) if down else x[i : i + 1] for i in range(x.shape[0])]
    for x, down in ((query, not turned), (key, turned))
  )
  return seen(row, since, until, own, others, window)


def _column(ref, i=0):
  """Line `i` of `[I C]` as `[C 1]`."""
  return jnp.expand_dims(ref[i], -1)


def _dot(x, y, i, j):
  """A product over axes i and j of matrices, summed in float32."""
  return jax.lax.dot_general(
    x, y, (((i,), (j,)), ((), ())), preferred_element_type=jnp.float32
  )


def _block(most: int, s: int) -> int:
  """Tokens of a block: whole lanes, no more than there are."""
  return min(most, -(-s // 128) * 128)


def _scalars(order, count, spans):
  window = jnp.reshape(spans.window, (1,))
  return order.reshape(-1), count.reshape(-1), window


def _places(spans, q, k, v):
  """What follows the queries: their places, keys, values, and theirs."""
  query = jnp.stack([spans.queries, spans.rows], 1)
  key = jnp.stack([spans.keys, spans.since, spans.until], 1)
  return query, k, v, key


def _by_query(q, k, order, c):
  """Blocks of a grid `(B, N, query blocks, their keys)`."""
  _, rows, steps = order.shape
  group, h = q.shape[1] // k.shape[1], q.shape[-1]

  def of_group(n):  # not //, which Mosaic lowers by asking for the device
    return jax.lax.div(n, group)

  def other(b, i, t, order):
    return order[(b * rows + i) * steps + t]

  return {
    'q': pl.BlockSpec((None, None, c, h), lambda b, n, i, t, *_: (b, n, i, 0)),
    'row': pl.BlockSpec(
      (None, None, 1, c), lambda b, n, i, t, *_: (b, n, 0, i)
    ),
    'query': pl.BlockSpec((None, 2, c), lambda b, n, i, t, *_: (b, 0, i)),
    'k': pl.BlockSpec(
      (None, None, c, h),
      lambda b, n, i, t, o, *_: (
        b,
        jax.lax.div(n, group),
        other(b, i, t, o),
        0,
      ),
    ),
    'key': pl.BlockSpec(
      (None, 3, c), lambda b, n, i, t, o, *_: (b, 0, other(b, i, t, o))
    ),
  }


def _by_key(q, k, order, c):
  """Blocks of a grid `(B, K, key blocks, heads of a group, their queries)`."""
  _, rows, steps = order.shape
  group, h = q.shape[1] // k.shape[1], q.shape[-1]

  def other(b, j, t, order):
    return order[(b * rows + j) * steps + t]

  return {
    'q': pl.BlockSpec(
      (None, None, c, h),
      lambda b, n, j, g, t, o, *_: (b, n * group + g, other(b, j, t, o), 0),
    ),
    'row': pl.BlockSpec(
      (None, None, 1, c),
      lambda b, n, j, g, t, o, *_: (b, n * group + g, 0, other(b, j, t, o)),
    ),
    'query': pl.BlockSpec(
      (None, 2, c), lambda b, n, j, g, t, o, *_: (b, 0, other(b, j, t, o))
    ),
    'k': pl.BlockSpec(
      (None, None, c, h), lambda b, n, j, g, t, *_: (b, n, j, 0)
    ),
    'key': pl.BlockSpec((None, 3, c), lambda b, n, j, g, t, *_: (b, 0, j)),
  }


def _params(axes: int) -> pltpu.CompilerParams:
  """Blocks of outputs in any order; what is summed over, in turn."""
  return pltpu.CompilerParams(
    dimension_semantics=('parallel',) * 3 + ('arbitrary',) * (axes - 3)
  )


_PARAMS, _KEY_PARAMS = _params(4), _params(5)

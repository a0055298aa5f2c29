"""Attention in memory linear in the number of tokens.

FlashAttention-2 (arXiv 2307.08691) under a mask of intervals (`spans`): no
matrix of queries times keys exists, forwards or backwards, and blocks that the
mask empties cost nothing. Kept for the gradient are the output and the log of
each softmax's sum. Two forms: XLA's, for any device (`chunked`), and kernels
for TPU and GPU. (JAX's own kernels and cuDNN's know segments, and windows by
place, but neither trees nor windows by position: they are not used.)
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float

from jaxdistill.dist import shards_of
from jaxdistill.models import chunked, flash_gpu, flash_tpu
from jaxdistill.models.spans import Spans

# Platforms and the modules whose kernels run there; elsewhere XLA's form runs.
CHUNKED: tuple = ()
TPU = (('tpu', flash_tpu),)
KERNELS = (*TPU, ('cuda', flash_gpu))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def attention(
  q: Float[Array, 'B T N H'],
  k: Float[Array, 'B S K H'],
  v: Float[Array, 'B S K H'],
  spans: Spans,
  cap: float,
  kernels: tuple,
) -> Float[Array, 'B T N H']:
  """Attention with grouped queries; 0 for queries that see nothing.

  Args:
    q: Queries, scaled.
    k: Keys: those that come before, then the queries' own.
    v: Values.
    spans: Which keys each query sees.
    cap: Soft cap of the logits; 0 is none.
    kernels: Platforms and the modules whose kernels run there.
  """
  return _forward(q, k, v, spans, cap, kernels)[0]


def _forward(q, k, v, spans, cap, kernels):
  def forward(module):
    return lambda q, k, v, spans: module.forward(q, k, v, Spans(*spans), cap)

  q, k, v = (_by_head(x) for x in (q, k, v))
  out, logs = _on_shards(_by_platform(forward, kernels), (q, k, v), spans)
  return _by_head(out), (q, k, v, spans, out, logs)


def _backward(cap, kernels, kept, grad):
  def backward(module):
    return lambda q, k, v, logs, delta, grad, spans: module.backward(
      q, k, v, Spans(*spans), logs, delta, grad, cap
    )

  q, k, v, spans, out, logs = kept
  grad = _by_head(grad)
  delta = (out.astype(jnp.float32) * grad.astype(jnp.float32)).sum(-1)
  arrays = q, k, v, logs, delta, grad
  grads = _on_shards(_by_platform(backward, kernels), arrays, spans)
  return *map(_by_head, grads), None


attention.defvjp(_forward, _backward)


def _by_head(x: Float[Array, 'B T N H']) -> Float[Array, 'B N T H']:
  """Heads before tokens; and back."""
  return jnp.swapaxes(x, 1, 2)


def _by_platform(
  make: Callable[[Any], Callable], kernels: tuple
) -> Callable[..., Any]:
  """What runs where, decided when a program is lowered for a platform."""
  forms = {platform: make(module) for platform, module in kernels}

  def call(*args):
    return jax.lax.platform_dependent(*args, **forms, default=make(chunked))

  return call if forms else make(chunked)


def _on_shards(fn: Callable, arrays: tuple, spans: Spans) -> Any:
  """Calls `fn` on each shard of batch and heads, which need no others.

  Kernels are not split by the compiler, and each shard skips the blocks that
  its own sequences leave empty. What does not divide stays whole.

  Args:
    fn: Of arrays and spans.
    arrays: `[B N T ...]` or `[B K S ...]`; the second is of keys.
    spans: Of `[B ...]`, and the window.
  """
  mesh = jax.sharding.get_abstract_mesh()
  spans = spans._replace(window=jnp.asarray(spans.window, jnp.int32))
  auto = [a for a in mesh.axis_names if mesh.shape[a] > 1]
  if not auto or set(mesh.axis_types) != {AxisType.Auto}:
    return fn(*arrays, spans)
  b, kv = arrays[1].shape[:2]
  rows = tuple(a for a in ('slice','data','fsdp') if a in auto)
  batch = rows if rows and b % shards_of(mesh, 'batch') == 0 else None
  heads = 'tensor' if 'tensor' in auto else None
  if heads and kv % mesh.shape[heads]:
    heads = None
  each, places = PartitionSpec(batch, heads), PartitionSpec(batch)
  where = jax.tree.map(lambda x: places if x.ndim else PartitionSpec(), spans)
  return jax.shard_map(
    fn,
    in_specs=((each,) * len(arrays) + (where,)),
    out_specs=each,
    axis_names=set(mesh.axis_names),
    check_vma=False,
  )(*arrays, spans)

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

from jaxdistill.dist import READ, parts, sharding
from jaxdistill.models import chunked, flash_gpu, flash_tpu
from jaxdistill.models.spans import Spans, explicit

# Platforms and the modules whose kernels run there; elsewhere XLA's form runs.
CHUNKED: tuple = ()
TPU = (('tpu', flash_tpu),)
KERNELS = (*TPU, ('cuda', flash_gpu))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def attention(
  q: Float[Array, 'B T N H'],
  k: Float[Array, 'B S K H'],
  v: Float[Array, 'B S K H'],
  spans: Spans,
  cap: float,
  kernels: tuple,
  axes: tuple[str, str | None] = READ,
) -> Float[Array, 'B T N H']:
  """Attention with grouped queries; 0 for queries that see nothing.

  Args:
    q: Queries, scaled.
    k: Keys: those that come before, then the queries' own.
    v: Values.
    spans: Which keys each query sees.
    cap: Soft cap of the logits; 0 is none.
    kernels: Platforms and the modules whose kernels run there.
    axes: Logical, of sequences and of their tokens; what splits these splits
      queries, and keys are gathered.
  """
  return _forward(q, k, v, spans, cap, kernels, axes)[0]


def _forward(q, k, v, spans, cap, kernels, axes):
  def forward(module):
    return lambda q, k, v, spans: module.forward(q, k, v, Spans(*spans), cap)

  q, k, v = (_by_head(x) for x in (q, k, v))
  fn = _by_platform(forward, kernels)
  out, logs = _on_shards(fn, (q, k, v), spans, axes)
  return _by_head(out), (q, k, v, spans, out, logs)


def _backward(cap, kernels, axes, kept, grad):
  def backward(module):
    return lambda q, k, v, logs, delta, grad, spans: module.backward(
      q, k, v, Spans(*spans), logs, delta, grad, cap
    )

  q, k, v, spans, out, logs = kept
  grad = _by_head(grad)
  delta = (out.astype(jnp.float32) * grad.astype(jnp.float32)).sum(-1)
  arrays = q, k, v, logs, delta, grad
  fn = _by_platform(backward, kernels)
  grads = _on_shards(fn, arrays, spans, axes, of_keys=2)
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


def _on_shards(
  fn: Callable,
  arrays: tuple,
  spans: Spans,
  axes: tuple[str, str | None],
  of_keys: int = 0,
) -> Any:
  """Calls `fn` on each shard of batch, heads and queries; each has all keys.

  Kernels are not split by the compiler, and each shard skips the blocks that
  its own queries leave empty. What does not divide stays whole.

  Args:
    fn: Of arrays and spans.
    arrays: `[B N T ...]`, but the second and the third `[B K S ...]`.
    spans: Of `[B ...]`, and the window.
    axes: Logical, of the sequences and of their tokens.
    of_keys: How many of its results, the last, are of keys: each shard of
      queries has a part of their sum, and keeps the sum for its own tokens.
  """
  mesh, said = jax.sharding.get_abstract_mesh(), explicit(spans)
  many = any(mesh.shape[a] > 1 for a in mesh.axis_names)
  if not many or set(mesh.axis_types) != {AxisType.Auto}:
    return fn(*arrays, said)
  (b, kv, s), t = arrays[1].shape[:3], arrays[0].shape[2]
  # Of several shards, and not where only some of the keys are the queries' own.
  split = axes[1] if s == t and axes[1] and parts(axes[1], t) > 1 else None
  names = axes[0], 'kv_heads', split
  batch, heads, tokens = sharding(mesh, names, (b, kv, t)).spec
  queries, keys = (
    PartitionSpec(batch, heads, tokens),
    PartitionSpec(batch, heads),
  )
  own, whole = PartitionSpec(batch, tokens), PartitionSpec(batch)
  places = whole, own, whole, PartitionSpec(), whole, own

  def on_shard(*args):
    out = fn(*args)
    if not (tokens and of_keys):
      return out
    scatter = functools.partial(
      jax.lax.psum_scatter, axis_name=tokens, scatter_dimension=2, tiled=True
    )
    return *out[:-of_keys], *map(scatter, out[-of_keys:])

  return jax.shard_map(
    on_shard,
    in_specs=(
      *(queries, keys, keys, *(queries,) * (len(arrays) - 3)),
      jax.tree.unflatten(jax.tree.structure(said), places),
    ),
    out_specs=queries,
    axis_names=set(mesh.axis_names),
    check_vma=False,
  )(*arrays, said)

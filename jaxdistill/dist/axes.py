"""The one table from logical to mesh axes, and where arrays live by it.

Model code names logical axes (`embed`, `heads`, ...) and never a mesh axis.
Mesh axes are *auto*: the compiler propagates shardings, and activations are
pinned by logical name where it needs help.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import multihost_utils
from jax.sharding import (
  AbstractMesh,
  AxisType,
  Mesh,
  NamedSharding,
  PartitionSpec,
)
from jaxtyping import Array

_BATCH_AXES = ('slice', 'data', 'fsdp')
SUMMED = 'summed'  # what remat calls a result of `summed`

# Above each the arrays that it splits: L layers, D embed, N heads, K key heads,
# H of a head, F mlp, V vocabulary, A rank, B sequences, T tokens of each.
RULES: dict[str, str | tuple[str, ...] | None] = {
  # activations [B T D], tokens [M B T]: of what is read to learn or to score
  'batch': _BATCH_AXES,
  'tokens': 'context',
  # pages [B K H T], activations [B T D]: of what is read to go on from, and drawn
  'rows': (*_BATCH_AXES, 'context'),
  # embed [V D], q [L D N*H], o [L N*H D], gate [L D F], down [L F D], head [D V]
  'embed': ('fsdp', 'context'),
  # embed [V D], and activations [B T D] of it, where tokens are split
  'looked_up': 'fsdp',
  'replicas': ('slice', 'data'),
  # q [L D N*H], o [L N*H D]
  'heads': 'tensor',
  # k, v [L D K*H], pages [B K H T]
  'kv_heads': 'tensor',
  # gate, up [L D F], down [L F D]
  'mlp': 'tensor',
  # embed [V D], head [D V]
  'vocab': 'tensor',
  # the stacked weights of layers, [L ...]
  'layers': None,
  # deltas [L D A] and [L A F]
  'rank': None,
  # deltas of all roles, [R L D A]
  'role': None,
}
# While decoding, weights are whole along `embed`: gathered once a call, not at
# every token.
DECODE_RULES = RULES | {'embed': None}

# Logical axes of sequences [B T]. Those that are learned or scored are split
# along their tokens too; those that are drawn are many and go on by a token.
READ = ('batch', 'tokens')
DRAWN = ('rows', None)


def sharding(
  mesh: Mesh | AbstractMesh,
  axes: Sequence[str | None],
  shape: Sequence[int] | None = None,
  rules: dict = RULES,
) -> NamedSharding:
  """The sharding of an array whose dimensions carry these logical names.

  Where `shape` is given, a dimension that its mesh axes do not divide stays
  whole.
  """
  entries = [rules[a] if a else None for a in axes]
  if shape is not None:
    for i, axis in enumerate(axes):
      if axis and shape[i] % shards_of(mesh, axis, rules):
        entries[i] = None
  return NamedSharding(mesh, PartitionSpec(*entries))


def shards_of(
  mesh: Mesh | AbstractMesh, axis: str, rules: dict = RULES
) -> int:
  """Into how many parts a mesh splits a logical axis; 1 if it has none of it."""
  entry = rules[axis]
  names = (entry,) if isinstance(entry, str) else entry or ()
  return math.prod(mesh.shape.get(name, 1) for name in names)


def parts(axis: str, size: int) -> int:
  """Into how many the mesh in force splits a dimension of a logical name.

  1 where it does not divide it, and where each device is already by itself.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or set(mesh.axis_types) != {AxisType.Auto}:
    return 1
  n = shards_of(mesh, axis)
  return 1 if size % n else n


def pinned(where: NamedSharding) -> NamedSharding:
  """The same parts, in the memory of the hosts of their devices.

  Raises:
    ValueError: The devices cannot reach it.
  """
  for device in where.mesh.local_devices or ():
    kinds = [memory.kind for memory in device.addressable_memories()]
    if 'pinned_host' not in kinds:
      raise ValueError(
        f'optimizer.offload is True, but {device.device_kind} has no pinned '
        f'memory of its host ({", ".join(kinds)})'
      )
  return where.with_memory_kind('pinned_host')


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of an array that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def constrain(x: Array, *axes: str | None, rules: dict = RULES) -> Array:
  """Pins a traced array's layout by logical names; nothing without a mesh.

  A dimension that its mesh axes do not divide stays whole.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  spec = sharding(mesh, axes, x.shape, rules).spec
  return jax.lax.with_sharding_constraint(x, spec)


def split_along(x: Array, axis: str, dim: int) -> Array:
  """Pins one dimension of a traced array by its logical name, if that splits
  it; where the others lie is left open."""
  if parts(axis, x.shape[dim]) == 1:
    return x
  spec: list[Any] = [PartitionSpec.UNCONSTRAINED] * x.ndim
  spec[dim] = RULES[axis]
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def gathered(x: Array, axes: tuple[str | None, ...]) -> Array:
  """A weight whole along `embed`, for all who read it; of its gradient each
  device has its part only.

  Args:
    x: In the dtype that is sent.
    axes: Its logical names.
  """
  if shards_of(jax.sharding.get_abstract_mesh(), 'embed') == 1:
    return x  # and no other value, which could be kept beside it
  return _gathered(x, axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gathered(x, axes):
  return _gathered_fwd(x, axes)[0]


def _gathered_fwd(x, axes):  # in the open, for remat
  return constrain(constrain(x, *axes), *axes, rules=DECODE_RULES), None


def _gathered_bwd(axes, _, grad):
  return (constrain(grad, *axes),)


_gathered.defvjp(_gathered_fwd, _gathered_bwd)


def summed(
  fn: Callable[..., Array], axis: str, args: tuple, dims: tuple
) -> Array:
  """`fn(*args)` where it sums over a dimension that the mesh splits.

  Each device calls it with its parts, and their results are added, once and in
  their dtype. Left to itself the compiler adds after every product, in the
  dtype in which that was summed.

  Args:
    fn: Sums over the dimension of its arguments that is split.
    axis: Its logical name.
    args: Trees of arrays.
    dims: Of the same structure: which dimension of each is split; -1 is none.
  """
  pairs = zip(jax.tree.leaves(args), jax.tree.leaves(dims), strict=True)
  counts = {parts(axis, x.shape[d]) for x, d in pairs if d >= 0}
  n = min(counts)
  if n == 1:
    return fn(*args)

  def split(x, d):
    if d < 0:
      return x
    x = x.reshape(*x.shape[:d], n, -1, *x.shape[d + 1 :])
    return jnp.moveaxis(x, d, 0)

  each = jax.tree.map(split, args, dims)
  over = jax.tree.map(lambda d: 0 if d >= 0 else None, dims)
  made = jax.vmap(fn, in_axes=over)(*each)
  made = split_along(made, axis, 0)
  # As a sum it would be made in float32.
  added = jax.lax.reduce(made, made.dtype.type(0), jax.lax.add, (0,))
  return checkpoint_name(added, SUMMED)


def put_local(mesh: Mesh, x: np.ndarray, *axes: str | None) -> Array:
  """A global array from each process's part of the sequences.

  Args:
    mesh: Where to.
    x: This process's part; the same shape on every process.
    *axes: Logical names of its first dimensions; the rest is whole.
  """
  return jax.make_array_from_process_local_data(sharding(mesh, axes), x)


def described(
  mesh: Mesh, shape: Sequence[int], dtype: Any, *axes: str | None
) -> jax.ShapeDtypeStruct:
  """A global array as `put_local` makes it, described by its global shape."""
  where = sharding(mesh, axes)
  return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=where)


def local_part(x: Array, axis: int = 0) -> np.ndarray:
  """This process's part of an array sharded over the batch along `axis`."""
  blocks = {}
  for shard in x.addressable_shards:  # replicas hold the same block
    blocks[shard.index[axis].start or 0] = np.asarray(shard.data)
  return np.concatenate([blocks[i] for i in sorted(blocks)], axis)


def whole(x: Array) -> np.ndarray:
  """All of an array, wherever its parts lie; all processes call it alike."""
  if x.is_fully_addressable:
    return np.asarray(x)
  return np.asarray(multihost_utils.process_allgather(x, tiled=True))

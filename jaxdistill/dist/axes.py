"""The one table from logical to mesh axes, and where arrays live by it.

Model code names logical axes (`embed`, `heads`, ...) and never a mesh axis.
Mesh axes are *auto*: the compiler propagates shardings, and activations are
pinned by logical name where it needs help.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

BATCH_AXES = ('slice', 'data', 'fsdp')

# Above each the arrays that it splits: L layers, D embed, N heads, K key heads,
# H of a head, F mlp, V vocabulary, A rank, B sequences, T tokens of each.
RULES: dict[str, str | tuple[str, ...] | None] = {
  # activations [B T D], tokens [M B T], pages [B K H T]
  'batch': BATCH_AXES,
  # embed [V D], q [L D N*H], o [L N*H D], gate [L D F], down [L F D], head [D V]
  'embed': 'fsdp',
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
    for i, entry in enumerate(entries):
      names = (entry,) if isinstance(entry, str) else entry or ()
      if shape[i] % int(np.prod([mesh.shape[n] for n in names])):
        entries[i] = None
  return NamedSharding(mesh, PartitionSpec(*entries))


def batch_shards(mesh: Mesh | AbstractMesh) -> int:
  """Into how many parts a mesh splits the batch; 1 if it has no batch axis."""
  return math.prod(mesh.shape.get(axis, 1) for axis in BATCH_AXES)


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


def put_local(mesh: Mesh, x: np.ndarray, axis: int = 0) -> Array:
  """A global array from each process's part of the batch axis.

  Args:
    mesh: Where to.
    x: This process's part; the same shape on every process.
    axis: The batch axis.
  """
  spec: list[Any] = [None] * x.ndim
  spec[axis] = BATCH_AXES
  where = NamedSharding(mesh, PartitionSpec(*spec))
  return jax.make_array_from_process_local_data(where, x)


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

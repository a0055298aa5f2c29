"""The device mesh, and the one table from logical to mesh axes.

Model code names logical axes (`embed`, `heads`, ...) and never a mesh axis.
Mesh axes are *auto*: the compiler propagates shardings, and activations are
pinned by logical name where it needs help.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import (
  AbstractMesh,
  AxisType,
  Mesh,
  NamedSharding,
  PartitionSpec,
)
from jaxtyping import Array

AXES = ('data', 'fsdp', 'tensor')
BATCH_AXES = ('data', 'fsdp')

RULES: dict[str, str | tuple[str, ...] | None] = {
  'batch': BATCH_AXES,
  'embed': 'fsdp',
  'heads': 'tensor',
  'kv_heads': 'tensor',
  'mlp': 'tensor',
  'vocab': 'tensor',
  'layers': None,
  'rank': None,
  'role': None,
}
# While decoding, weights are whole along `embed`: gathered once, not per token.
DECODE_RULES = RULES | {'embed': None}


def make_mesh(
  data: int = -1,
  fsdp: int = 1,
  tensor: int = 1,
  devices: Sequence[Any] | None = None,
) -> Mesh:
  """A mesh over all devices, or over those given.

  Args:
    data: Replicas; -1 takes all devices that are left.
    fsdp: Shards of parameters that also split the batch.
    tensor: Shards of heads, hidden units and vocabulary.
    devices: Default all.

  Raises:
    ValueError: The sizes do not multiply to the number of devices, or one
      process would hold no whole share of the batch.
  """
  devices = jax.devices() if devices is None else devices
  for name, size in (('data', data), ('fsdp', fsdp), ('tensor', tensor)):
    if size < 1 and (name, size) != ('data', -1):
      raise ValueError(f'mesh.{name} is {size}; it must be at least 1')
  n, others = len(devices), fsdp * tensor
  if data == -1:
    data = max(n // others, 1)
  if data * others != n:
    raise ValueError(
      f'mesh {data} x {fsdp} x {tensor} (data, fsdp, tensor) needs '
      f'{data * others} devices; there are {n}'
    )
  if data * fsdp % jax.process_count():
    raise ValueError(
      f'data * fsdp = {data * fsdp} must be a multiple of the '
      f'{jax.process_count()} processes, so that each holds whole batch rows'
    )
  mesh = jax.make_mesh(
    (data, fsdp, tensor),
    AXES,
    axis_types=(AxisType.Auto,) * 3,
    devices=devices,
  )
  _check_hosts(mesh.devices)
  return mesh


def _check_hosts(devices: np.ndarray) -> None:
  """Each batch shard must live on one host: a host feeds its own rows."""
  for group in devices.reshape(-1, devices.shape[-1]):
    owners = {device.process_index for device in group}
    if len(owners) > 1:
      raise ValueError(
        f'mesh.tensor = {len(group)} spreads a batch row over processes '
        f'{sorted(owners)}; choose a mesh.tensor that fits into one host'
      )


def sharding(
  mesh: Mesh,
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


def constrain(x: Array, *axes: str | None) -> Array:
  """Pins an activation's layout by logical names; nothing without a mesh."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  spec = PartitionSpec(*(RULES[a] if a else None for a in axes))
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

"""Which device stands where: the mesh over all hosts of a run."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

# From the slowest links to the fastest: between slices, between hosts, inside.
AXES = ('slice', 'data', 'fsdp', 'context', 'tensor')


class Sizes(NamedTuple):
  """What `config.mesh` says; `data` counts the replicas of all slices."""

  data: int
  fsdp: int
  tensor: int
  context: int = 1

  def __str__(self):
    return ' '.join(f'{k}={v}' for k, v in self._asdict().items())


class Machines(NamedTuple):
  """Devices by where they are.

  Attributes:
    devices: Those of a slice side by side, and of these those of a host.
    slices: Groups of devices with fast links between all of them.
    per_host: Devices of a host, that is of a process.
  """

  devices: list[Any]
  slices: int
  per_host: int


def machines(devices: Sequence[Any]) -> Machines:
  """Who is where.

  Raises:
    ValueError: Hosts, or slices, have different numbers of devices.
  """

  def slice_of(device):  # other platforms number something else by it
    return getattr(device, 'slice_index', None) or 0 if on_tpu else 0

  on_tpu = devices[0].platform == 'tpu'
  for what, of in (
    ('host', lambda d: d.process_index),
    ('slice', slice_of),
  ):
    counts = Counter(map(of, devices))
    if len({*counts.values()}) > 1:
      listed = ', '.join(
        f'{n} on {what} {i}' for i, n in sorted(counts.items())
      )
      raise ValueError(f'{what}s have different numbers of devices: {listed}')
  ordered = sorted(devices, key=lambda d: (slice_of(d), d.process_index, d.id))
  return Machines(
    ordered,
    len({*map(slice_of, devices)}),
    Counter(d.process_index for d in devices)[devices[0].process_index],
  )


def fitting(there: Machines) -> Iterator[Sizes]:
  """All meshes that these devices make.

  All devices of a batch row are of one host, which feeds it; and all shards of
  a parameter are in one slice: between slices go gradients only.
  """
  n = len(there.devices)
  for row in _divisors(there.per_host):
    for fsdp in _divisors(n // there.slices // row):
      for context in _divisors(row):
        yield Sizes(n // fsdp // row, fsdp, row // context, context)


def _divisors(n: int) -> list[int]:
  return [i for i in range(1, n + 1) if not n % i]


def make_mesh(
  data: int = -1,
  fsdp: int = 1,
  tensor: int = 1,
  context: int = 1,
  devices: Sequence[Any] | None = None,
) -> Mesh:
  """A mesh over all devices, or over those given.

  Args:
    data: Replicas; -1 takes all devices that are left. Of several slices each
      has as many.
    fsdp: Shards of parameters that also split the batch.
    tensor: Shards of heads, hidden units and vocabulary.
    context: Shards of the tokens of each sequence that is read to learn or to
      score it, and of parameters; where answers are drawn, of the batch.
    devices: Default all.

  Returns:
    Of axes `slice`, `data`, `fsdp`, `context`, `tensor`; `slice` is 1 but for
    TPU slices that are joined over the data centre's network.

  Raises:
    ValueError: The sizes do not multiply to the number of devices, a batch row
      would be spread over hosts, or a parameter over slices; the nearest that
      fits is named.
  """
  devices = jax.devices() if devices is None else devices
  asked = Sizes(data, fsdp, tensor, context)
  for name, size in asked._asdict().items():
    if size < 1 and (name, size) != ('data', -1):
      raise ValueError(f'mesh.{name} is {size}; it must be at least 1')
  there = machines(devices)
  hosts = len(devices) // there.per_host
  if hosts < jax.process_count():
    raise ValueError(
      f'the devices of this mesh are of {hosts} of {jax.process_count()} '
      'processes; each needs its share'
    )
  if data == -1:
    data = max(len(devices) // (fsdp * tensor * context), 1)
    asked = asked._replace(data=data)
  why = _misfit(asked, there)
  if why:
    near = min(fitting(there), key=lambda sizes: _apart(sizes, asked))
    raise ValueError(f'mesh {asked} {why}; the nearest that fits is {near}')
  grid = np.array(there.devices).reshape(
    there.slices, data // there.slices, fsdp, context, tensor
  )
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _misfit(asked: Sizes, there: Machines) -> str:
  """Why these devices do not make that mesh; empty if they do."""
  n, needs = len(there.devices), math.prod(asked)
  if needs != n:
    return f'needs {needs} devices; there are {n}'
  if there.per_host % (asked.context * asked.tensor):
    each = f'{there.per_host} devices each'
    if there.per_host == 1:
      each = '1 device each (one process may drive all those of its machine)'
    return f'spreads a batch row over several processes: they have {each}'
  if asked.data % there.slices:
    return f'spreads a parameter over several of the {there.slices} slices'
  return ''


def _apart(one: Sizes, other: Sizes) -> float:
  """How far two meshes are apart; what shards parameters counts most."""
  weights = 1, 2, 3, 1
  one, other = (x._replace(fsdp=x.fsdp * x.context) for x in (one, other))
  return sum(
    w * abs(math.log2(a / b))
    for w, a, b in zip(weights, one, other, strict=True)
  )

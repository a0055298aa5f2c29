"""Devices that are not here: which chips a slice has, and what each can do."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.experimental import topologies

from jaxdistill.spelling import among

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """What its maker publishes of a chip; each figure is a bound.

  Attributes:
    name: As people say.
    memory: Bytes that a program may use; measured where the compiler says it.
    flops: Of bfloat16 products, a second.
    memory_rate: Bytes a second from and to its memory.
    links_rate: Bytes a second that it sends over all links to its neighbours,
      half of what is published for both directions.
    network_rate: Bytes a second that it sends between slices or nodes, its
      share of what its host has.
    source: Of the figures.
  """

  name: str
  memory: float
  flops: float
  memory_rate: float
  links_rate: float
  network_rate: float
  source: str


_TPU = 'docs.cloud.google.com/tpu/docs/'
# By `device_kind`.
CHIPS = {
  'TPU v4': Chip(
    *('v4', 31.75 * GIB, 275e12, 1200e9, 150e9, 3.1e9, f'{_TPU}v4')
  ),
  'TPU v5 lite': Chip(
    *('v5e', 15.75 * GIB, 197e12, 819e9, 200e9, 3.1e9, f'{_TPU}v5e')
  ),
  'TPU v5': Chip(
    *('v5p', 95.74 * GIB, 459e12, 2765e9, 600e9, 6.2e9, f'{_TPU}v5p')
  ),
  'TPU v6 lite': Chip(
    *('v6e', 31.25 * GIB, 918e12, 1600e9, 400e9, 12.5e9, f'{_TPU}v6e')
  ),
}
KINDS = ('v4', 'v5e', 'v5p', 'v6e')
_NAME = re.compile(r'(?:(\d+)x)?(\w+):(\d+(?:x\d+){1,2})$')


def devices(topology: str) -> Sequence[Any]:
  """The chips of a TPU topology, to compile for: none need be here.

  Args:
    topology: As `v5e:4x8`, or of several slices `2x` before it.

  Raises:
    ValueError: There is no such topology, or no compiler for it.
  """
  found = _NAME.match(topology)
  if not found or found[2] not in KINDS:
    kind = topology.partition(':')[0]
    raise ValueError(
      f'topology {topology!r} is none that can be compiled for, as v5e:4x8, '
      f'v5p:4x4x4 or, of two slices, 2xv5e:4x8{among(kind, KINDS)}'
    )
  slices, name = int(found[1] or 1), f'{found[2]}:{found[3]}'
  given: dict[str, Any] = {'num_slices': slices} if slices > 1 else {}
  if found[3] == '1x1':
    given['chips_per_host_bounds'] = (1, 1, 1)
  with _no_lookup():
    try:
      found = topologies.get_topology_desc(name, 'tpu', **given)
    except ModuleNotFoundError:
      raise ValueError(
        "to compile for TPUs without any takes libtpu: pip install 'jaxdistill"
        "[tpu]', with JAX_PLATFORMS=cpu where there is none"
      ) from None
    except (RuntimeError, ValueError) as e:
      why = str(e).splitlines()[0]
      if 'libtpu' in why:
        why = "pip install 'jaxdistill[tpu]' has the compiler for it"
      raise ValueError(f'topology {topology!r}: {why}') from None
  return found.devices


@contextlib.contextmanager
def _no_lookup() -> Iterator[None]:
  """Keeps libtpu from asking the cloud which machine this is, and saying so."""
  given = {
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_WORKER_ID': '0',
    'TPU_MIN_LOG_LEVEL': '3',
    'TPU_STDERR_LOG_LEVEL': '3',
  }
  new = {k: v for k, v in given.items() if k not in os.environ}
  os.environ.update(new)
  try:
    yield
  finally:
    for name in new:
      del os.environ[name]


def chip_of(device: Any) -> Chip | None:
  """What is published of a device; None of one that is not known."""
  return CHIPS.get(device.device_kind)


def here() -> Sequence[Any]:
  """The devices at hand."""
  return jax.devices()

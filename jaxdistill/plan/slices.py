"""Devices that are not here: the chips of a slice, to compile for."""

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.experimental import topologies

from jaxdistill.spelling import among

KINDS = ('v5e', 'v5p', 'v6e')
# Slices that are one machine, where the compiler takes them for others.
_ONE_HOST = {'1x1': (1, 1, 1), '2x4': (2, 4, 1)}
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
  if found[3] in _ONE_HOST:
    given['chips_per_host_bounds'] = _ONE_HOST[found[3]]
  with _no_lookup():
    if not importlib.util.find_spec('libtpu'):
      raise ValueError(
        'to compile for TPUs takes libtpu, also where there are none: pip '
        "install 'jaxdistill[tpu]'"
      )
    try:
      return topologies.get_topology_desc(name, 'tpu', **given).devices
    except (RuntimeError, ValueError) as e:
      why = str(e).splitlines()[0]
      raise ValueError(f'topology {topology!r}: {why}') from None


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
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # nobody computes on one
  }
  new = {k: v for k, v in given.items() if k not in os.environ}
  os.environ.update(new)
  try:
    yield
  finally:
    for name in new:
      del os.environ[name]


def here() -> Sequence[Any]:
  """The devices at hand."""
  return jax.devices()

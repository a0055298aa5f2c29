"""Devices that are not here: the chips of a slice, to compile for."""

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from jax.experimental import topologies

from jaxdistill.spelling import among

KINDS = ('v5e', 'v5p', 'v6e')
# Slices that are one machine, where the compiler takes them for others.
_ONE_HOST = {'1x1': (1, 1, 1), '2x4': (2, 4, 1)}
_SQUARES = {
  n: f'{a}x{n // a}'
  for n, a in {1: 1, 4: 2, 8: 2, 16: 4, 32: 4, 64: 8, 128: 8, 256: 16}.items()
}
_CUBES = {
  **{4: '2x2x1', 8: '2x2x2', 16: '2x2x4', 32: '2x4x4', 64: '4x4x4'},
  **{128: '4x4x8', 256: '4x8x8', 512: '8x8x8'},
}
_NAME = re.compile(r'(?:(\d+)x)?(\w+):(\d+(?:x\d+){1,2})$')


def devices(topology: str) -> Sequence[Any]:
  """The chips of a TPU topology, to compile for: none need be here.

  Args:
    topology: As `v5e:4x8`, or of several slices `2x` before it.

  Raises:
    ValueError: There is no such topology, or no compiler for it.
  """
  found = _NAME.match(topology.lower())
  if not found or found[2] not in KINDS:
    raise ValueError(
      f'topology {topology!r} is none that can be compiled for, as v5e:4x8, '
      f'v5p:4x4x4 or, of two slices, 2xv5e:4x8{_near(topology.lower())}'
    )
  slices, name = max(int(found[1] or 1), 1), f'{found[2]}:{found[3]}'
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
      if 'not divisible' in why:
        why = f'{found[3]} is no shape of a {found[2]} slice'
      raise ValueError(f'topology {topology!r}: {why}{_near(name)}') from None


def _near(topology: str) -> str:
  """What may have been meant, with a semicolon before it; or nothing."""
  sold = re.match(r'(\w+?)(?:litepod)?[-:](\d+)$', topology)
  kind = (sold[1] if sold else topology.partition(':')[0]).split('x')[-1]
  kind = {'v5': 'v5e'}.get(kind, kind)
  if kind not in KINDS:
    return among(kind, KINDS)
  shapes = _CUBES if kind == 'v5p' else _SQUARES
  if sold:  # v5e-32 is of 32 chips, v5p-32 of 16
    chips = int(sold[2]) // (2 if kind == 'v5p' else 1)
    if chips in shapes:
      return f'; {topology} is {kind}:{shapes[chips]}'
  return f'; of {kind} there are {", ".join(shapes.values())}'


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

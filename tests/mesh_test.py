"""Which meshes devices make, and that what belongs together stands together."""

import dataclasses
import itertools

import jax
import pytest

from jaxdistill import dist
from jaxdistill.dist.mesh import Sizes, fitting, machines


@dataclasses.dataclass(frozen=True)
class Device:
  """What a mesh looks at of a device."""

  id: int
  process_index: int
  slice_index: int = 0
  platform: str = 'tpu'
  device_kind: str = 'stand-in'


def pod(chips, per_host=4, slices=1):
  """A TPU pod, its chips numbered row by row over the hosts of all slices."""
  return [
    Device(i, i // per_host, i // (chips // slices)) for i in range(chips)
  ]


PLACES = {
  'one chip': pod(1, 1),
  'v5e:2x4': pod(8),
  'v5e:4x4': pod(16),
  'v5e:4x8': pod(32),
  'v6e:4x4': pod(16),
  'v5p:4x4x4': pod(64),
  'two slices of v5e:4x4': pod(32, slices=2),
  '4 nodes of 8 GPUs': [Device(i, i // 8, i % 8, 'gpu') for i in range(32)],
}


def counted(n, per_host, slices):
  """By trial: all sizes that multiply to n, less those that may not be."""
  return {
    Sizes(d, f, t, c)
    for d, f, t in itertools.product(range(1, n + 1), repeat=3)
    for c in range(1, per_host + 1)
    if d * f * t * c == n and per_host % (c * t) == 0 and d % slices == 0
  }


@pytest.mark.parametrize('place', PLACES)
def test_every_shape_that_fits_is_made(place):
  devices = PLACES[place]
  there = machines(devices)
  slices = 2 if 'two' in place else 1
  hosts = len({d.process_index for d in devices})
  shapes = list(fitting(there))
  assert {*shapes} == counted(len(devices), len(devices) // hosts, slices)
  for sizes in shapes:
    mesh = dist.make_mesh(*sizes, devices=devices[::-1])
    assert mesh.axis_names == ('slice', 'data', 'fsdp', 'context', 'tensor')
    grid = mesh.devices
    assert dict(mesh.shape) == sizes._asdict() | {
      'slice': slices,
      'data': sizes.data // slices,
    }
    assert {*grid.flat} == {*devices}
    for row in grid.reshape(-1, sizes.context * sizes.tensor):
      assert len({d.process_index for d in row}) == 1
    if slices > 1:
      for number, part in enumerate(grid):
        assert {d.slice_index for d in part.flat} == {number}
    # Each host feeds as many batch rows, side by side.
    owners = [d.process_index for d in grid[..., 0, 0].flat]
    assert owners == sorted(owners)
    assert {owners.count(h) for h in owners} == {len(owners) // hosts}


@pytest.mark.parametrize(
  ('place', 'sizes', 'said'),
  [
    (
      'v5e:4x4',
      {'tensor': 8},
      'mesh data=2 fsdp=1 tensor=8 context=1 spreads a batch row over several '
      'processes: they have 4 devices each; the nearest that fits is data=4 '
      'fsdp=1 tensor=4 context=1',
    ),
    (
      'v5e:4x8',
      {'fsdp': 4, 'tensor': 2, 'context': 4},
      'mesh data=1 fsdp=4 tensor=2 context=4 spreads a batch row over several '
      'processes: they have 4 devices each; the nearest that fits is data=1 '
      'fsdp=8 tensor=2 context=2',
    ),
    (
      'v5e:2x4',
      {'data': 3},
      'mesh data=3 fsdp=1 tensor=1 context=1 needs 3 devices; there are 8; the '
      'nearest that fits is data=8 fsdp=1 tensor=1 context=1',
    ),
    (
      'two slices of v5e:4x4',
      {'fsdp': 32},
      'mesh data=1 fsdp=32 tensor=1 context=1 spreads a parameter over several '
      'of the 2 slices; the nearest that fits is data=2 fsdp=16 tensor=1 '
      'context=1',
    ),
    (
      '4 nodes of 8 GPUs',
      {'fsdp': 8, 'tensor': 3},
      'mesh data=1 fsdp=8 tensor=3 context=1 needs 24 devices; there are 32; '
      'the nearest that fits is data=1 fsdp=8 tensor=4 context=1',
    ),
  ],
)
def test_what_does_not_fit_is_refused_with_the_nearest(place, sizes, said):
  with pytest.raises(ValueError, match='mesh') as e:
    dist.make_mesh(**sizes, devices=PLACES[place])
  assert str(e.value) == said


def test_a_process_per_gpu_is_told_of_the_other_way():
  devices = [Device(i, i, 0, 'gpu') for i in range(8)]
  with pytest.raises(ValueError, match=r'1 device each .one process may drive'):
    dist.make_mesh(tensor=8, devices=devices)
  assert dist.make_mesh(fsdp=8, devices=devices).shape['fsdp'] == 8


def test_hosts_of_different_sizes_are_refused():
  devices = pod(8)[:6]
  with pytest.raises(ValueError, match=r'have .*: 4 on host 0, 2 on host'):
    dist.make_mesh(devices=devices)


def test_all_processes_take_part(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(ValueError, match='are of 1 of 2 processes'):
    dist.make_mesh(devices=pod(4))

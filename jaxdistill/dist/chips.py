"""What makers publish of accelerators; each figure is a bound."""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """Of one chip.

  Attributes:
    name: As people say.
    memory: Bytes that a program may use: of TPUs what their compiler says.
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


_TPU, _NVIDIA = 'docs.cloud.google.com/tpu/docs/', 'nvidia.com/data-center/'
# By `device_kind`, or what it begins with. A host's network is shared out among
# its chips: 2 x 100 Gbit/s among 8 (v5e), 4 x 200 among 8 (v6e), 200 among 4
# (v5p); of GPUs 400 Gbit/s each, which is usual and not the card's own.
CHIPS = {
  'TPU v5 lite': Chip(
    *('v5e', 15.75 * GIB, 197e12, 819e9, 200e9, 3.1e9, f'{_TPU}v5e')
  ),
  'TPU v5': Chip(
    *('v5p', 95.74 * GIB, 459e12, 2765e9, 600e9, 6.2e9, f'{_TPU}v5p')
  ),
  'TPU v6 lite': Chip(
    *('v6e', 31.25 * GIB, 918e12, 1600e9, 400e9, 12.5e9, f'{_TPU}v6e')
  ),
  'NVIDIA H100': Chip(
    *('H100 SXM', 79.1 * GIB, 989e12, 3.35e12, 450e9, 50e9, f'{_NVIDIA}h100')
  ),
  'NVIDIA H200': Chip(
    *('H200 SXM', 139.8 * GIB, 989e12, 4.8e12, 450e9, 50e9, f'{_NVIDIA}h200')
  ),
}


def chip_of(kind: str) -> Chip | None:
  """What is published of a `device_kind`; None of one that is not known."""
  begins = [name for name in CHIPS if kind.startswith(name)]
  return CHIPS[max(begins, key=len)] if begins else None

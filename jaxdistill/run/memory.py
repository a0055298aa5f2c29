"""What a run needs at least, held against what there is.

Only what is certain is counted (parameters, moments, gradient, anchors), so
what is refused could not have run; what passes may still be too large, by its
activations and by the keys and values of what it generates.
"""

import math
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxdistill import dist
from jaxdistill.models import DecoderConfig, Deltas
from jaxdistill.models.encoder import make
from jaxdistill.run.host import host_memory
from jaxdistill.run.step import split_params


def check(
  described: DecoderConfig,
  deltas: Deltas,
  mesh: Mesh,
  *,
  trainable: str,
  dtype: str,
  trains: bool,
  anchors: int,
  offload: bool = False,
) -> None:
  """Refuses a model that cannot fit, before its weights are read.

  Args:
    described: Of the decoder.
    deltas: Which it carries.
    mesh: Where it goes.
    trainable: `full`, `lora` or `roles`.
    dtype: Of a frozen trunk.
    trains: Whether moments and a gradient are needed as well.
    anchors: Past selves that a step keeps at hand.
    offload: Whether the moments are elsewhere, in the host's memory.

  Raises:
    ValueError: Says what is needed, what there is, and what lowers it.
  """
  there = available(mesh)
  if there is None:
    return
  parts = needed(described, deltas, trainable, dtype, trains, anchors)
  on_host = mesh.local_devices[0].platform == 'cpu'
  if offload and not on_host:
    del parts['moments']
  # Each replica holds all of it; on a CPU all of them share one memory.
  chips = math.prod(mesh.shape[x] for x in ('fsdp', 'context', 'tensor'))
  where = 'on each device'
  if on_host:
    chips, where = chips / len(mesh.local_devices), 'on this host'
  needs = sum(parts.values()) / chips
  if needs <= there:
    return
  listed = ', '.join(
    f'{name} {size / chips / 2**30:.3g}' for name, size in parts.items() if size
  )
  ways = ['a smaller model']
  if trains and trainable == 'full':
    ways.append('trainable=lora')
    ways.append('dtype=bfloat16 with it')
  elif trains and dtype != 'bfloat16':
    ways.append('dtype=bfloat16')
  if trains and not offload and not on_host:
    ways.append('optimizer.offload=True')
  if trains and anchors:
    ways.append('method.kl=0')
  if trains and mesh.shape['data'] > 1:
    ways.append('a larger mesh.fsdp')
  raise ValueError(
    f'the model needs {needs / 2**30:.3g} GiB {where}, besides '
    f'activations ({listed}); there are {there / 2**30:.3g}; what lowers it: '
    + ', '.join(ways)
  )


def needed(
  described: DecoderConfig,
  deltas: Deltas,
  trainable: str,
  dtype: str,
  trains: bool,
  anchors: int,
) -> dict[str, int]:
  """Bytes that a model takes at least, by what for; see `check`."""
  abstract = nnx.eval_shape(lambda: make(described, deltas, rngs=nnx.Rngs(0)))
  _, moving, frozen = split_params(abstract, trainable)
  moves = 4 * _count(moving)  # float32, as its moments are
  still = np.dtype(dtype).itemsize * _count(frozen)
  return {
    'parameters': moves + still,
    'moments': 2 * moves * trains,
    'gradient': 4 * _count(moving.shared) * trains,
    'anchors': anchors * moves * trains,
  }


def _count(tree: Any) -> int:
  return sum(x.size for x in jax.tree.leaves(tree))


def peak() -> int | None:
  """Most bytes that were in use on a device of any host; None: not known.

  All hosts ask together.
  """
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  most = max(x.get('peak_bytes_in_use', 0) for x in stats)
  (mib,) = dist.agree_max(most >> 20)  # bytes are too many to agree on
  return mib << 20 or None


def available(mesh: Mesh) -> int | None:
  """Bytes of a device; of a CPU what the host has left; None: not known."""
  device = mesh.local_devices[0]
  if device.platform == 'cpu':
    return host_memory()
  return (device.memory_stats() or {}).get('bytes_limit')

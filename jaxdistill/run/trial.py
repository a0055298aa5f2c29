"""What devices show before a run: their collectives, and ten known steps."""

import itertools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from jaxdistill.models import Decoder, DecoderConfig
from jaxdistill.models.linear import precise

_BYTES = {'cpu': 2**23}  # of the whole that is gathered; an accelerator's is
_MANY = 2**28
_TIMES = 5

# Of the ten steps of `losses`, as a CPU took them with jax 0.10.2.
RECORDED = (
  *(3.477466, 3.399755, 3.329340, 3.265302, 3.206831),
  *(3.153216, 3.103840, 3.058173, 3.015761, 2.976208),
)
TOLERANCE = 1e-3  # relative: devices add up in other orders
_TINY = DecoderConfig(
  vocab_size=32,
  embed_dim=32,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_dim=64,
  embed_scale=4.0,
)


def rates(mesh: Mesh) -> dict[str, tuple[float, bool]]:
  """Measures a gather and a sum along each axis of a mesh with several devices.

  Returns:
    By axis: GB/s that each device received in the gather, and whether both
    results were right. All processes must call it.
  """
  found = {}
  for axis, n in mesh.shape.items():
    if n > 1:
      found[axis] = _rate(mesh, axis, n)
  return found


def _rate(mesh: Mesh, axis: str, n: int) -> tuple[float, bool]:
  platform = mesh.devices.flat[0].platform
  size = _BYTES.get(platform, _MANY) // 4 // n
  parted = NamedSharding(mesh, PartitionSpec(axis))
  whole = NamedSharding(mesh, PartitionSpec())

  def part(index):
    start = index[0].start or 0
    stop = n if index[0].stop is None else index[0].stop
    rows = np.arange(start, stop, dtype=np.float32)[:, None]
    return np.broadcast_to(rows, (stop - start, size))

  x = jax.make_array_from_callback((n, size), parted, part)
  gather = jax.jit(lambda x: x, out_shardings=whole)
  # Of whole numbers, so that the order of a sum does not matter.
  total = jax.jit(lambda x: x.sum(0), out_shardings=whole)
  mine = np.asarray(gather(x).addressable_data(0))
  right = bool((mine == np.arange(n)[:, None]).all())
  sums = np.asarray(total(x).addressable_data(0))
  right &= bool((sums == n * (n - 1) / 2).all())
  best = np.inf
  for _ in range(_TIMES):
    begin = time.perf_counter()
    gather(x).block_until_ready()
    best = min(best, time.perf_counter() - begin)
  return (n - 1) * size * 4 / best / 1e9, right


def losses(devices: Sequence[Any]) -> np.ndarray:
  """Ten steps of gradient descent of a tiny decoder on each device by itself.

  All in it is by rule: parameters are sines, tokens are counted, so that no
  generator of random numbers stands between two machines.

  Args:
    devices: N of this process.

  Returns:
    `Float[np.ndarray, '10 N']`.
  """
  empty = nnx.eval_shape(lambda: Decoder(_TINY, rngs=nnx.Rngs(0)))
  graphdef, shapes = nnx.split(empty)
  leaves, treedef = jax.tree.flatten(shapes)
  each = NamedSharding(Mesh(np.array(devices), 'each'), PartitionSpec('each'))

  def placed(i, leaf):
    wave = np.sin(1.7 * np.arange(leaf.size) + i).reshape(leaf.shape)
    value = np.float32(wave * (0.3 if leaf.ndim > 1 else 1))
    shape = len(devices), *leaf.shape
    return jax.device_put(np.broadcast_to(value, shape), each)

  params = jax.tree.unflatten(treedef, map(placed, itertools.count(), leaves))
  tokens, found = np.arange(8 * 24).reshape(8, 24) ** 2 % 31, []
  with precise('float32'):
    for _ in range(10):
      loss, params = _descend(graphdef, params, tokens)
      found.append(np.asarray(loss))
  return np.array(found)


@jax.jit(static_argnums=0)
def _descend(
  graphdef: nnx.GraphDef, params: Any, tokens: Array
) -> tuple[Float[Array, ' N'], Any]:
  def loss_of(params: Any) -> Array:
    logits = nnx.merge(graphdef, params)(tokens[:, :-1])
    logp = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.take_along_axis(logp, tokens[:, 1:, None], -1).mean()

  loss, grads = jax.vmap(jax.value_and_grad(loss_of))(params)
  return loss, jax.tree.map(lambda p, g: p - 0.05 * g, params, grads)


def off() -> tuple[float, str]:
  """Of this process's devices the one that is furthest from the recorded steps.

  Returns:
    The largest relative distance of a loss, and the device's name.
  """
  devices = jax.local_devices()
  recorded = np.array(RECORDED)[:, None]
  apart = np.abs(losses(devices) - recorded) / recorded
  worst = np.nan_to_num(apart, nan=np.inf).max(0)
  return float(worst.max()), str(devices[int(worst.argmax())])

"""How many samples may be in flight: what the cache has room for."""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import psutil
from flax import nnx
from jax.sharding import Mesh

from jaxdistill import dist
from jaxdistill.batch.layout import power
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.int8 import Formats
from jaxdistill.models.paged import CACHES
from jaxdistill.rollout.samplers import Sampling
from jaxdistill.rollout.schedule import PAGE

_GIB = 2**30
_LIMIT = pathlib.Path('/sys/fs/cgroup/memory.max')  # of a container


def rows_within(
  config: DecoderConfig,
  sampling: Sampling,
  prompt: int,
  mesh: Mesh,
  gib: float,
  cache: str = '',
  weights: int = 0,
) -> int:
  """Most samples in flight on a batch shard, a power of two.

  Each has room for the longest response, so that none is ever sent away.

  Args:
    config: Of the decoder.
    sampling: How responses are drawn.
    prompt: Tokens of the longest prompt of all hosts.
    mesh: Over which rows and heads are split.
    gib: What each device gives to keys, values and logits, in GiB; 0: most of
      what it has left, and on a CPU a quarter of the host's memory.
    cache: What keys and values are kept as.
    weights: Bytes that the weights will take, see `weight_bytes`.

  Raises:
    ValueError: There is no room for one.
  """
  tensor = mesh.shape.get('tensor', 1)
  needs = sample_bytes(config, sampling, prompt, tensor, cache)
  there = int(gib * _GIB) or _left(mesh, weights)
  (fewest,) = dist.agree_max(-(there // needs))
  if not fewest:
    raise ValueError(
      f'a response of {sampling.max_tokens} tokens to a prompt of {prompt} '
      f'takes {needs / _GIB:.3g} GiB of keys and values; rollout.cache_gib '
      f'is {there / _GIB:.3g}'
    )
  return power(-fewest + 1) // 2


def sample_bytes(
  config: DecoderConfig,
  sampling: Sampling,
  prompt: int,
  tensor: int,
  cache: str = '',
) -> int:
  """What a sample takes at most on a device: keys, values and logits."""
  c, size = config, min(PAGE, power(sampling.max_tokens))
  token, as_read = (_token_bytes(config, tensor, x) for x in (cache, ''))
  # Full pages, of which there is room for a power of two, and the newest.
  own = size * (power(-(-sampling.max_tokens // size)) + 1)
  logits = 3 * 4 * c.vocab_size // tensor
  # Twice, for powers of two; and as often what was read and is to be kept.
  prompts = -(-2 * prompt * (token + as_read) // sampling.samples)
  return token * own + prompts + logits


def _token_bytes(config: DecoderConfig, tensor: int, cache: str) -> int:
  """Of a token's keys and values in all layers, on a device."""
  c = config.over(tensor)
  heads = c.num_kv_heads // (1 if c.num_kv_heads % tensor else tensor)
  shapes = (1, heads, c.head_dim, 1), (1, heads, 1, c.head_dim)
  layer = (jax.ShapeDtypeStruct(shape, jnp.dtype(c.dtype)) for shape in shapes)
  kept = jax.tree.leaves(jax.eval_shape(CACHES[cache], *layer))
  return c.num_layers * sum(x.size * x.dtype.itemsize for x in kept)


def weight_bytes(
  params: tuple[nnx.State, ...],
  config: DecoderConfig,
  mesh: Mesh,
  formats: Formats,
) -> int:
  """What weights take on a device, laid out to decode with.

  Args:
    params: As training holds them, with their logical axes.
    config: Of the decoder.
    mesh: Over which they are split.
    formats: How they are kept.
  """
  usual = jnp.dtype(config.dtype).itemsize
  whole, total = dist.DECODE_RULES, 0
  rules = dist.RULES if formats.sharded else whole
  for path, x in (pair for p in params for pair in nnx.to_flat_state(p)):
    one = 1 if formats.weights == 'int8' and path[-1] == 'kernel' else usual
    lies = [whole if path[0] == 'head' else rules]
    if path[0] == 'embed' and config.tied:
      lies.append(whole)  # as output projection
    for how in lies:
      where = dist.sharding(mesh, x.axes, x.shape, how)
      total += one * math.prod(where.shard_shape(x.shape))
  return total


@functools.cache
def _left(mesh: Mesh, weights: int) -> int:
  """Bytes for a device; asked once, lest a run's programs change under it."""
  device = mesh.local_devices[0]
  if device.platform == 'cpu':
    there = psutil.virtual_memory().total
    if _LIMIT.exists() and (limit := _LIMIT.read_text().strip()).isdecimal():
      there = min(there, int(limit))
    return there // 4 // len(mesh.local_devices)
  stats = device.memory_stats() or {}
  limit = stats.get('bytes_limit', 16 * _GIB)
  left = limit - stats.get('bytes_in_use', 0) - weights
  return max(left, limit // 20) * 7 // 10

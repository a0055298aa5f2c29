"""Sequences whose tokens are split over devices, along the axis `context`.

Everything but attention is of each token by itself. Attention gathers keys and
values, and each device asks them with its own queries (Llama 3, arXiv
2407.21783, sec. 3.3.2); see `flash` for how, and here for which tokens a device
has and how those that predict are brought to where their logits are made.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdistill.dist import READ, parts, sharding

_AXIS = 'context'


def evenly(length: int) -> Int[np.ndarray, 'T'] | None:
  """The order of tokens in which each device's see as many as another's.

  Of 2n parts device i has parts i and 2n - 1 - i: a causal mask is a triangle,
  and its last rows have most to do.

  Args:
    length: Of the sequences.

  Returns:
    The place of each token; None where they are not split.
  """
  n = parts('tokens', length)
  if n == 1 or length % (2 * n):
    return None
  order = np.arange(length, dtype=np.int32).reshape(2 * n, -1)
  return np.stack([order[:n], order[: n - 1 : -1]], 1).reshape(-1)


def picked(
  states: Float[Array, 'B T D'], places: Int[Array, 'B R']
) -> Float[Array, 'B R D']:
  """The states at some places, split over devices as tokens are.

  What a device is asked for goes round: each adds what it has of it.
  """
  n = parts('tokens', math.gcd(states.shape[1], places.shape[1]))
  if n == 1:
    return jnp.take_along_axis(states, places[..., None], axis=1)
  mesh = jax.sharding.get_abstract_mesh()
  split = sharding(mesh, READ, states.shape[:2]).spec
  each = sharding(mesh, READ[:1], states.shape[:1]).spec
  around = [(i, (i + 1) % n) for i in range(n)]

  def on_shard(states, places):
    b, here, _ = states.shape
    me = jax.lax.axis_index(_AXIS)
    asked = places.reshape(b, n, -1) - me * here

    def part(i):
      at = jax.lax.dynamic_index_in_dim(asked, i % n, 1, keepdims=False)
      there = ((at >= 0) & (at < here))[..., None]
      at = jnp.clip(at, 0, here - 1)[..., None]
      return jnp.where(there, jnp.take_along_axis(states, at, 1), 0)

    found = part(me - 1)
    for i in range(2, n + 1):
      found = jax.lax.ppermute(found, _AXIS, around) + part(me - i)
    return found

  return jax.shard_map(
    on_shard,
    in_specs=(split, each),
    out_specs=split,
    axis_names=set(mesh.axis_names),
  )(states, places)

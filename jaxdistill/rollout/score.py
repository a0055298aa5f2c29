"""What is asked of the logits of responses, and the program that asks it."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdistill import dist

# Each takes logits that are divided by the temperature, float32[B, C, V], and
# what `reads` names for the same tokens.


@dataclasses.dataclass(frozen=True)
class Own:
  """log p of the tokens themselves, [...]."""

  reads = 'targets'

  def __call__(self, logits, targets):
    picked = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return picked - jax.nn.logsumexp(logits, -1)


@dataclasses.dataclass(frozen=True)
class Of:
  """log p of given tokens, [..., k]."""

  reads = 'ids'

  def __call__(self, logits, ids):
    picked = jnp.take_along_axis(logits, ids, -1)
    return picked - jax.nn.logsumexp(logits, -1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Top:
  """The k likeliest tokens and their log p, [..., k] each, likeliest first."""

  k: int
  reads = 'targets'

  def __call__(self, logits, targets):
    del targets
    values, ids = jax.lax.top_k(logits, self.k)
    return ids, values - jax.nn.logsumexp(logits, -1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Grade:
  """The one number that a model with grades gives, [...]."""

  reads = 'targets'

  def __call__(self, logits, targets):
    del targets
    return logits[..., 0]


@dataclasses.dataclass(frozen=True)
class Entropy:
  """Entropy of what may come in the tokens' places, nats, [...]."""

  reads = 'targets'

  def __call__(self, logits, targets):
    del targets
    logp = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(logp) * logp, -1)


@functools.partial(jax.jit, static_argnames=('graphdef', 'what'))
def score(graphdef, params, batch, temperature, *, what) -> Any:
  """`what` of every scored token of a packed batch, [M, B, R, ...]."""
  model = nnx.merge(graphdef, *params)

  def one(i):
    micro = batch.microbatch(i)
    if what.reads == 'targets':
      read = micro.targets
    else:
      read = micro.fields[what.reads]
    return micro.over_targets(
      lambda logits, read: what(logits / temperature, read),
      model,
      arrays=(read,),
    )

  def pinned(x):
    return dist.constrain(x, None, 'batch', *[None] * (x.ndim - 2))

  def put(i, out):
    return jax.tree.map(lambda o, x: o.at[i].set(x), out, one(i))

  shapes = jax.eval_shape(one, jnp.zeros((), jnp.int32))
  room = batch.weight.shape[0]
  start = jax.tree.map(
    lambda x: pinned(jnp.zeros((room, *x.shape), x.dtype)), shapes
  )
  out = jax.lax.fori_loop(0, batch.microbatches, put, start)
  return jax.tree.map(pinned, out)

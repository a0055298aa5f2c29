"""What is asked of the logits of responses, and the programs that ask it."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdistill import dist

# Each takes logits that are divided by the temperature, float32[B, C, V], and
# what `reads` names for the same tokens; `Apart` takes those of two models.


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


@dataclasses.dataclass(frozen=True)
class Apart:
  """KL(student || teacher) over the whole vocabulary, in nats, [...], and the
  share of the k likeliest tokens of each that both have, [...]."""

  k: int
  reads = 'targets'

  def __call__(self, student, teacher, targets):
    del targets
    logp, logq = (jax.nn.log_softmax(x, -1) for x in (student, teacher))
    kl = jnp.sum(jnp.exp(logp) * (logp - logq), -1)
    k = min(self.k, student.shape[-1])
    mine, theirs = (jax.lax.top_k(x, k)[1] for x in (student, teacher))
    shared = (mine[..., :, None] == theirs[..., None, :]).any(-1)
    return kl, jnp.mean(shared, -1, dtype=jnp.float32)


@functools.partial(jax.jit, static_argnames=('graphdef', 'what'))
def score(params, batch, temperature, *, graphdef, what) -> Any:
  """`what` of every scored token of a packed batch, [M, B, R, ...]."""
  return _scored((graphdef,), (params,), batch, temperature, what)


@functools.partial(jax.jit, static_argnames=('graphdefs', 'what'))
def score_both(graphdefs, params, batch, temperature, *, what) -> Any:
  """The same of two models: `what` takes the logits of each.

  Args:
    graphdefs: Of the student and of the teacher, who reads its own prompts.
    params: Of each.
    batch: Packed rows; the role is of both.
    temperature: Divides the logits of both.
    what: Of every scored token.
  """
  return _scored(graphdefs, params, batch, temperature, what)


def _scored(graphdefs, params, batch, temperature, what):
  models = [nnx.merge(g, *p) for g, p in zip(graphdefs, params, strict=True)]

  def of_chunk(*chunks):
    *logits, read = chunks
    return what(*(x / temperature for x in logits), read)

  def one(i):
    micro = batch.microbatch(i)
    if what.reads == 'targets':
      read = micro.targets
    else:
      read = micro.fields[what.reads]
    return micro.over_targets(of_chunk, *models, arrays=(read,))

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

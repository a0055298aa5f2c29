"""Short trainings of many adapters at once, to be thrown away after use.

What would the model be if it learned this? SEAL (arXiv 2506.10943) asks that of
every self-edit, temporal self-rewarding (arXiv 2508.06026) of a step into the
future. Each candidate trains a low-rank adapter of its own on the same trunk,
which is there once; all of them in one compiled program.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.decoder import LINEARS, Decoder
from jaxdistill.models.linear import Deltas, InnerDelta
from jaxdistill.optimizer import OptimizerConfig


def widened(config: DecoderConfig, deltas: Deltas) -> nnx.GraphDef:
  """The graph of a decoder with these deltas, adapters apart from the rest."""
  abstract = nnx.eval_shape(lambda: Decoder(config, deltas, rngs=nnx.Rngs(0)))
  return nnx.split(abstract, InnerDelta, ...)[0]


@functools.partial(jax.jit, static_argnames=('config', 'deltas'))
def fresh_adapters(config: DecoderConfig, deltas: Deltas, keys: Array) -> Any:
  """Adapters that change nothing yet, stacked, one per key `[E]`."""

  def one(key):
    model = Decoder(config, deltas, rngs=nnx.Rngs(params=key))
    return nnx.split(model, InnerDelta, ...)[1]

  return jax.vmap(one)(keys)


@functools.partial(jax.jit, static_argnames=('graphdef', 'loss', 'optimizer'))
def train(
  graphdef: nnx.GraphDef,
  adapters: Any,
  trunk: Any,
  batches: Any,
  rates: Float[Array | np.ndarray, 'E X'],
  *,
  loss: Callable,
  optimizer: OptimizerConfig,
) -> tuple[Any, Float[Array, 'E X']]:
  """Takes `X` optimizer steps with each of `E` adapters.

  Args:
    graphdef: From `widened`.
    adapters: Stacked on a leading axis `E`.
    trunk: All other parameters; shared, and never moved.
    batches: Stacked likewise, see `batch.stack`.
    rates: Learning rate of every adapter at every step; 0 stands still.
    loss: A method's `loss`; it is given no anchors.
    optimizer: Its moments, weight decay and clipping.

  Returns:
    The adapters, and the value of the loss before each step.
  """
  direction = optimizer.direction()

  def objective(adapter, micro):
    model = nnx.merge(graphdef, adapter, trunk)
    values, _ = loss(model, {}, micro)
    # A candidate may have no rows: it stands still.
    return micro.weighted(values) / jnp.maximum(micro.total, 1e-9)

  gradient = jax.value_and_grad(objective)

  def one(adapter, batch, rates):
    def step(carry, rate):
      adapter, moments = carry
      value, grads = batch.summed(lambda micro: gradient(adapter, micro))
      grads, _ = optimizer.clipped(grads)
      updates, moments = direction.update(grads, moments, adapter)
      updates = jax.tree.map(lambda u: -rate * u, updates)
      return (optax.apply_updates(adapter, updates), moments), value

    start = adapter, direction.init(adapter)
    (adapter, _), values = jax.lax.scan(step, start, rates)
    return adapter, values

  return jax.vmap(one)(adapters, batches, rates)


@jax.jit
def one_of(adapters: Any, place: int | Int[Array, '']) -> Any:
  """The adapters of one candidate, in one dispatch and not one a leaf."""
  return jax.tree.map(lambda x: x[place], adapters)


def rates_of(
  optimizer: OptimizerConfig,
  candidates: int,
  steps: int | Sequence[int],
  scales: Sequence[float] | None,
) -> Float[np.ndarray, 'E X']:
  """The schedule's rates, scaled by candidate, 0 after a candidate's last."""
  lengths = np.broadcast_to(np.asarray(steps, int), (candidates,))
  places = np.arange(lengths.max())
  rates = np.asarray(jax.vmap(optimizer.learning_rate())(places), np.float32)
  rates = np.broadcast_to(rates, (candidates, len(places)))
  rates = np.where(places < lengths[:, None], rates, 0)
  scale = np.asarray(1.0 if scales is None else scales, np.float32)
  return rates * np.broadcast_to(scale, (candidates,))[:, None]


def merged(model: Decoder) -> nnx.State:
  """All parameters of a model but its adapter, that added to the trunk."""
  graphdef, state = nnx.split(model)
  # Others hold the same variables: these are changed in place.
  model = nnx.merge(graphdef, jax.tree.map(lambda x: x, state))
  for name in LINEARS:
    linear = getattr(model, name)
    kernel, (a, b) = linear.kernel[...], linear.inner
    delta = linear.inner_scale * (a[...] @ b[...])
    linear.kernel.set_value((kernel + delta).astype(kernel.dtype))
  _, _, rest = nnx.split(model, InnerDelta, ...)
  return rest

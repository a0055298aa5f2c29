"""Parameters that anchors hold, for tests of rules and of snapshots."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tiny import TINY

from jaxdistill.models import Decoder, Deltas
from jaxdistill.run.step import param_shardings, split_params


def make_params(seed=0, trainable='full'):
  deltas = Deltas(per_role='heads', lora=True, rank=2)
  empty = nnx.eval_shape(lambda: Decoder(TINY, deltas, rngs=nnx.Rngs(0)))
  graphdef, params, frozen = split_params(empty, trainable)
  draw = np.random.default_rng(seed)
  for state in (*params, frozen):
    for _, variable in nnx.to_flat_state(state):
      value = 0.3 * draw.standard_normal(variable.shape)
      variable.set_value(jnp.asarray(value, jnp.float32))
  return graphdef, params, frozen


def on_mesh(params, mesh):
  return jax.device_put(params, param_shardings(params, mesh))


def values(tree):
  return [np.array(x) for x in jax.tree.leaves(tree)]


def assert_equal(first, second):
  for a, b in zip(values(first), values(second), strict=True):
    np.testing.assert_array_equal(a, b)


def zeros_like(params):
  def zeros(x):
    return jax.device_put(np.zeros(x.shape, x.dtype), x.sharding)

  return jax.tree.map(zeros, params)

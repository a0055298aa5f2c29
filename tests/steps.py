"""Models, rows and train states for tests of a gradient step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import TINY

from jaxdistill import dist
from jaxdistill.batch import Shapes, make_batch
from jaxdistill.methods.grpo import Grpo
from jaxdistill.methods.policy_gradient import PolicyGradient
from jaxdistill.methods.sft import Sft
from jaxdistill.models import Decoder, Deltas
from jaxdistill.run.step import (
  OptimizerConfig,
  init_state,
  make_step,
  split_params,
)
from jaxdistill.types import Row, RowSet

HEADS = Deltas(per_role='heads', rank=2)
LORA = Deltas(per_role='heads', lora=True, rank=2)
ADAPTER = Deltas(per_role='adapter', rank=2)
NO_ROLES = Deltas(per_role='shared')
# With the usual eps a gradient that is rounding error alone would move a
# parameter by a whole learning rate, and no two layouts would agree.
OPTIMIZER = OptimizerConfig(lr=1e-3, warmup=2, eps=1e-4, weight_decay=0.1)
RATES = (0.0, 5e-4, 1e-3, 1e-3, 1e-3)
METHODS = {'sft': Sft(), 'grpo': Grpo(policy=PolicyGradient(temperature=0.8))}
FIELDS = {'sft': (), 'grpo': ('advantage', 'old_logp', 'anchor_logp')}
COEFFICIENTS = {
  'sft': {},
  'grpo': {'clip_low': 0.2, 'clip_high': 0.2, 'kl': 0.1},
}
MESHES = {
  'one device': {'devices': jax.devices()[:1]},
  'data=8': {'data': 8},
  'data=2,fsdp=4': {'data': 2, 'fsdp': 4},
  'data=2,fsdp=2,tensor=2': {'data': 2, 'fsdp': 2, 'tensor': 2},
  'fsdp=2,tensor=2,context=2': {'fsdp': 2, 'tensor': 2, 'context': 2},
}
ONE_BATCH = Shapes(32, 8)
NOTHING = nnx.State({})  # is frozen where the trunk moves

both_losses = pytest.mark.parametrize('kind', METHODS)


def make_model(deltas, sharpness=1.0, **changes):
  """Values from numpy; second factors of deltas are 0, as in a new model."""
  config = dataclasses.replace(TINY, **changes)
  empty = nnx.eval_shape(lambda: Decoder(config, deltas, rngs=nnx.Rngs(0)))
  graphdef, state = nnx.split(empty)
  draw = np.random.default_rng(0)
  for path, variable in nnx.to_flat_state(state):
    shape = variable.shape
    if 'norm' in path[0]:
      value = np.full(shape, sharpness if path[0] == 'norm' else 1.0)
    elif path[-1] == 1:
      value = np.zeros(shape)
    else:
      fan_in = shape[-1 if path[0] == 'embed' else -2]
      value = draw.standard_normal(shape) * fan_in**-0.5
    variable.set_value(jnp.asarray(value, jnp.float32))
  return nnx.merge(graphdef, state)


def make_rows(seed, count=12):
  """Rows of 9 to 16 tokens, of which the first four are a prompt."""
  draw = np.random.default_rng(seed)
  rows = []
  for n in draw.integers(9, 17, count):
    values = {
      'advantage': draw.choice([-1.0, 1.0]) * np.ones(n),
      'old_logp': -3 + 0.5 * draw.standard_normal(n),
      'anchor_logp': -3 + 0.5 * draw.standard_normal(n),
    }
    tokens = draw.integers(1, 20, n).astype(np.int32)
    rows.append(
      Row(
        prompt_T=tokens[:4],
        response_R=tokens[4:],
        weight_R=np.full(n - 4, 1 / (n - 4), np.float32),
        total=1.0,
        fields={k: v[4:].astype('float32') for k, v in values.items()},
      )
    )
  return rows


def padded(rows):
  """Each row's tokens, and the weights of those, in a sequence of its own."""
  tokens, weights = np.zeros((2, len(rows), 16), np.float32)
  for i, row in enumerate(rows):
    tokens[i, : len(row)] = [*row.prompt_T, *row.response_R]
    weights[i, len(row.prompt_T) : len(row)] = row.weight_R
  return tokens.astype(np.int32), weights


def by_logits(model, tokens, temperature=1.0):
  """log-probs of all tokens but the first, from the logits."""
  logp = jax.nn.log_softmax(model(tokens) / temperature)
  return jnp.take_along_axis(logp[:, :-1], tokens[:, 1:, None], -1)[..., 0]


def batch_of(kind, rows, role, mesh, shapes=ONE_BATCH):
  row_set = RowSet('', rows, FIELDS[kind], COEFFICIENTS[kind])
  return make_batch(row_set, role, mesh, shapes)[0]


@functools.cache
def compiled(kind, deltas, trainable='full'):
  graphdef, _, _ = split_params(make_model(deltas), trainable)
  return make_step(graphdef, METHODS[kind].loss, OPTIMIZER)


def fresh_state(mesh, deltas, trainable='full'):
  _, params, _ = split_params(make_model(deltas), trainable)
  return init_state(params, OPTIMIZER, mesh)


def values(tree):
  """Copies, since a step takes its state over."""
  return [np.array(x) for x in jax.tree.leaves(tree)]


def assert_equal(first, second):
  for a, b in zip(values(first), values(second), strict=True):
    np.testing.assert_array_equal(a, b)


@functools.cache
def trajectory(kind, layout='one device', shapes=ONE_BATCH, steps=5):
  """Losses, gradient norms and final parameters; roles take turns."""
  mesh = dist.make_mesh(**MESHES[layout])
  with jax.set_mesh(mesh):
    step, state = compiled(kind, HEADS), fresh_state(mesh, HEADS)
    losses, norms = [], []
    for i in range(steps):
      batch = batch_of(kind, make_rows(i % 4), i % 2, mesh, shapes)
      state, metrics = step(state, NOTHING, {}, (batch,))
      losses.append(float(metrics['loss']))
      norms.append(float(metrics['grad_norm']))
    assert int(state.step) == steps
    return losses, norms, values(state.params)


def assert_same_trajectory(first, second):
  """Sums in another order: parameters move by 1e-3, and agree to 1e-6."""
  np.testing.assert_allclose(first[0], second[0], rtol=1e-5, atol=5e-6)
  np.testing.assert_allclose(first[1], second[1], rtol=2e-5)
  for a, b in zip(first[2], second[2], strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)

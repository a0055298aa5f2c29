"""What a model makes of packed rows, against each row alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from packed_rows import FIELDS, make_row, related_rows, tokens_of
from tiny import TINY

from jaxdistill.batch import Shapes, make_batch, take_rows
from jaxdistill.models import Decoder, Deltas
from jaxdistill.models.rope import Rope
from jaxdistill.types import RowSet

WINDOWED = dict(
  window=4, sliding=(True, False), rope=Rope(100.0), sliding_rope=Rope(30.0)
)
LONGEST = 14


def make_model(**changes):
  """Values from numpy, those of deltas too."""
  config = dataclasses.replace(TINY, **{'rope': Rope(100.0)} | changes)
  deltas = Deltas(per_role='heads', rank=2, alpha=2.0)
  empty = nnx.eval_shape(lambda: Decoder(config, deltas, rngs=nnx.Rngs(0)))
  graphdef, state = nnx.split(empty)
  draw = np.random.default_rng(0)
  for path, variable in nnx.to_flat_state(state):
    shape = variable.shape
    fan_in = shape[-1 if path[0] == 'embed' else -2] if len(shape) > 1 else 1
    value = draw.standard_normal(shape) * fan_in**-0.5
    if 'norm' in path[0]:
      value = np.ones(shape)
    variable.set_value(jnp.asarray(value, jnp.float32))
  return graphdef, state


def packed_batch(rows, mesh, sequences=8):
  return make_batch(RowSet('', rows, FIELDS), 1, mesh, Shapes(48, sequences))


def packed_logprobs(graphdef):
  def logprobs(params, batch):
    model = nnx.merge(graphdef, params)
    return jax.lax.map(
      lambda i: batch.microbatch(i).logprobs(model, 0.8),
      jnp.arange(batch.reading.tokens.shape[0]),
    )

  return jax.jit(logprobs)


def alone(graphdef, rows):
  """Log-probs `[N, T - 1]` of all tokens, each row in a sequence alone."""
  tokens = np.zeros((len(rows), LONGEST), np.int32)
  for i, row in enumerate(rows):
    tokens[i, : len(row)] = tokens_of(row)

  def logprobs(params):
    logits = nnx.merge(graphdef, params)(jnp.asarray(tokens), role=1)
    logp = jax.nn.log_softmax(logits / 0.8)
    wanted = tokens[:, 1:, None]
    return jnp.take_along_axis(logp[:, :-1], wanted, -1)[..., 0]

  return logprobs


def response_places(row):
  return slice(len(row.prompt_T) - 1, len(row) - 1)


@pytest.mark.parametrize('changes', [{}, WINDOWED], ids=['full', 'windowed'])
@pytest.mark.parametrize('seed', range(3))
def test_packed_rows_have_the_logprobs_of_rows_alone(one_device, seed, changes):
  graphdef, params = make_model(**changes)
  rows = related_rows(seed, 16, LONGEST)
  batch, places = packed_batch(rows, one_device)
  assert sum(place.shared for place in places) > 20
  assert batch.segments.max() > 3
  found = packed_logprobs(graphdef)(params, batch)
  assert np.isfinite(found).all()  # padding too
  expected = np.asarray(jax.jit(alone(graphdef, rows))(params))
  got = take_rows(found, places, rows)
  for row, own, wanted in zip(rows, got, expected, strict=True):
    np.testing.assert_allclose(own, wanted[response_places(row)], atol=2e-5)


def test_a_window_is_seen_at_this_length(one_device):
  """What the test above would not notice if windows never closed."""
  rows = related_rows(0, 16, LONGEST)
  batch, places = packed_batch(rows, one_device)
  windowed, full = (
    take_rows(packed_logprobs(graphdef)(params, batch), places, rows)
    for graphdef, params in (
      make_model(**WINDOWED),
      make_model(**WINDOWED | {'window': 40}),
    )
  )
  apart = [np.abs(a - b).max() for a, b in zip(windowed, full, strict=True)]
  assert max(apart) > 0.1


@pytest.mark.parametrize('changes', [{}, WINDOWED], ids=['full', 'windowed'])
def test_the_packed_gradient_is_the_sum_of_the_rows(one_device, changes):
  graphdef, params = make_model(**changes)
  rows = related_rows(4, 16, LONGEST)
  batch, _ = packed_batch(rows, one_device, sequences=2)
  assert batch.reading.tokens.shape[0] > 1  # several microbatches
  weights = np.zeros((len(rows), LONGEST - 1), np.float32)
  for i, row in enumerate(rows):
    weights[i, response_places(row)] = row.weight_R
  logprobs, of_rows = packed_logprobs(graphdef), alone(graphdef, rows)
  packed = jax.jit(
    jax.grad(lambda params: jnp.sum(batch.weight * logprobs(params, batch)))
  )(params)
  summed = jax.jit(jax.grad(lambda params: jnp.sum(weights * of_rows(params))))(
    params
  )
  for x, y in zip(
    jax.tree.leaves(packed), jax.tree.leaves(summed), strict=True
  ):
    assert np.abs(y).max() > 0.1
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-5 * np.abs(y).max())


@pytest.mark.parametrize('changes', [{}, WINDOWED], ids=['full', 'windowed'])
def test_answers_to_one_prompt_do_not_see_each_other(one_device, changes):
  graphdef, params = make_model(**changes)
  logprobs, draw = packed_logprobs(graphdef), np.random.default_rng(0)
  rows = [
    make_row(draw, [3, 4, 5], draw.integers(1, 20, n)) for n in (6, 4, 5, 6)
  ]

  def scores(rows):
    batch, places = packed_batch(rows, one_device)
    assert [p.shared for p in places] == [0, 3, 3, 3]
    assert {p.sequence for p in places} == {0}
    return take_rows(logprobs(params, batch), places, rows)

  before = scores(rows)
  for changed in range(len(rows)):
    other = list(rows)
    response = (rows[changed].response_R + 7) % 19 + 1
    other[changed] = dataclasses.replace(rows[changed], response_R=response)
    after = scores(other)
    for i, (x, y) in enumerate(zip(before, after, strict=True)):
      if i == changed:
        assert (x != y).all()
      else:
        np.testing.assert_array_equal(x, y)
  prompt = np.array([3, 6, 5], np.int32)
  other = [dataclasses.replace(row, prompt_T=prompt) for row in rows]
  for x, y in zip(before, scores(other), strict=True):
    assert (x[:2] != y[:2]).all()

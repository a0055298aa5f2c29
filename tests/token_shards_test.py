"""Sequences whose tokens are split over devices: the same, with little sent."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flash_test import (
  FORMS,
  arrays,
  forest,
  mask_of,
  plain,
  pulled,
  small_blocks,
)
from flax import nnx
from packed_rows import FIELDS, related_rows
from packed_test import WINDOWED, make_model

from jaxdistill import dist
from jaxdistill.batch import Shapes, make_batch, take_rows
from jaxdistill.models import chunked, flash, scoring
from jaxdistill.models.spans import EVERYTHING, spans_after
from jaxdistill.models.token_shards import evenly
from jaxdistill.plan import hlo
from jaxdistill.rollout.score import Own, score
from jaxdistill.run.step import param_shardings, place
from jaxdistill.types import RowSet

ROWS = RowSet('', related_rows(4, 16, 14), FIELDS)
SEVERAL = [
  {'fsdp': 2, 'tensor': 2, 'context': 2},
  {'fsdp': 2, 'context': 4},
]


def test_every_device_has_as_much_of_a_triangle():
  with jax.set_mesh(dist.make_mesh(data=2, context=4)):
    order = evenly(48)
    assert evenly(44) is None
  assert sorted(order) == list(range(48))
  assert {part.sum() for part in order.reshape(4, -1)} == {47 * 48 // 8}


def learned(sizes, **changes):
  """A loss of packed rows, its gradient, their log-probs as scored, and the
  collectives of the gradient."""
  graphdef, params = make_model(**changes)
  mesh = dist.make_mesh(**sizes)
  with jax.set_mesh(mesh):
    batch, places = make_batch(ROWS, 1, mesh, Shapes(48, 2))
    assert batch.reading.tokens.shape[0] > 1  # several microbatches
    assert sum(place.shared for place in places) > 20

    params = place(params, param_shardings(params, mesh))
    leaves, treedef = jax.tree.flatten(batch)

    @jax.jit
    def value_and_grad(params, arrays):
      batch = jax.tree.unflatten(treedef, arrays)

      def of(params, micro):
        logp = micro.logprobs(nnx.merge(graphdef, params), 0.8)
        return micro.weighted(logp)

      return batch.summed(lambda micro: jax.value_and_grad(of)(params, micro))

    program = value_and_grad.lower(params, leaves).compile()
    value, grads = program(params, leaves)
    logp = score(
      (params,), batch, np.float32(0.8), graphdef=graphdef, what=Own()
    )
  sent = hlo.cost(program.as_text(), dict(mesh.shape)).sent
  logp = take_rows(logp, places, ROWS.rows)
  return float(value), jax.tree.leaves(grads), logp, sent


@functools.cache
def of_one_device():
  return learned({'devices': jax.devices()[:1]}, **WINDOWED)


@pytest.mark.parametrize(
  ('form', 'sizes'),
  [('dense', SEVERAL[0]), *(('chunked', sizes) for sizes in SEVERAL)],
  ids=str,
)
def test_what_is_learned_and_scored_is_the_same(monkeypatch, form, sizes):
  """Of packed trees, in layers with and without windows."""
  wanted = of_one_device()
  monkeypatch.setattr(chunked, 'BLOCK', 8)
  monkeypatch.setattr(scoring, '_CHUNK_BYTES', 4 * 20 * 3)  # of 3 tokens
  value, grads, logp, sent = learned(sizes, **WINDOWED, attention=form)
  assert value == pytest.approx(wanted[0], rel=1e-5)
  for x, y in zip(grads, wanted[1], strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 * np.abs(y).max())
  for x, y in zip(logp, wanted[2], strict=True):
    np.testing.assert_allclose(x, y, atol=2e-5)
  if form == 'dense':
    return
  # Of all tokens together nobody is sent anything but keys and values.
  whole = [
    shape
    for s in sent
    for dtype, shape in hlo.sizes(s.shape)
    if dtype == 'f32' and 48 in shape and 'context' in s.axes
  ]
  assert {(len(shape), shape[3]) for shape in whole} == {(4, 8)}  # of heads


@pytest.mark.parametrize('form', FORMS)
def test_only_keys_and_values_are_sent(monkeypatch, form):
  """And back their gradients; queries stand in the order of `evenly`."""
  kernels, sizes = small_blocks(monkeypatch, form, 16), SEVERAL[0]
  draw, (b, t) = np.random.default_rng(5), (2, 40)
  until, positions = forest(draw, b, t)
  mask = mask_of(until, positions, 0, EVERYTHING)
  given = arrays(draw, b, t, 0)
  wanted = pulled(lambda q, k, v: plain(q, k, v, mask, 0.0), *given)
  mesh = dist.make_mesh(**sizes)
  with jax.set_mesh(mesh):
    order = evenly(t)
    where = dist.sharding(mesh, (*dist.READ, 'heads', None))
    given = jax.device_put([x[:, order] for x in given], where)

    @jax.jit
    def found(until, positions, *given):
      spans = spans_after(0, until, positions)
      rows = jnp.broadcast_to(order, until.shape)
      spans = spans._replace(since=rows, rows=rows)
      return pulled(
        lambda q, k, v: flash.attention(q, k, v, spans, 0.0, kernels), *given
      )

    places = until[:, order], positions[:, order]
    program = found.lower(*places, *given).compile()
    got = program(*places, *given)
  for x, y in zip(got, wanted, strict=True):
    np.testing.assert_allclose(x, y[:, order], rtol=1e-5, atol=1e-5)
  sent = hlo.cost(program.as_text(), dict(mesh.shape)).sent
  assert {s.axes for s in sent} == {'context'}
  keys = given[1].nbytes / 8  # of a device, as all arrays here
  big = [s for s in sent if s.bytes >= keys]
  kinds = sorted(s.kind for s in big)
  assert kinds.count('all-gather') in (2, 4)  # backwards again, or not
  assert [k for k in kinds if k != 'all-gather'] == ['reduce-scatter'] * 2
  assert {s.bytes for s in big} == {keys}

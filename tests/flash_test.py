"""Attention in linear memory against the plain form, and what masks say."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import dist
from jaxdistill.models import chunked, flash, flash_gpu, flash_tpu
from jaxdistill.models.spans import (
  EVERYTHING,
  blocks,
  dense,
  listed,
  pad_spans,
  spans_after,
  until_of,
)

HEADS, KV, H = 4, 2, 8
FORMS = {
  'chunked': chunked,
  'tpu': flash_tpu,
  'gpu': flash_gpu,
}


def forest(draw, b, t, most=9):
  """Random trees in depth-first order: where each ends, and positions."""
  until, positions = np.zeros((2, b, t), np.int32)

  def grow(row, begin, end, position):
    """A branch, then subtrees."""
    while begin < end:
      size = min(int(draw.integers(1, most)), end - begin)
      stop = int(draw.integers(begin + size, end + 1))
      until[row, begin : begin + size] = stop
      positions[row, begin : begin + size] = position + np.arange(size)
      grow(row, begin + size, stop, position + size)
      begin = stop

  for row in range(b):
    grow(row, 0, int(draw.integers(t // 2, t + 1)), 0)  # then padding
  return until, positions


def mask_of(until, positions, past, window):
  """The mask by its definition, entry by entry."""
  b, t = until.shape
  out = np.zeros((b, t, past + t), bool)
  for row, i in itertools.product(range(b), range(t)):
    out[row, i, :past] = positions[row, i] - np.arange(past) < window
    for j in range(i + 1):
      near = positions[row, i] - positions[row, j] < window
      out[row, i, past + j] = i < until[row, j] and near
  return out


def plain(q, k, v, mask, cap):
  """Attention with all logits at once; zeros where nothing is seen."""
  k, v = (jnp.repeat(x, HEADS // KV, 2) for x in (k, v))
  logits = jnp.einsum('btnh,bsnh->bnts', q, k)
  logits = cap * jnp.tanh(logits / cap) if cap else logits
  p = jnp.where(mask[:, None], jnp.exp(logits), 0)
  p = p / jnp.maximum(p.sum(-1, keepdims=True), 1e-30)
  return jnp.einsum('bnts,bsnh->btnh', p, v)


def arrays(draw, b, t, past, h=H, dtype=np.float32):
  shapes = (t, HEADS), (past + t, KV), (past + t, KV), (t, HEADS)
  return [
    jnp.asarray(draw.standard_normal((b, *s, h)) * 0.7, dtype) for s in shapes
  ]


def pulled(fn, q, k, v, grad):
  out, pull = jax.vjp(fn, q, k, v)
  return out, *pull(grad)


def small_blocks(monkeypatch, form, size):
  """Of a size that has several of them; kernels interpreted."""
  module = FORMS[form]
  options = {'block': size} | ({} if form == 'chunked' else {'interpret': True})
  for name in ('forward', 'backward'):
    short = functools.partial(getattr(module, name), **options)
    monkeypatch.setattr(module, name, short)
  if form == 'tpu':
    monkeypatch.setattr(flash_tpu, '_block', lambda most, s: most)
  return () if form == 'chunked' else (('cpu', module),)


CASES = [
  # T, past, window, cap
  (1, 0, EVERYTHING, 0.0),
  (1, 5, 3, 0.0),
  (16, 0, EVERYTHING, 0.0),
  (37, 0, EVERYTHING, 2.0),
  (50, 0, 6, 0.0),
  (41, 19, EVERYTHING, 0.0),
  (40, 7, 9, 1.5),
]


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize(('t', 'past', 'window', 'cap'), CASES)
def test_values_and_gradients_are_the_plain_ones(
  monkeypatch, form, t, past, window, cap
):
  kernels = small_blocks(monkeypatch, form, 16)
  draw = np.random.default_rng(t)
  until, positions = forest(draw, 2, t)
  positions += past
  mask = mask_of(until, positions, past, window)
  if t > 1:
    assert not mask[..., past:].any(-1).all()  # padding sees no own token
  spans = spans_after(past, jnp.asarray(until), jnp.asarray(positions))
  given = arrays(draw, 2, t, past)

  @jax.jit
  def found(window, *given):
    seen = spans._replace(window=window)  # traced, as in a scan over layers
    return pulled(
      lambda q, k, v: flash.attention(q, k, v, seen, cap, kernels), *given
    )

  wanted = pulled(lambda q, k, v: plain(q, k, v, mask, cap), *given)
  got = found(jnp.int32(window), *given)
  for x, y in zip(got, wanted, strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
  empty = ~mask.any(-1)
  assert not np.asarray(got[0])[empty].any()
  assert not np.asarray(got[1])[empty].any()


@pytest.mark.parametrize('form', FORMS)
def test_a_long_sequence_of_rows_is_its_rows(monkeypatch, form):
  kernels = small_blocks(monkeypatch, form, 256)
  draw, t, row = np.random.default_rng(0), 4096, 128
  places = np.arange(t, dtype=np.int32)[None]
  until = jnp.asarray((places // row + 1) * row)
  spans = spans_after(0, until, jnp.asarray(places % row))
  given = arrays(draw, 1, t, 0)
  got = jax.jit(
    lambda *given: pulled(
      lambda q, k, v: flash.attention(q, k, v, spans, 0.0, kernels), *given
    )
  )(*given)
  causal = np.tril(np.ones((1, row, row), bool))
  alone = [x.reshape(t // row, row, *x.shape[2:]) for x in given]
  wanted = pulled(lambda q, k, v: plain(q, k, v, causal, 0.0), *alone)
  for x, y in zip(got, wanted, strict=True):
    np.testing.assert_allclose(x.reshape(y.shape), y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('form', FORMS)
def test_bfloat16_is_summed_in_float32(monkeypatch, form):
  kernels = small_blocks(monkeypatch, form, 16)
  draw = np.random.default_rng(3)
  until, positions = forest(draw, 2, 48)
  spans = spans_after(0, jnp.asarray(until), jnp.asarray(positions))
  given = arrays(draw, 2, 48, 0, dtype=jnp.bfloat16)
  got = pulled(
    lambda q, k, v: flash.attention(q, k, v, spans, 0.0, kernels), *given
  )
  mask = mask_of(until, positions, 0, EVERYTHING)
  exact = [x.astype(jnp.float32) for x in given]
  wanted = pulled(lambda q, k, v: plain(q, k, v, mask, 0.0), *exact)
  for x, y in zip(got, wanted, strict=True):
    assert x.dtype == jnp.bfloat16
    np.testing.assert_allclose(
      x.astype(jnp.float32), y, atol=0.02 * np.abs(y).max()
    )


@pytest.mark.parametrize('form', FORMS)
def test_blocks_that_are_not_seen_are_not_read(monkeypatch, form):
  kernels = small_blocks(monkeypatch, form, 16)
  t, row = 96, 32
  places = np.arange(t, dtype=np.int32)[None]
  until = (places // row + 1) * row
  until[:, 32:64] = 0  # the second row is padding
  spans = spans_after(0, jnp.asarray(until), jnp.asarray(places % row))
  q, k, v, grad = arrays(np.random.default_rng(1), 1, t, 0)
  k, v = (x.at[:, 32:64].set(jnp.nan) for x in (k, v))
  for x in pulled(
    lambda q, k, v: flash.attention(q, k, v, spans, 0.0, kernels), q, k, v, grad
  ):
    assert np.isfinite(x).all()
    assert not np.asarray(x)[:, 32:64].any()
    assert np.abs(x[:, 64:]).max() > 0.1


@pytest.mark.parametrize('form', FORMS)
def test_candidates_are_vectorised(monkeypatch, form):
  kernels = small_blocks(monkeypatch, form, 16)
  draw = np.random.default_rng(2)
  until, positions = np.stack([forest(draw, 1, 40) for _ in range(2)], 1)
  given = [
    jnp.stack(x) for x in zip(*(arrays(draw, 1, 40, 0),) * 2, strict=True)
  ]
  given[0] = given[0].at[1].multiply(2)

  def one(until, positions, *given):
    spans = spans_after(0, until, positions)
    return pulled(
      lambda q, k, v: flash.attention(q, k, v, spans, 0.0, kernels), *given
    )

  got = jax.jit(jax.vmap(one))(until, positions, *given)
  for e in range(2):
    mask = mask_of(until[e], positions[e], 0, EVERYTHING)
    wanted = pulled(
      lambda q, k, v, mask=mask: plain(q, k, v, mask, 0.0),
      *(x[e] for x in given),
    )
    for x, y in zip(got, wanted, strict=True):
      np.testing.assert_allclose(x[e], y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('sizes', [(2, 2, 2), (8, 1, 1)])
def test_shards_need_no_other(monkeypatch, form, sizes):
  kernels = small_blocks(monkeypatch, form, 16)
  draw = np.random.default_rng(5)
  until, positions = forest(draw, 4, 40)
  wanted_mask = mask_of(until, positions, 0, EVERYTHING)
  given = arrays(draw, 4, 40, 0)
  wanted = pulled(lambda q, k, v: plain(q, k, v, wanted_mask, 0.0), *given)
  mesh = dist.make_mesh(*sizes)
  with jax.set_mesh(mesh):
    axes = 'batch', None, 'heads', None
    where = dist.sharding(mesh, axes, given[1].shape)
    rows = dist.sharding(mesh, axes[:2], until.shape)
    given = jax.device_put(given, where)
    until, positions = jax.device_put((until, positions), rows)

    @jax.jit
    def found(until, positions, *given):
      spans = spans_after(0, until, positions)
      return pulled(
        lambda q, k, v: flash.attention(q, k, v, spans, 0.0, kernels), *given
      )

    program = found.lower(until, positions, *given).compile()
    got = program(until, positions, *given)
  text = program.as_text()
  assert not any(f'{x}(' in text for x in ('all-gather', 'all-reduce'))
  for x, y in zip(got, wanted, strict=True):
    assert x.sharding.is_equivalent_to(where, 4)
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_memory_is_linear():
  def needed(t):
    places = jnp.broadcast_to(jnp.arange(t), (1, t))
    spans = spans_after(0, jnp.full((1, t), t), places)
    given = arrays(np.random.default_rng(0), 1, t, 0)
    fn = jax.jit(
      lambda *given: pulled(
        lambda q, k, v: flash.attention(q, k, v, spans, 0.0, ()), *given
      )
    )
    return fn.lower(*given).compile().memory_analysis().temp_size_in_bytes

  short, long = needed(1024), needed(4096)
  assert long < 4.2 * short
  assert long < 4096**2  # a quarter of one head's logits


@pytest.mark.parametrize('platform', ['tpu', 'cuda'])
@pytest.mark.parametrize('h', [64, 96])
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32])
def test_kernels_are_lowered_without_the_device(platform, h, dtype):
  places = jnp.broadcast_to(jnp.arange(1000), (1, 1000))
  spans = spans_after(30, jnp.full((1, 1000), 1000), places)
  given = arrays(np.random.default_rng(0), 1, 1000, 30, h, dtype)

  def run(*given):
    return pulled(
      lambda q, k, v: flash.attention(q, k, v, spans, 9.0, flash.KERNELS),
      *given,
    )

  program = jax.jit(run).trace(*given).lower(lowering_platforms=(platform,))
  names = {'tpu': 'tpu_custom_call', 'cuda': 'triton'}
  calls = [x for x in program.as_text().split('custom_call @')[1:]]
  assert sum(names[platform] in x.split('(')[0] for x in calls) == 3


@pytest.mark.parametrize('window', [EVERYTHING, 7])
def test_no_block_that_is_seen_is_left_out(window):
  draw, c = np.random.default_rng(7), 8
  until, positions = forest(draw, 6, 61)
  spans = spans_after(5, jnp.asarray(until), jnp.asarray(positions + 5))
  spans = spans._replace(window=window)
  mask = mask_of(until, positions + 5, 5, window)
  np.testing.assert_array_equal(dense(spans), mask)
  mask = np.pad(mask, ((0, 0), (0, -61 % c), (0, -66 % c)))
  exact = mask.reshape(6, -1, c, mask.shape[2] // c, c).any((2, 4))
  some = np.asarray(blocks(pad_spans(spans, c), c))
  assert (some >= exact).all()
  assert exact.sum() <= some.sum() < 0.8 * some.size
  order, count = listed(jnp.asarray(some))
  for at in np.ndindex(count.shape):
    found = np.flatnonzero(some[at])
    assert order[at][: count[at]].tolist() == found.tolist()
    assert (order[at][count[at] :] == max(found, default=0)).all()


def test_packed_rows_have_as_many_blocks_as_rows():
  places = np.arange(256, dtype=np.int32)[None]
  until = jnp.asarray((places // 16 + 1) * 16)
  spans = pad_spans(spans_after(0, until, jnp.asarray(places % 16)), 16)
  np.testing.assert_array_equal(blocks(spans, 16)[0], np.eye(16))


def test_where_segments_end():
  segments = jnp.array([[1, 1, 1, 2, 2, 0, 0], [3, 3, 3, 3, 3, 3, 1]])
  assert until_of(segments).tolist() == [
    [3, 3, 3, 5, 5, 7, 7],
    [6, 6, 6, 6, 6, 6, 7],
  ]

"""Attention in linear memory against the plain form, and what masks say."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.models import chunked, flash, flash_gpu, flash_tpu
from jaxdistill.models.spans import (
  EVERYTHING,
  spans_after,
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

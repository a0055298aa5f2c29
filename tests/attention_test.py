"""Which form of attention runs, and that a decoder is the same by each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import TINY

from jaxdistill.models import Decoder, chunked
from jaxdistill.models.attention import SHORT, form_of

FOREST = np.zeros((3, 1, 12), np.int32)
FOREST[:] = [
  [[3, 4, 5, 6, 7, 8, 9, 1, 2, 2, 3, 0]],
  [[0, 1, 2, 3, 4, 3, 4, 4, 5, 0, 1, 0]],
  [[9, 9, 9, 5, 5, 9, 7, 9, 9, 11, 11, 0]],
]


@pytest.mark.parametrize(
  ('attention', 'platform', 'short', 'long'),
  [
    ('auto', 'cpu', 'dense', 'chunked'),
    ('auto', 'tpu', 'dense', 'pallas'),
    ('auto', 'gpu', 'dense', 'chunked'),
    ('pallas', 'tpu', 'pallas', 'pallas'),
    ('pallas', 'gpu', 'pallas', 'pallas'),
    ('pallas', 'cpu', 'chunked', 'chunked'),
    ('dense', 'tpu', 'dense', 'dense'),
    ('chunked', 'gpu', 'chunked', 'chunked'),
  ],
)
def test_what_runs_where(attention, platform, short, long):
  config = dataclasses.replace(TINY, attention=attention)
  assert form_of(config, SHORT, platform) == short
  assert form_of(config, SHORT + 1, platform) == long


@pytest.mark.parametrize('remat', [False, True])
def test_a_decoder_is_the_same_by_blocks(monkeypatch, remat):
  forward, backward = chunked.forward, chunked.backward
  used = []
  monkeypatch.setattr(
    chunked, 'forward', lambda *a: used.append(1) or forward(*a, block=4)
  )
  monkeypatch.setattr(chunked, 'backward', lambda *a: backward(*a, block=4))
  sliding = {'window': 3, 'sliding': (True, False), 'remat': remat}
  tokens, positions, until = map(jnp.asarray, FOREST)
  sources = jnp.arange(11)[None]

  def loss(model):
    logp = model.logprobs(tokens, positions, until, sources, tokens[:, 1:])
    return logp.sum()

  found = []
  for attention in ('dense', 'chunked'):
    config = dataclasses.replace(
      TINY, attention=attention, attention_cap=5.0, **sliding
    )
    model = Decoder(config, rngs=nnx.Rngs(0))
    found.append(nnx.jit(nnx.value_and_grad(loss))(model))
    assert bool(used) == (attention == 'chunked')
  for x, y in zip(*map(jax.tree.leaves, found), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)

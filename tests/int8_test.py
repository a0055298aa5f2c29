"""Generation in int8: what is kept, what is multiplied, and what is drawn."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import players
import pytest
from engine_test import LONG, MANY, ROOM, endless, within
from flax import nnx
from loop_test import lines, small, start
from players import (
  BASE,
  CONFIG,
  KEY,
  PROMPTS,
  flat,
  make_player,
  softmax,
  teacher_forced,
)

from jaxdistill import dist
from jaxdistill.models import Decoder, Deltas, decoder
from jaxdistill.models.decode import decode
from jaxdistill.models.int8 import Formats, to_int8
from jaxdistill.models.linear import Weights, apply
from jaxdistill.models.paged import part
from jaxdistill.rollout import Sampling, budget, engine, schedule
from jaxdistill.rollout.budget import rows_within
from jaxdistill.rollout.pages import empty
from jaxdistill.run.step import param_shardings, place

BOTH = Formats('int8', 'int8')


def rounded(x, axis):
  """In numpy, and back to floats."""
  scale = np.abs(x).max(axis, keepdims=True) / np.float32(127)
  return jnp.asarray(np.rint(x / np.where(scale == 0, 1, scale)) * scale)


@pytest.fixture
def small_sizes(monkeypatch):
  """Pages of 4 tokens, programs from 2 rows on."""
  monkeypatch.setattr(schedule, 'PAGE', 4)
  monkeypatch.setattr(schedule, '_LEAST', 2)


def test_values_by_hand():
  x = jnp.array([[12.7, 0.0, -1.0], [-6.33, 0.0, 2.54], [0.12, 0.0, 0.031]])
  found = to_int8(x, 0)
  assert found.values.dtype == jnp.int8
  np.testing.assert_array_equal(
    found.values, [[127, 0, -50], [-63, 0, 127], [1, 0, 2]]
  )
  np.testing.assert_allclose(found.scale, [[0.1, 0, 0.02]], rtol=1e-6)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_product_is_that_of_the_rounded_kernel(dtype):
  draw = np.random.default_rng(0)
  x, kernel, a, b, bias = (
    draw.normal(size=shape).astype(np.float32)
    for shape in ((5, 16), (16, 6), (16, 2), (2, 6), (6,))
  )
  kernel[:, 3] = 0
  x, a, b, bias = (jnp.asarray(x, dtype) for x in (x, a, b, bias))
  weights = Weights(to_int8(jnp.asarray(kernel), 0), (a, b), bias)
  expected = apply(x, weights._replace(kernel=rounded(kernel, 0)), jnp.float32)
  found = apply(x, weights, jnp.float32)
  # In bfloat16 the integers are exact, which the rounded floats are not.
  exact = dtype == 'float32'
  np.testing.assert_allclose(found, expected, atol=1e-4 if exact else 0.1)


@pytest.mark.parametrize('cap', [0.0, 3.0])
def test_attention_is_that_over_the_rounded_keys(cap):
  draw = np.random.default_rng(0)
  q, k, v = (
    jnp.asarray(draw.normal(size=shape), jnp.float32)
    for shape in ((3, 2, 4, 8), (3, 2, 8, 12), (3, 2, 12, 8))
  )
  k, v = k.at[1, 0, :, 5].set(0), v.at[1, 0, 5].set(0)
  seen = jnp.asarray(draw.random((3, 1, 4, 12)) < 0.7)
  found = part(q, to_int8(k, 2), to_int8(v, 3), seen, cap)
  expected = part(q, rounded(k, 2), rounded(v, 3), seen, cap)
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def rounding(player):
  """The same whose kernels are floats that were int8; deltas are not."""
  model = nnx.merge(player.graphdef, *jax.tree.map(lambda x: x, player.params))
  for name in (*decoder.LINEARS, 'head'):
    kernel = getattr(model, name).kernel
    kernel.set_value(rounded(kernel[...], -2))
  params = nnx.split(model, lambda path, x: True)[1:]
  return dataclasses.replace(player, params=params)


def logp_by(player, rollouts):
  """Log-probs of the tokens by a plain forward pass."""
  by_hand = [
    np.log(softmax(logits_T)[np.arange(len(r.tokens_T)), r.tokens_T])
    for r, logits_T in zip(
      rollouts, teacher_forced(player, rollouts), strict=True
    )
  ]
  return np.concatenate(by_hand)


def together(rollouts):
  return np.concatenate([r.logp_T for r in rollouts])


# Of a single token: nothing is read ahead, all is decoded.
BARE = [dataclasses.replace(PROMPTS[2], address=i) for i in range(4)]


def test_weights_are_the_rounded_ones(one_device, small_sizes):
  player = endless(make_player(one_device))
  in_int8 = dataclasses.replace(player, formats=Formats(weights='int8'))
  rollouts = flat(in_int8.generate(BARE, LONG, KEY))
  assert {len(r.prompt_T) for r in rollouts} == {1}
  assert max(len(r.tokens_T) for r in rollouts) > 8
  logp, expected = together(rollouts), logp_by(rounding(player), rollouts)
  np.testing.assert_allclose(logp, expected, atol=1e-4)
  assert np.abs(expected - logp_by(player, rollouts)).max() > 1e-3


def test_keys_and_values_are_the_rounded_ones(
  one_device, small_sizes, monkeypatch
):
  player = endless(make_player(one_device))
  in_int8 = dataclasses.replace(player, formats=BOTH)
  rollouts = flat(in_int8.generate(BARE, LONG, KEY))
  project = decoder.project

  def rounding_project(*args):
    q, *others = project(*args)
    ints = [to_int8(x, -1) for x in others]
    return q, *(x.values * x.scale for x in ints)

  exactly = logp_by(rounding(player), rollouts)
  monkeypatch.setattr(decoder, 'project', rounding_project)
  # The model is the same, what it calls is not.
  anew = nnx.jit(lambda model, tokens, role: model(tokens, role=role))
  monkeypatch.setattr(players, '_logits', anew)
  strayed = np.abs(together(rollouts) - logp_by(rounding(player), rollouts))
  # A number between two integers goes to either by the last bit of its sum.
  assert np.quantile(strayed, 0.9) < 1e-4
  assert strayed.max() < 0.02
  assert np.quantile(np.abs(together(rollouts) - exactly), 0.5) > 1e-3


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_deltas_and_biases_stay_beside(one_device, dtype):
  """A token after nothing, of maps that are joined over two shards or one."""
  config = dataclasses.replace(CONFIG, biases=('q', 'v'), dtype=dtype)
  deltas = Deltas(per_role='adapter', lora=True, rank=2)
  graphdef, state = nnx.split(Decoder(config, deltas, rngs=nnx.Rngs(0)))
  draw = np.random.default_rng(0)
  state = jax.tree.map(
    lambda x: x + jnp.asarray(draw.normal(size=x.shape) * 0.1, x.dtype), state
  )
  player = make_player(one_device, graphdef=graphdef, params=(state,))
  model = nnx.merge(graphdef, state)
  expected = nnx.merge(graphdef, *rounding(player).params)
  c, tokens = config, jnp.arange(3, 9)
  expected = expected(tokens[:, None], role=1)[:, 0]
  for shards in (1, 2):
    weights = engine.lay_out(
      *(graphdef, (state,), np.int32(1)),
      **{'tensor': shards, 'formats': Formats('int8')},
    )
    logits, _ = decode(
      *(c, weights, tokens, jnp.zeros(6, jnp.int32), None, ()),
      empty(config=c, pages=6, size=4, cache=''),
      *(jnp.full(6, 2), jnp.int32(2), shards),
    )
    atol = 1e-4 if dtype == 'float32' else 0.15
    np.testing.assert_allclose(logits, expected, atol=atol)
    strayed = np.abs(logits - model(tokens[:, None], role=1)[:, 0])
    assert strayed.max() > 2e-3


def assert_alike(first, second):
  """The same tokens; log-probs by a value or two that rounded otherwise."""
  for a, b in zip(first, second, strict=True):
    np.testing.assert_array_equal(a.tokens_T, b.tokens_T)
  strayed = np.abs(together(first) - together(second))
  assert np.quantile(strayed, 0.9) < 1e-4
  assert strayed.max() < 0.02


def test_company_and_meshes_change_nothing(
  one_device, small_sizes, monkeypatch
):
  """What all begin with is another beginning when one is asked alone."""
  player = endless(make_player(one_device, formats=BOTH))
  within(monkeypatch, 8)
  whole = flat(player.generate(MANY, LONG, KEY))
  # A value that rounded otherwise is read by all later tokens of its sample:
  # of several samples these are few.
  places = 1, 4, 8, 11
  alone = [flat(player.generate([MANY[i]], LONG, KEY)) for i in places]
  assert all(len(of[0].prompt_T) > 12 for of in alone)
  assert_alike(
    [r for of in alone for r in of],
    [r for i in places for r in whole[3 * i : 3 * i + 3]],
  )
  mesh = dist.make_mesh(data=2, fsdp=2, tensor=2)
  within(monkeypatch, 4)
  with jax.set_mesh(mesh):
    sharded = endless(make_player(mesh, formats=BOTH))
    assert_alike(flat(sharded.generate(MANY, LONG, KEY)), whole)


def test_scales_lie_where_their_outputs_do():
  mesh = dist.make_mesh(data=2, fsdp=2, tensor=2)
  with jax.set_mesh(mesh):
    player = make_player(mesh)
    where = param_shardings(player.params, mesh)
    weights = engine.lay_out(
      *(player.graphdef, place(player.params, where), np.int32(1)),
      **{'tensor': 2, 'formats': Formats('int8')},
    )
  kernels = {n: weights.layers[0][n].kernel for n in ('qkv', 'o', 'down')}
  for name, kernel in {**kernels, 'head': weights.head.kernel}.items():
    held = kernel.values.sharding.shard_shape(kernel.values.shape)
    inputs, outputs = kernel.shape
    split = name in ('qkv', 'head')
    assert held == (inputs // (2 - split), outputs // (1 + split))
    scales = kernel.scale.sharding.shard_shape(kernel.scale.shape)
    assert scales == (1, held[1])


def test_no_floats_are_held(one_device, small_sizes, monkeypatch):
  """Nor by XLA, which takes out of a loop what it can."""
  texts, advance = [], engine._advance

  def compiled(*args, **kw):
    texts.append(advance.lower(*args, **kw).compile().as_text())
    return advance(*args, **kw)

  monkeypatch.setattr(engine, '_advance', compiled)
  within(monkeypatch, 2)
  player = endless(make_player(one_device, formats=BOTH))
  player.generate(MANY[:1], dataclasses.replace(LONG, samples=1), KEY)
  # What the loop over tokens is given: the longest of all.
  carried = max(re.findall(r'= \((.*)\) while\(', texts[-1]), key=len)
  kernel, page = r'\[32,(64|32|20)\]', r'\[\d+,2,(8,4|4,8)\]'
  assert len(re.findall('s8' + kernel, carried)) == 2 * 4 + 1
  # Of what all begin with (all of one prompt but its end), the row and its
  # newest.
  assert len(re.findall('s8' + page, carried)) == 3 * 2 * 2
  assert not re.findall(f'f32({kernel}|{page})', carried)


def test_more_rows_run_in_the_same_room(one_device):
  """2 x 3 layers x 2 heads x (8 numbers and a scale of 4 bytes), by hand."""
  sampling, token = Sampling(samples=2, max_tokens=100), 2 * 3 * 2 * (8 + 4)
  # What was just read is still in float32.
  one = token * (128 + 64 + 30) + 2 * 3 * 2 * 8 * 4 * 30 + 12 * 100
  assert budget.sample_bytes(ROOM, sampling, 30, 1, 'int8') == one
  exact = budget.sample_bytes(ROOM, sampling, 30, 1)
  gib = 8 * one / 2**30
  assert rows_within(ROOM, sampling, 30, one_device, gib, 'int8') == 8
  assert rows_within(ROOM, sampling, 30, one_device, gib) == 2 ** int(
    np.log2(8 * one / exact)
  )
  wide = dataclasses.replace(ROOM, head_dim=64, dtype='bfloat16')
  long = Sampling(max_tokens=2**14)
  ratio = budget.sample_bytes(wide, long, 1, 1, 'int8') / budget.sample_bytes(
    wide, long, 1, 1
  )
  assert ratio == pytest.approx((64 + 4) / (64 * 2), rel=1e-3)


def test_what_is_drawn_strays_little_from_the_policy(one_device):
  """By less than what one sample differs from another, and to either side."""
  player = make_player(one_device, formats=BOTH)
  rollouts = flat(player.generate(PROMPTS, BASE, KEY))
  strayed = together(rollouts) - np.concatenate(player.logprobs(rollouts))
  spread = np.sqrt(np.mean(strayed**2))
  assert 1e-3 < spread < 0.1
  assert abs(np.mean(strayed)) < 0.3 * spread


def test_a_run_trains(mesh, tmp_path):
  config = small('sqlm', steps=2)
  config.rollout = {'cache_gib': 0.0} | BOTH._asdict()
  loop = start(config, tmp_path)
  loop.train()
  logged = lines(tmp_path)
  assert all(np.isfinite(v) for x in logged for v in x.values())
  assert any(x.get('train/grad_norm', 0) > 0 for x in logged)

"""What programs send, by their compiled text, and that they are right."""

import collections
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx

from jaxdistill import dist
from jaxdistill.models import Decoder, DecoderConfig, Deltas, scoring
from jaxdistill.models.int8 import Formats
from jaxdistill.models.linear import (
  SharedDelta,
  Weights,
  column_parallel,
  row_parallel,
)
from jaxdistill.plan import hlo, programs
from jaxdistill.plan.rehearsal import Asked
from jaxdistill.rollout import Sampling
from jaxdistill.run.step import param_shardings

CHUNKS = 3  # in which the logits of a sequence are made


@pytest.fixture(autouse=True)
def undescribed():
  """Arrays that are only described are none where shapes are checked."""
  jaxtyping.config.update('jaxtyping_disable', True)
  yield
  jaxtyping.config.update('jaxtyping_disable', False)


def decoder(heads, **more):
  sizes: dict[str, Any] = {'vocab_size': 512, 'embed_dim': 32, 'num_layers': 2}
  sizes |= {'num_heads': 8, 'head_dim': 8, 'mlp_dim': 48, 'embed_scale': 1.0}
  sizes |= {'num_kv_heads': heads, 'biases': ('q', 'k', 'v')}
  config = DecoderConfig(**sizes | more)
  model = Decoder(config, Deltas(lora=True, rank=2), rngs=nnx.Rngs(0))
  graphdef, params = nnx.split(model)
  keys = iter(jax.random.split(jax.random.key(1), 99))
  # Nothing is 0, or its gradient could be lost unseen.
  return graphdef, jax.tree.map(
    lambda x: x + 0.02 * jax.random.normal(next(keys), x.shape), params
  )


def mesh_of(tensor):
  return dist.make_mesh(data=1, fsdp=8 // tensor, tensor=tensor)


def sent_by(program, mesh):
  """A program's collectives, each with the shapes that are sent as one."""
  for sent in hlo.cost(program.as_text(), dict(mesh.shape)).sent:
    yield sent, [dims for _, dims in hlo.sizes(sent.shape)]


@pytest.mark.parametrize(
  ('tensor', 'heads', 'remat'),
  [(2, 2, 'none'), (2, 4, 'full'), (4, 2, 'full'), (4, 4, 'none')],
)
def test_a_gradient_sends_each_thing_once(tensor, heads, remat, monkeypatch):
  graphdef, params = decoder(heads, remat=remat)
  mesh = mesh_of(tensor)
  rows, length = 8 // tensor, 1 + 4 * CHUNKS
  tokens = jax.random.randint(jax.random.key(2), (rows, length), 0, 512)
  monkeypatch.setattr(scoring, '_CHUNK_BYTES', 4 * 4 * 512 // tensor)

  def loss(params, tokens):
    model = nnx.merge(graphdef, params)
    places = jnp.broadcast_to(jnp.arange(length), tokens.shape)
    until = jnp.full(tokens.shape, length)
    found = model.logprobs(
      *(tokens, places, until, places[:, 1:] - 1, tokens[:, 1:])
    )
    return (found * jnp.cos(places[:, 1:])).sum()

  step = jax.jit(jax.value_and_grad(loss))
  alone = step(params, tokens)
  where = param_shardings(params, mesh)
  with jax.set_mesh(mesh):
    given = (
      jax.device_put(params, where),
      jax.device_put(tokens, dist.sharding(mesh, ('batch', None))),
    )
    step = jax.jit(jax.value_and_grad(loss), out_shardings=(None, where))
    program = step.lower(*given).compile()
    found = program(*given)
  for x, y in zip(*map(jax.tree.leaves, (found, alone)), strict=True):
    close = 2e-5 * max(float(jnp.abs(y).max()), 1e-3)
    np.testing.assert_allclose(np.asarray(x), y, rtol=0, atol=close)

  added = collections.defaultdict(float)
  for sent, shapes in sent_by(program, mesh):
    for shape in shapes:
      added[sent.kind, sent.axes, shape] += sent.times
  head, rows = (32, 512 // tensor), (1, length, 32)
  assert added['all-gather', 'fsdp', head] == 1
  assert added['all-reduce', 'fsdp', head] == 1
  # Of a layer two sums forwards, two backwards, and one that is made again;
  # embeddings are perhaps added in another shape.
  sums = 2 * (4 + (remat == 'full'))
  assert sums <= added['all-reduce', 'tensor', rows] <= sums + 1
  # Each map once forwards and once backwards.
  assert added['all-gather', 'fsdp', (48 // tensor, 32)] == 2 * 2


def test_sums_over_devices_are_in_the_compute_dtype():
  """As it is asked for; a CPU's compiler makes float32 of it."""

  def both(x, w):
    made = column_parallel(
      row_parallel(x, Weights(w, None)), (Weights(w.T, None),)
    )
    return made[0].astype(jnp.float32).sum()

  with jax.set_mesh(mesh_of(2)):
    given = [jax.ShapeDtypeStruct(n, jnp.bfloat16) for n in ((3, 8), (8, 4))]
    text = jax.jit(jax.value_and_grad(both)).lower(*given).as_text()
  sums = re.findall(r'stablehlo.reduce\(.*tensor<2x3x\d+x(\w+)>', text)
  assert sums == ['bf16', 'bf16']


@pytest.mark.parametrize('fsdp', [1, 2])
def test_no_weight_is_kept_a_second_time(fsdp):
  """Of a frozen trunk, without remat: neither where it is nor gathered."""
  graphdef, params = decoder(4, **LARGE)
  mesh = dist.make_mesh(data=1, fsdp=fsdp, devices=jax.devices()[:fsdp])
  params = programs._put(
    jax.eval_shape(lambda: params), param_shardings(params, mesh)
  )
  _, deltas, frozen = nnx.split(nnx.merge(graphdef, params), SharedDelta, ...)

  def loss(deltas, frozen, tokens):
    logits = nnx.merge(graphdef, deltas, frozen)(tokens)
    return logits.mean()

  with jax.set_mesh(mesh):
    tokens = dist.described(mesh, (fsdp, 8), 'int32', 'batch')
    program = jax.jit(jax.grad(loss)).lower(deltas, frozen, tokens).compile()
  trunk = 4 * 6 * 3 * 256 * 2048
  assert program.memory_analysis().temp_size_in_bytes < trunk / 2


LARGE = {'embed_dim': 256, 'mlp_dim': 2048, 'num_layers': 6}
FEWER = {'top_k': 5, 'top_p': 0.9, 'greedy': 1}


@pytest.mark.parametrize(
  ('tensor', 'heads', 'sampling'),
  [(2, 2, {}), (2, 4, FEWER), (4, 2, FEWER), (4, 4, {})],
)
def test_a_token_sends_no_vocabulary_and_no_weight(tensor, heads, sampling):
  graphdef, params = decoder(heads, vocab_size=2**14)
  mesh = mesh_of(tensor)
  where = param_shardings(params, mesh)
  described = programs._put(jax.eval_shape(lambda: params), where)
  config = nnx.merge(graphdef, params).config
  asked = Asked('policy', (5,) * 8, Sampling(2, 16, **sampling))
  with jax.set_mesh(mesh):
    made = programs.generation(
      (graphdef, (described,)), config, mesh, asked, 16, Formats()
    )
    layer, ends = made.lay_out.compile(), made.ends.compile()
    weights = programs.weights_of(layer, ends, config)
    program = made.advance(weights).compile()
  of_all, inside = 0, 0
  for sent, shapes in sent_by(program, mesh):
    most = max(map(math.prod, shapes))
    if sent.axes == 'tensor':
      inside = max(inside, most)
    else:
      of_all = max(of_all, most)
  # Whether anyone goes on; and of a row a sum of each block of symbols.
  assert of_all <= 8
  rows = made.rows // mesh.shape['fsdp']
  assert 32 * rows <= inside <= 2**14 / 16 * rows

"""The decoder against plain numpy, its role deltas, and models on disk."""

import dataclasses
import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny
from flax import nnx
from reference_decoder import LINEARS, log_softmax64, reference_logits

from jaxdistill.data.text.symbols import SymbolTokenizer
from jaxdistill.models import (
  Decoder,
  Deltas,
  from_pretrained,
  load,
  merge,
  save,
  scoring,
)
from jaxdistill.models.linear import (
  RoleDelta,
  precise,
  product,
  product_bits,
)
from jaxdistill.models.remat import REMAT
from jaxdistill.models.rope import Rope

TINY = dataclasses.replace(tiny.TINY, rope=Rope(100.0), norm_eps=1e-3)
TOKENIZER = SymbolTokenizer(
  ('<pad>', '<bos>', '<eos>', *'0123456789', *'+-*/=?!')
)
# One shape, and few sets of deltas, for as few compilations as possible.
TOKENS = np.random.default_rng(2).integers(0, TINY.vocab_size, (2, 12), 'int32')
ADAPTER = Deltas(per_role='adapter', lora=True, rank=3, alpha=6.0)
HEADS = Deltas(per_role='heads', rank=3, alpha=6.0)
SHARED = Deltas(per_role='shared', lora=True, rank=3, alpha=6.0)


@pytest.fixture(autouse=True)
def quick_keys():
  """Threefry takes seconds to compile for every shape of parameter."""
  with jax.default_prng_impl('rbg'):
    yield


def make_model(deltas=None, **changes):
  """Values from numpy: norm scales random too, second factors of deltas 0."""
  config = dataclasses.replace(TINY, **changes)
  empty = nnx.eval_shape(lambda: Decoder(config, deltas, rngs=nnx.Rngs(0)))
  graphdef, state = nnx.split(empty)
  draw = np.random.default_rng(0)
  for path, variable in nnx.to_flat_state(state):
    if 'norm' in path[0]:
      value = draw.uniform(0.5, 2.0, variable.shape)
    elif path[-1] == 1:
      value = np.zeros(variable.shape)
    else:
      fan_in = variable.shape[-1 if path[0] == 'embed' else -2]
      value = draw.standard_normal(variable.shape) * fan_in**-0.5
    variable.set_value(jnp.asarray(value, jnp.float32))
  return nnx.merge(graphdef, state)


def per_role(deltas):
  return deltas.per_role


def disturb(model, roles=(0, 1)):
  """Gives the deltas of some roles, and shared ones, values of their own."""
  draw = np.random.default_rng(1)
  for name in (*LINEARS, 'head'):
    for _, b in getattr(model, name).deltas:
      noise = 0.1 * draw.standard_normal(b.shape)
      if isinstance(b, RoleDelta):
        noise[[r for r in range(len(noise)) if r not in roles]] = 0
      b.set_value(b[...] + jnp.asarray(noise, jnp.float32))
  return model


@nnx.jit
def _run(model, tokens, role):
  return model(tokens, role=role)


def run(model, role=0, tokens=TOKENS):
  return _run(model, tokens, None if role is None else np.int32(role))


@nnx.jit
def run_logprobs(model, *forest, role=0):
  return model.logprobs(*forest, role=role)


def one_by_one(tokens=TOKENS):
  """A forest of one row per sequence; each token predicts the next.

  The last predicts the first, so that there are as many targets as tokens.
  """
  places = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
  until = np.full(tokens.shape, tokens.shape[1])
  return tokens, places, until, places, np.roll(tokens, -1, axis=1)


@pytest.mark.parametrize(
  'changes',
  [
    {},
    {'tie_embeddings': False, 'num_kv_heads': 1},
    {'num_kv_heads': 4, 'embed_scale': 1.5},
  ],
  ids=['tied', 'untied', 'ungrouped'],
)
def test_logits_match_numpy(changes):
  model = make_model(**changes)
  expected = np.array([reference_logits(model, row) for row in TOKENS])
  assert np.abs(run(model) - expected).max() <= 1e-4


@pytest.mark.parametrize('lora', [False, True])
@pytest.mark.parametrize('deltas', [HEADS, ADAPTER, SHARED], ids=per_role)
def test_deltas_match_numpy(deltas, lora):
  deltas = dataclasses.replace(deltas, lora=lora)
  model = disturb(make_model(deltas))
  logits = [run(model, role) for role in (0, 1)]
  for role in (0, 1):
    expected = reference_logits(model, TOKENS[0], role)
    assert np.abs(logits[role][0] - expected).max() <= 1e-4
  differ = np.abs(logits[0] - logits[1]).max() > 0.1
  assert differ == (deltas.per_role != 'shared')


def test_recomputation_changes_no_derivative():
  def loss(model):
    return jnp.mean(model(jnp.asarray(TOKENS)) ** 2)

  found = {
    name: jax.tree.leaves(nnx.jit(nnx.grad(loss))(make_model(remat=name)))
    for name in REMAT
  }
  assert all(np.abs(x).max() > 0 for x in found['none'])
  for name in ('dots', 'full'):
    for x, y in zip(found[name], found['none'], strict=True):
      np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_less_is_kept_by_each_name():
  def kept(remat):
    graphdef, state = nnx.split(make_model(remat=remat))

    def loss(state):
      return jnp.sum(nnx.merge(graphdef, state)(jnp.asarray(TOKENS)))

    _, pullback = jax.vjp(loss, state)
    return sum(x.size for x in jax.tree.leaves(pullback))

  assert kept('none') > kept('dots') > kept('full')
  # Truth values of older files.
  assert make_model(remat=True).config == make_model(remat='full').config
  assert make_model(remat=False).config.remat == 'none'


def test_bfloat16_is_near_float32_and_gives_float32():
  logits = run(make_model(dtype='bfloat16'))
  assert logits.dtype == jnp.float32
  error = np.abs(logits - run(make_model()))
  assert 1e-4 < error.max() < 0.25


@pytest.mark.parametrize('outputs', [4, 64])
def test_products_are_summed_in_float32_whatever_their_dtype(outputs):
  draw = np.random.default_rng(5)
  x, w, g = (
    jnp.asarray(draw.standard_normal(shape), jnp.bfloat16)
    for shape in ((2, 5, 32), (32, outputs), (2, 5, outputs))
  )

  def pulled(x, w):
    y, pull = jax.vjp(product, x, w)
    return y, *pull(g.astype(jnp.float32))

  y, dx, dw = pulled(x, w)
  x64, w64, g64 = (np.asarray(a, np.float64) for a in (x, w, g))
  assert y.dtype == jnp.float32
  np.testing.assert_allclose(y, x64 @ w64, rtol=1e-5, atol=1e-5)
  assert dx.dtype == dw.dtype == jnp.bfloat16
  for found, expected in (
    (dx, g64 @ w64.T),
    (dw, np.einsum('bti,bto->io', x64, g64)),
  ):
    np.testing.assert_allclose(
      np.asarray(found, np.float64), expected, rtol=2**-8, atol=1e-5
    )
  # None of the three is a product of float32, which would be far slower.
  program = str(jax.make_jaxpr(pulled)(x, w))
  assert program.count('dot_general') == 3
  factors = jax.jit(pulled).lower(x, w).as_text().split('dot_general')[1:]
  assert all(f.split('->')[0].count('xbf16>') == 2 for f in factors)


def packed_rows():
  """Three rows in the first sequence, one in the other; padding at the ends."""
  lengths = ((3, 5, 2), (11,))
  tokens, positions, segments = np.zeros((3, *TOKENS.shape), np.int32)
  places = []
  for b, row_lengths in enumerate(lengths):
    start = 0
    for i, n in enumerate(row_lengths):
      where = b, slice(start, start + n)
      tokens[where] = TOKENS[b, :n] if i % 2 else TOKENS[1 - b, -n:]
      positions[where], segments[where] = np.arange(n), i + 1
      places.append(where)
      start += n
  return places, (tokens, positions, segments)


@pytest.mark.parametrize('bits', [7, 10, 16])
def test_bits_that_products_keep_are_counted(bits):
  def rounded(x):
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=bits)

  assert product_bits(lambda x, y: rounded(x) @ rounded(y)) == bits
  assert product_bits() == 23


def asked_in_full(model):
  """Of the products of a model's gradient: how many, and in full float32."""

  def loss(model, tokens):
    return model(tokens).sum()

  text = nnx.jit(nnx.grad(loss)).lower(model, TOKENS).as_text()
  products = [x for x in text.splitlines() if 'stablehlo.dot_general' in x]
  full = sum('precision = [HIGHEST, HIGHEST]' in x for x in products)
  return len(products), full


def test_products_are_in_float32_unless_somebody_says_otherwise():
  model = make_model(HEADS)
  products, full = asked_in_full(model)
  assert products > 20 and full == 0  # left to the device
  with precise('float32'):
    assert asked_in_full(model) == (products, products)
  with precise('bfloat16'):
    assert asked_in_full(model) == (products, 0)
  with jax.default_matmul_precision('tensorfloat32'), precise('float32'):
    assert asked_in_full(model) == (products, 0)


def test_packed_segments_do_not_see_each_other():
  model = make_model()
  places, (tokens, positions, segments) = packed_rows()
  logits = nnx.jit(Decoder.__call__)(
    model, tokens, positions=positions, segments=segments
  )
  until = np.zeros_like(tokens)
  for b, where in places:
    until[b, where] = where.stop
  _, _, _, sources, targets = one_by_one(tokens)
  logp = run_logprobs(model, tokens, positions, until, sources, targets)
  assert np.isfinite(logp).all()  # where there is padding too
  for where in places:
    row = tokens[where]
    alone = np.zeros_like(TOKENS)  # what comes after a row is not seen by it
    alone[0, : len(row)] = row
    expected = np.asarray(run(model, tokens=alone))[0, : len(row)]
    np.testing.assert_allclose(logits[where], expected, atol=1e-5)
    scores = log_softmax64(expected)[np.arange(len(row) - 1), row[1:]]
    np.testing.assert_allclose(logp[where][:-1], scores, atol=1e-5)


def test_branches_see_their_own_beginning_only():
  model = make_model()
  # 3 4 5 { 6 7 } { 8 { 9 } { 1 2 } }, and a text that has nothing in common.
  texts = [[3, 4, 5, 6, 7], [3, 4, 5, 8, 9], [3, 4, 5, 8, 1, 2], [2, 3, 4]]
  forest = np.zeros((5, *TOKENS.shape), np.int32)
  tokens, positions, until, sources, targets = forest
  tokens[:, :12] = [3, 4, 5, 6, 7, 8, 9, 1, 2, 2, 3, 4]
  positions[:, :12] = [0, 1, 2, 3, 4, 3, 4, 4, 5, 0, 1, 2]
  until[:, :12] = [9, 9, 9, 5, 5, 9, 7, 9, 9, 12, 12, 12]
  places = [[0, 1, 2, 3, 4], [0, 1, 2, 5, 6], [0, 1, 2, 5, 7, 8], [9, 10, 11]]
  pairs = [
    (text, i, place[i])
    for text, place in zip(texts, places, strict=True)
    for i in range(len(text) - 1)
  ]
  assert len(pairs) == 15
  # In any order, as often as one likes: more than there is room for at once.
  for order in (pairs[:12], pairs[:2:-1]):
    sources[:] = [place for _, _, place in order]
    targets[:] = [text[i + 1] for text, i, _ in order]
    logp = run_logprobs(model, *forest)
    for k, (text, i, _) in enumerate(order):
      alone = np.zeros_like(TOKENS)
      alone[0, : i + 1] = text[: i + 1]
      expected = log_softmax64(run(model, tokens=alone)[0, i])[text[i + 1]]
      np.testing.assert_allclose(logp[:, k], expected, atol=1e-5)


@pytest.mark.parametrize(
  ('temperature', 'chunk'), [(1.0, None), (1.0, 3), (0.6, 3), (1.0, 5)]
)
def test_logprobs_are_the_log_softmax_of_the_logits(
  monkeypatch, temperature, chunk
):
  model = make_model()
  if chunk:  # room for `chunk` positions of the batch at a time
    size = 4 * len(TOKENS) * TINY.vocab_size * chunk
    monkeypatch.setattr(scoring, '_CHUNK_BYTES', size)
  traced = []
  unembed = scoring.unembed
  monkeypatch.setattr(
    scoring,
    'unembed',
    lambda hidden, *rest: (
      traced.append(hidden.shape[1]) or unembed(hidden, *rest)
    ),
  )
  forest = one_by_one()
  logp = nnx.jit(Decoder.logprobs)(model, *forest, temperature=temperature)
  monkeypatch.undo()
  # Chunks are alike: of 12 targets no 5, so 4 at a time.
  assert set(traced) == {{None: 12, 3: 3, 5: 4}[chunk]}

  full = log_softmax64(np.asarray(run(model)) / temperature)
  for b, row in enumerate(forest[-1]):
    expected = [full[b, t, row[t]] for t in range(len(row))]
    np.testing.assert_allclose(logp[b], expected, atol=1e-5)


def test_logprobs_use_the_role():
  model = disturb(make_model(HEADS), roles=(1,))
  solver, proposer = (
    run_logprobs(model, *one_by_one(), role=np.int32(r)) for r in (0, 1)
  )
  full = log_softmax64(run(model, 1))
  expected = [full[0, t, TOKENS[0, t + 1]] for t in range(11)]
  np.testing.assert_allclose(proposer[0, :-1], expected, atol=1e-5)
  assert np.abs(solver - proposer).max() > 1e-2


@pytest.mark.parametrize('deltas', [HEADS, ADAPTER, SHARED], ids=per_role)
def test_every_role_begins_as_the_trunk(deltas):
  model = Decoder(TINY, deltas, rngs=nnx.Rngs(0))
  trunk = run(model, None)
  assert np.abs(trunk).max() > 0.1
  for role in (0, 1):
    np.testing.assert_array_equal(run(model, role), trunk)


def test_no_role_turns_deltas_off():
  model = make_model(ADAPTER)
  before = np.asarray(run(model, None))
  disturb(model)
  np.testing.assert_array_equal(run(model, None), before)
  assert np.abs(run(model, 0) - before).max() > 0.1


@pytest.mark.parametrize('deltas', [HEADS, ADAPTER], ids=per_role)
def test_a_role_does_not_feel_the_other(deltas):
  model = make_model(dataclasses.replace(deltas, lora=False))
  before = np.asarray(run(model, 0))
  disturb(model, roles=(1,))
  np.testing.assert_array_equal(run(model, 0), before)
  assert np.abs(run(model, 1) - before).max() > 0.1


def test_another_role_compiles_nothing():
  graphdef, params = nnx.split(disturb(make_model(ADAPTER)))
  tokens, traces = jnp.asarray(TOKENS), []

  @jax.jit
  def logits(params, role):
    traces.append(role)
    return nnx.merge(graphdef, params)(tokens, role=role)

  first, second = logits(params, np.int32(0)), logits(params, np.int32(1))
  assert len(traces) == 1
  assert np.abs(first - second).max() > 0.1


def test_deltas_are_checked():
  with pytest.raises(ValueError, match='heads, adapter or shared'):
    Deltas(per_role='head')
  with pytest.raises(ValueError, match='rank is 0'):
    Deltas(rank=0)


@pytest.mark.parametrize(
  ('deltas', 'options'),
  [
    (HEADS, {}),
    (HEADS, {'tie_embeddings': False}),
    (ADAPTER, {'qk_norm': True, 'post_norms': True}),
    (SHARED, {'biases': ('q', 'down')}),
  ],
  ids=lambda x: '-'.join(x) if isinstance(x, dict) else per_role(x),
)
def test_a_merged_role_answers_alike(deltas, options):
  model = disturb(make_model(deltas, **options))
  for index, role in enumerate(deltas.roles):
    merged = merge(model, role)
    np.testing.assert_allclose(run(merged), run(model, index), atol=1e-5)
    assert not any(getattr(merged, n).deltas for n in (*LINEARS, 'head'))


def test_a_merged_role_goes_through_disk(tmp_path):
  model = disturb(make_model(HEADS))
  save(tmp_path, merge(model, 'proposer'), TOKENIZER, {})
  loaded = from_pretrained(str(tmp_path))
  assert not loaded.config.tie_embeddings
  assert np.abs(run(loaded) - run(model, 1)).max() < 0.1
  assert np.abs(run(loaded) - run(model, 0)).max() > 0.3


def trunk_of(model):
  flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
  return {path: v for path, v in flat if 'deltas' not in path}


@pytest.mark.parametrize('tied', [True, False])
def test_saving_keeps_bf16_values(tmp_path, tied):
  model = disturb(make_model(ADAPTER, tie_embeddings=tied))
  folder = tmp_path / 'new' / 'model'
  save(folder, model, TOKENIZER, {'steps': 7})
  loaded = load(str(folder), ADAPTER)

  trunk = trunk_of(model)
  assert len(trunk) == 11 + (not tied)
  assert trunk_of(loaded.model).keys() == trunk.keys()
  for path, variable in trunk_of(loaded.model).items():
    rounded = np.asarray(trunk[path][...], jnp.bfloat16)
    assert variable.dtype == jnp.float32
    np.testing.assert_array_equal(variable[...], rounded.astype(np.float32))
  assert loaded.model.config == model.config
  assert loaded.tokenizer == TOKENIZER

  logits = from_pretrained(str(folder))(jnp.asarray(TOKENS))
  assert logits.shape == (*TOKENS.shape, TINY.vocab_size)
  np.testing.assert_allclose(run(loaded.model, 1), logits, atol=1e-6)
  assert 0 < np.abs(logits - run(model, None)).max() < 0.1


def test_the_manifest_names_the_weights(tmp_path):
  save(tmp_path, make_model(), TOKENIZER, {'steps': 7})
  digest = hashlib.sha256((tmp_path / 'model.safetensors').read_bytes())
  manifest = json.loads((tmp_path / 'manifest.json').read_text())
  assert manifest == {'steps': 7, 'sha256': digest.hexdigest()}
  assert load(str(tmp_path)).sha256 == digest.hexdigest()


@pytest.mark.parametrize(
  ('harm', 'said'),
  [
    ('cut', 'model.safetensors: '),
    ('missing', 'norm is None of shape None, not a float of'),
    ('shape', r'norm is F32 of shape \[3\], not a float of \[16\]'),
    ('dtype', r'norm is I32 of shape \[16\], not a float'),
    ('config', "unexpected keyword argument 'depth'"),
  ],
)
def test_damaged_models_are_refused_by_name(tmp_path, harm, said):
  save(tmp_path, make_model(), TOKENIZER, {})
  file = tmp_path / 'model.safetensors'
  tensors = safetensors.numpy.load_file(file)
  if harm == 'cut':
    file.write_bytes(file.read_bytes()[:-1])
  elif harm == 'config':
    config = json.loads((tmp_path / 'config.json').read_text())
    (tmp_path / 'config.json').write_text(json.dumps(config | {'depth': 3}))
  else:
    norm = {'shape': np.zeros(3, 'f4'), 'dtype': np.zeros(16, 'i4')}
    del tensors['norm']
    tensors |= {'norm': norm[harm]} if harm in norm else {}
    safetensors.numpy.save_file(tensors, file)
  with pytest.raises(ValueError, match=said):
    load(str(tmp_path))


def test_compute_dtype_is_chosen_when_loading(tmp_path):
  save(tmp_path, make_model(), TOKENIZER, {})
  model = load(str(tmp_path), dtype='bfloat16').model
  assert model.config == dataclasses.replace(TINY, dtype='bfloat16')
  assert model.embed.dtype == jnp.float32


@pytest.mark.parametrize(
  ('asked', 'nearest'),
  [
    ('small-lat', 'small-late'),
    ('smal-erly', 'small-early'),
    ('small-frsh', 'small-fresh'),
  ],
)
def test_an_unknown_model_names_the_nearest(asked, nearest):
  with pytest.raises(
    FileNotFoundError, match=f"nearest is '{nearest}'"
  ) as error:
    load(asked)
  assert repr(asked) in str(error.value)

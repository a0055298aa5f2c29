"""Rows, pages and refills: however it is gone about, the answers are the same.

What is sampled is held against the model's own logits in one plain forward pass
each; sizes are made small, so that pages fill and places are given anew.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from players import (
  BASE,
  CONFIG,
  KEY,
  LONG,
  MANY,
  PROMPTS,
  assert_same,
  endless,
  flat,
  make_player,
  softmax,
  teacher_forced,
)

from jaxdistill import dist
from jaxdistill.models import Decoder, DecoderConfig
from jaxdistill.models.decode import decode
from jaxdistill.models.int8 import Formats
from jaxdistill.models.paged import Pages, join, part
from jaxdistill.rollout import Sampling, budget, engine, schedule
from jaxdistill.rollout.budget import rows_within
from jaxdistill.run.step import param_shardings
from jaxdistill.types import Prompt


@pytest.fixture
def small_sizes(monkeypatch):
  """Pages of 4 tokens, programs from 2 rows on."""
  monkeypatch.setattr(schedule, 'PAGE', 4)
  monkeypatch.setattr(schedule, '_LEAST', 2)


@pytest.fixture
def dispatches(monkeypatch):
  """What each dispatch was given: rows, pages of levels, prompts beside."""
  seen, advance = [], engine._advance

  def noted(*args, **kw):
    levels, lead = args[3], args[6]
    seen.append((lead.shape[1], [x.readers.shape[1] for x in levels]))
    return advance(*args, **kw)

  monkeypatch.setattr(engine, '_advance', noted)
  return seen


def within(monkeypatch, rows):
  monkeypatch.setattr(
    'jaxdistill.rollout.player.rows_within', lambda *args: rows
  )


@pytest.mark.parametrize('window', [0, 6])
def test_small_pages_and_few_rows_give_the_same(
  one_device, small_sizes, dispatches, monkeypatch, window
):
  player = endless(make_player(one_device))
  if window:
    player = computed(player, window=window, sliding=(True, False))
  within(monkeypatch, 64)
  whole = flat(player.generate(MANY, LONG, KEY))
  assert {r.finish for r in whole} == {'stop', 'length'}
  for r, logits_T in zip(whole, teacher_forced(player, whole), strict=True):
    p_TV = softmax(logits_T)
    by_hand = np.log(p_TV[np.arange(len(p_TV)), r.tokens_T])
    np.testing.assert_allclose(r.logp_T, by_hand, atol=1e-4)
  rooms = np.diff([rows for rows, _ in dispatches])
  assert (rooms > 0).any() and (rooms < 0).any()
  dispatches.clear()
  within(monkeypatch, 8)
  assert_same(flat(player.generate(MANY, LONG, KEY)), whole)
  assert max(rows for rows, _ in dispatches) == 8
  owned = {pages[1] for _, pages in dispatches if len(pages) == 2}
  assert owned <= {1, 2, 4, 8, 16, 32, 64, 128}
  assert max(len(levels) for _, levels in dispatches) == 2


@pytest.mark.parametrize(
  'prompts, tokens, read',
  [
    (96, 68, [(32, 96)] * 3),  # two pages of 48, not of 64; no row is empty
    (5, 68, [(8, 96)]),  # so few are read at once
    (7, 256, [(8, 256)]),  # two reads of four would be as many rows
    (9, 256, [(4, 256)] * 3),  # of twelve rows, not of sixteen
    (120, 65, [(128, 64)]),  # a fifteenth is empty
    (40, 400, [(8, 512)] * 5),  # 399 take 8 pages of 64
  ],
)
def test_prompts_are_read_with_little_padding(prompts, tokens, read):
  desk = schedule.Desk(
    *(0, [np.arange(tokens) + i for i in range(prompts)], range(prompts)),
    sampling=Sampling(max_tokens=8),
    eos_ids=(1,),
    shards=1,
    most=prompts,
  )
  assert [tokens.shape for tokens, *_ in desk.turn().admitted] == read


@pytest.mark.parametrize(
  ('lengths', 'room', 'read'),
  [
    ([100] * 8, 16, [(8, 128)]),  # two pages each
    ([100] * 7 + [2000], 64, [(8, 2048)]),  # 2 * 7 and 32: not 8 * 32
    ([2000] + [100] * 15, 64, [(8, 2048), (8, 128)]),  # by turn, its longest
  ],
)
def test_one_long_prompt_gives_the_others_no_room(lengths, room, read):
  desk = schedule.Desk(
    *(0, [np.arange(n) + i for i, n in enumerate(lengths)], range(99)),
    sampling=Sampling(max_tokens=8),
    eos_ids=(1,),
    shards=1,
    most=8,
  )
  assert desk.text_room == room
  for shape in read:
    turn = desk.turn()
    assert [tokens.shape for tokens, *_ in turn.admitted] == [shape]
    # All end with their first token.
    token, none = np.ones((1, 8), int), np.zeros((1, 8), bool)
    drawn = np.where(np.arange(8) < 1, 1, -1)[None, None].repeat(8, 1)
    desk.note(8, desk.samples.row, turn.lead, token, none, *[drawn] * 3)


@pytest.mark.parametrize('samples', [1, 2])
def test_prompts_of_one_text_are_read_once(one_device, monkeypatch, samples):
  player = make_player(one_device)
  sampling = dataclasses.replace(BASE, samples=samples)
  which = [0, 1, 0, 0, 1, 0, 3, 0, 0]  # nine prompts, three texts
  prompts = [
    dataclasses.replace(PROMPTS[n], address=7 * i) for i, n in enumerate(which)
  ]
  (alone,) = zip(
    *(player.generate([p], sampling, KEY) for p in prompts), strict=True
  )
  read, prefill = [], engine._prefill

  def noted(params, role, tokens, prefix, **static):
    read.append(np.asarray(tokens))
    return prefill(params, role, tokens, prefix, **static)

  monkeypatch.setattr(engine, '_prefill', noted)
  found = player.generate(prompts, sampling, KEY)
  assert_same(flat(found), flat(alone))
  assert len({r.text for r in flat(found)}) > 3  # each draws for itself
  # Groups of twice `samples`: three of the first text, and one of each other.
  rows = [row for tokens in read[-1:] for row in tokens if row.any()]
  assert len(rows) == 5 and len({row.tobytes() for row in rows}) == 3


def test_groups_are_split_where_there_are_fewer_places(
  one_device, small_sizes, dispatches, monkeypatch
):
  player = make_player(one_device)
  many = dataclasses.replace(BASE, samples=5)
  expected = flat(player.generate(PROMPTS[:3], many, KEY))
  dispatches.clear()
  within(monkeypatch, 2)
  assert_same(flat(player.generate(PROMPTS[:3], many, KEY)), expected)
  assert {rows for rows, _ in dispatches} == {2}


def test_a_longer_limit_changes_no_token(one_device):
  player = make_player(one_device)
  short = flat(player.generate(PROMPTS[:4], BASE, KEY))
  longer = dataclasses.replace(BASE, max_tokens=90)
  for a, b in zip(
    short, flat(player.generate(PROMPTS[:4], longer, KEY)), strict=True
  ):
    np.testing.assert_array_equal(a.tokens_T, b.tokens_T[: len(a.tokens_T)])
    assert a.finish == 'length' or len(a.tokens_T) == len(b.tokens_T)


def test_other_meshes_refill_alike(
  one_device, small_sizes, dispatches, monkeypatch
):
  player = endless(make_player(one_device))
  expected = flat(player.generate(MANY, LONG, KEY))
  mesh = dist.make_mesh(data=2, fsdp=2, tensor=2)
  within(monkeypatch, 4)
  with jax.set_mesh(mesh):
    sharded = endless(make_player(mesh))
    assert_same(flat(sharded.generate(MANY, LONG, KEY)), expected)
  assert max(rows for rows, _ in dispatches[-5:]) <= 4
  assert max(len(levels) for _, levels in dispatches) == 2


def test_what_all_begin_with_is_read_by_all_rows(
  one_device, small_sizes, dispatches, monkeypatch
):
  """Shared beginnings, prompts of many pages, and one of no page at all."""
  player = endless(make_player(one_device))
  stem = '12345678'
  prompts = [
    Prompt('proposer', stem + rest, address=i)
    for i, rest in enumerate(('1', '22=33+44-5566', '', '3', '44*5='))
  ]
  within(monkeypatch, 6)
  rollouts = flat(player.generate(prompts, LONG, KEY))
  for r, logits_T in zip(
    rollouts, teacher_forced(player, rollouts), strict=True
  ):
    p_TV = softmax(logits_T)
    by_hand = np.log(p_TV[np.arange(len(p_TV)), r.tokens_T])
    np.testing.assert_allclose(r.logp_T, by_hand, atol=1e-4)


def test_parts_of_a_softmax_join_to_the_whole():
  draw = np.random.default_rng(0)
  q = jnp.asarray(draw.normal(size=(3, 2, 4, 8)), jnp.float32)
  k = jnp.asarray(draw.normal(size=(3, 2, 8, 12)), jnp.float32)
  v = jnp.asarray(draw.normal(size=(3, 2, 12, 8)), jnp.float32)
  seen = jnp.asarray(draw.random((3, 1, 4, 12)) < 0.5).at[0, 0, 0].set(False)
  cut = [slice(0, 5), slice(5, 6), slice(6, 12)]
  found = join(
    *(part(q, k[..., c], v[:, :, c], seen[..., c], 3.0) for c in cut)
  )
  logits = 3 * np.tanh(np.einsum('xkah,xkhp->xkap', q, k) / 3)
  p = np.exp(logits) * np.asarray(seen)
  value = np.einsum('xkap,xkph->xkah', p, v)
  scale = np.exp(np.asarray(found.high))
  some = np.asarray(seen).any(-1).repeat(2, 1)
  mass = np.asarray(found.mass) * scale
  np.testing.assert_allclose(mass[some], p.sum(-1)[some], rtol=1e-5)
  np.testing.assert_allclose(
    (np.asarray(found.value) * scale[..., None])[some], value[some], atol=1e-4
  )


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_joined_projections_are_those_of_the_model(one_device, dtype):
  """A token after nothing: `decode` against the whole model's logits."""
  player = make_player(one_device)
  model = nnx.merge(player.graphdef, *player.params)
  model.config = dataclasses.replace(model.config, dtype=dtype)
  split = nnx.split(model)
  c, tokens = model.config, jnp.arange(3, 9)
  empty = Pages(
    (jnp.zeros((6, c.num_kv_heads, c.head_dim, 4), dtype),) * c.num_layers,
    (jnp.zeros((6, c.num_kv_heads, 4, c.head_dim), dtype),) * c.num_layers,
  )
  for shards in (1, 2):
    weights = engine.lay_out(split[0], split[1:], np.int32(1), tensor=shards)
    logits, _ = decode(
      *(c, weights, tokens, jnp.zeros(6, jnp.int32), None, (), empty),
      *(jnp.full(6, 2), jnp.int32(2), shards),
    )
    expected = model(tokens[:, None], role=1)[:, 0]
    np.testing.assert_allclose(
      logits, expected, atol=1e-4 if dtype == 'float32' else 0.15
    )


@pytest.mark.parametrize(
  'changes',
  [{}, {'temperature': 0.7}, {'top_k': 5}, {'top_p': 0.8}, {'temperature': 0}],
  ids=['plain', 'cold', 'k', 'p', 'greedy'],
)
def test_bfloat16_scores_what_it_samples(one_device, changes):
  """The policy ratio strays from 1 by rounding alone, to either side.

  By as much as bfloat16 strays from float32 on the same tokens; and less by the
  shape of a batch than by one token at a time against all at once.
  """
  exact = make_player(one_device)
  player = computed(exact, dtype='bfloat16')
  sampling = dataclasses.replace(BASE, **changes)
  temperature = sampling.temperature or 1.0
  rollouts = flat(player.generate(PROMPTS, sampling, KEY))
  sampled = np.concatenate([r.logp_T for r in rollouts])
  scored, in_float32 = (
    np.concatenate(p.logprobs(rollouts, temperature)) for p in (player, exact)
  )
  rounding = rms(scored - in_float32)
  assert 1e-3 < rounding < 0.2
  assert rms(sampled - scored) < 1.5 * rounding
  assert abs(np.mean(sampled - scored)) < 0.5 * rounding
  alone = flat(
    [r for p in PROMPTS for r in player.generate([p], sampling, KEY)]
  )
  both = [
    (a.logp_T, b.logp_T)
    for a, b in zip(alone, rollouts, strict=False)
    if np.array_equal(a.tokens_T, b.tokens_T)
  ]
  assert len(both) > 0.5 * len(alone)
  by_shape = rms(np.concatenate([a - b for a, b in both]))
  assert by_shape < rms(sampled - scored)


def rms(x):
  return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def computed(player, **changes):
  model = nnx.merge(player.graphdef, *jax.tree.map(lambda x: x, player.params))
  model.config = dataclasses.replace(model.config, **changes)
  graphdef, *params = nnx.split(model, lambda path, x: True)
  return dataclasses.replace(player, graphdef=graphdef, params=tuple(params))


ROOM = DecoderConfig(
  vocab_size=100,
  embed_dim=32,
  num_layers=3,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_dim=32,
  embed_scale=1.0,
)


def test_as_many_rows_run_as_the_cache_has_room_for(one_device):
  """2 x 3 layers x 2 heads x 8 numbers of 4 bytes a token, by hand."""
  sampling, token = Sampling(samples=2, max_tokens=100), 2 * 3 * 2 * 8 * 4
  one = token * (128 + 64 + 60) + 12 * 100  # two pages, the newest, a prompt
  assert budget.sample_bytes(ROOM, sampling, 30, 1) == one
  for rows, room in ((1, 1.5), (4, 4.1), (4, 7.9), (8, 8.0)):
    gib = (room * one + 0.5) / 2**30
    assert rows_within(ROOM, sampling, 30, one_device, gib) == rows
  with pytest.raises(ValueError, match='of keys and values'):
    rows_within(ROOM, sampling, 30, one_device, 1e-6)


@pytest.mark.parametrize('sharded', [False, True])
@pytest.mark.parametrize('weights', ['', 'int8'])
def test_bytes_of_weights_are_those_laid_out(sharded, weights):
  mesh, formats = (
    dist.make_mesh(fsdp=4, tensor=2),
    Formats(weights, '', sharded),
  )
  player = make_player(mesh)
  with jax.set_mesh(mesh):
    laid = engine.lay_out(
      *(player.graphdef, player.params, np.int32(0)),
      **{'tensor': 2, 'formats': formats},
    )
  held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(laid))
  told = budget.weight_bytes(player.params, player.config, mesh, formats)
  # Of deltas one role's are laid out, scales are not counted.
  assert told == pytest.approx(held, rel=0.15)
  whole = budget.weight_bytes(player.params, player.config, mesh, Formats())
  if sharded and not weights:
    assert told < 0.6 * whole


@pytest.mark.parametrize('sharded', [False, True])
def test_training_shards_are_gathered_as_what_is_kept(sharded):
  """A layer at a time, in 8 bits; not at all where they stay in shards."""
  mesh = dist.make_mesh(fsdp=4, tensor=2)
  formats = Formats('int8', '', sharded)
  model = nnx.eval_shape(lambda: Decoder(CONFIG, rngs=nnx.Rngs(0)))
  graphdef, state = nnx.split(model)
  where = param_shardings(state, mesh)
  state = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    state,
    where,
  )
  i = jax.ShapeDtypeStruct((), 'int32')
  with jax.set_mesh(mesh):
    text = (
      engine._lay_out_layer.lower(
        *(graphdef, (state,), i, i), tensor=2, formats=formats
      )
      .compile()
      .as_text()
    )
  found = re.findall(r'= (\w+)\[([\d,]*)\]\S* all-gather', text)
  # With their scales `o` and `down`, each with half of its inputs; `qkv` and
  # `gate_up`, each with half of its outputs.
  whole = [('f32', '1,32'), ('s8', '16,32'), ('s8', '32,32')]
  assert sorted(found) == [x for x in whole for _ in range(2) if not sharded]


@pytest.mark.parametrize('shards', [1, 8])
def test_a_token_copies_no_cache(shards, monkeypatch):
  """What the compiled loop copies, but for the branch for rows that part."""
  mesh = dist.make_mesh(devices=jax.devices()[:shards])
  texts, advance = [], engine._advance

  def compiled(*args, **kw):
    texts.append(advance.lower(*args, **kw).compile().as_text())
    return advance(*args, **kw)

  monkeypatch.setattr(engine, '_advance', compiled)
  monkeypatch.setattr(schedule, 'PAGE', 4)
  with jax.set_mesh(mesh):
    player = endless(make_player(mesh))
    player.generate(MANY[:8], dataclasses.replace(LONG, samples=1), KEY)
  assert texts
  for text in texts:
    found = looped(text)
    assert any('dynamic-update-slice' in line for line in found)
    assert not [line for line in found if COPY.search(line)]


COPY = re.compile(r'= f32\[\d+,2,(8,4|4,8)\]\S* copy\(')
PART = re.compile(r'^(?:ENTRY )?%?([\w.-]+) [^\n]*\{\n(.*?)^\}', re.M | re.S)


def looped(text):
  """Lines of the loop over tokens and of what it calls, but for branches."""
  parts = dict(PART.findall(text))
  entry = parts[re.search(r'^ENTRY %?([\w.-]+)', text, re.M)[1]]
  lines, ahead = [], re.findall(r'body=%?([\w.-]+)', entry)
  while ahead:
    body = parts.get(ahead.pop(), '')
    lines += body.splitlines()
    ahead += re.findall(r'(?:calls|body|to_apply)=%?([\w.-]+)', body)
  return lines

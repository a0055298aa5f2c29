"""Pairs, a teacher's prompts, fields of any shape, and chunks of logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import TINY

from jaxdistill import dist, losses
from jaxdistill.batch import (
  Shapes,
  make_batch,
  make_minibatches,
  pack,
  stack,
  take_rows,
)
from jaxdistill.models import Decoder, scoring
from jaxdistill.types import Field, Row, RowSet, Update

MESHES = {'one device': {'devices': jax.devices()[:1]}, 'data=8': {}}
SHAPES = Shapes(16, 8)


@pytest.fixture(params=list(MESHES))
def mesh(request):
  mesh = dist.make_mesh(**MESHES[request.param])
  with jax.set_mesh(mesh):
    yield mesh


def row(draw, prompt, n, **more):
  """A row of a response of `n` random tokens."""
  return Row(
    np.asarray(prompt, np.int32),
    draw.integers(1, 20, n).astype(np.int32),
    draw.random(n).astype(np.float32),
    1.0,
    **more,
  )


def paired_rows(seed, pairs=12):
  draw = np.random.default_rng(seed)
  rows = []
  for n in range(pairs):
    prompt = draw.integers(1, 4, draw.integers(1, 5))
    other = prompt if draw.random() < 0.5 else draw.integers(1, 4, 2)
    for p in (prompt, other):
      rows.append(row(draw, p, int(draw.integers(1, 5)), pair=n))
  return [rows[i] for i in draw.permutation(len(rows))]


@pytest.mark.parametrize('seed', range(10))
def test_halves_of_a_pair_are_in_one_sequence(seed):
  rows = paired_rows(seed)
  places, used = pack(rows, 16)
  by_pair = {}
  for r, place in zip(rows, places, strict=True):
    by_pair.setdefault(r.pair, set()).add(place.sequence)
  assert all(len(sequences) == 1 for sequences in by_pair.values())
  assert len(by_pair) == 12 and 1 < used <= 12
  taken = np.zeros((used, 16), int)
  for r, p in zip(rows, places, strict=True):
    own = len(r) - p.shared
    taken[p.sequence, p.start : p.start + own] += 1
  assert taken.max() == 1


def test_a_pair_longer_than_a_sequence_makes_it_longer(one_device):
  draw = np.random.default_rng(0)
  halves = [row(draw, [p], 11, pair=0) for p in (1, 2)]
  row_set = RowSet('', halves, paired=True)
  batch, _ = make_batch(row_set, 0, one_device, Shapes(16, 1))
  assert batch.reading.tokens.shape == (1, 1, 32)
  alone = RowSet('', [row(draw, [p], 11) for p in (1, 2)])
  batch, _ = make_batch(alone, 0, one_device, Shapes(16, 1))
  assert batch.reading.tokens.shape == (32, 1, 16)
  assert batch.microbatches == 2


def test_pairs_are_numbered_by_hand(one_device):
  draw = np.random.default_rng(0)
  shape = ([1, 2], 1, 7), ([3], 2, 9), ([1, 2], 1, 7), ([3], 1, 9)
  rows = [row(draw, p, n, pair=pair) for p, n, pair in shape]
  batch, _ = make_batch(
    RowSet('', rows, paired=True), 0, one_device, Shapes(16, 1)
  )
  assert batch.pairs[0, 0].tolist() == [1, 1, 2, 2, 2, 0, 0, 0]
  assert batch.segments[0, 0].tolist() == [1, 2, 3, 3, 4, 0, 0, 0]
  sums = losses.sum_over(jnp.arange(1.0, 9)[None], batch.pairs[0])
  assert sums[0, :5].tolist() == [3, 3, 12, 12, 12]


def test_minibatches_keep_pairs_whole(mesh):
  batches = make_minibatches(
    RowSet('', paired_rows(3), paired=True), 3, 0, mesh, SHAPES
  )
  numbers = []
  for batch in batches:
    pairs, segments = (
      np.asarray(x).reshape(-1, x.shape[-1])
      for x in (batch.pairs, batch.segments)
    )
    for s, p in zip(segments, pairs, strict=True):
      for n in range(1, p.max(initial=0) + 1):
        assert len({*s[p == n]}) == 2  # both halves
        numbers.append(n)
  assert len(numbers) == 12


def test_two_sets_of_a_kind_are_refused():
  with pytest.raises(ValueError, match='of one kind'):
    Update((RowSet('solver', []), RowSet('judge', [])))
  Update((RowSet('solver', []), RowSet('judge', [], kind='judge')))


def taught_rows(seed=0):
  """Rows whose prompts begin alike or not, for the policy and a teacher."""
  draw = np.random.default_rng(seed)
  rows = []
  for _ in range(20):
    prompt = draw.integers(1, 4, draw.integers(1, 5))
    teacher = draw.integers(1, 3, draw.integers(1, 9)).astype(np.int32)
    n = int(draw.integers(1, 6))
    fields = {
      'ids': draw.integers(0, 20, (n, 3)).astype(np.int32),
      'logp': draw.standard_normal((n, 3)).astype(np.float32),
    }
    more = {'fields': fields, 'teacher_prompt_T': teacher}
    rows.append(row(draw, prompt, n, **more))
  return rows


FIELDS = Field('ids', (3,), 'int32'), Field('logp', (3,))


_read = nnx.jit(Decoder.__call__)


def alone(model, prompt, response):
  """Logits that predict each response token, of a text by itself."""
  tokens = np.zeros((1, 16), np.int32)
  text = np.concatenate([prompt, response])
  tokens[0, : len(text)] = text
  logits = np.asarray(_read(model, tokens))[0]
  return logits[len(prompt) - 1 : len(text) - 1]


def test_a_teacher_reads_its_own_prompt_before_the_same_response(mesh):
  policy, teacher = (Decoder(TINY, rngs=nnx.Rngs(i)) for i in (0, 1))
  rows = taught_rows()
  row_set = RowSet('', rows, FIELDS, taught=True)
  batch, places = make_batch(row_set, 0, mesh, SHAPES)

  graphs, states = zip(*map(nnx.split, (policy, teacher)), strict=True)

  @jax.jit
  def both(states, batch):
    policy, teacher = map(nnx.merge, graphs, states)

    def one(i):
      micro = batch.microbatch(i)
      return micro.over_targets(
        lambda p, t, ids: (p, t, ids),
        policy,
        teacher,
        arrays=(micro.fields['ids'],),
      )

    found = [one(jnp.int32(i)) for i in range(batch.weight.shape[0])]
    return jax.tree.map(lambda *x: jnp.stack(x), *found)

  found = [take_rows(x, places, rows) for x in both(states, batch)]
  for i, r in enumerate(rows):
    own = alone(policy, r.prompt_T, r.response_R)
    other = alone(teacher, r.teacher_prompt_T, r.response_R)
    np.testing.assert_allclose(found[0][i], own, atol=1e-4)
    np.testing.assert_allclose(found[1][i], other, atol=1e-4)
    np.testing.assert_array_equal(found[2][i], r.fields['ids'])
  logp = take_rows(batch.fields['logp'], places, rows)
  for i, r in enumerate(rows):
    np.testing.assert_array_equal(logp[i], r.fields['logp'])


def test_chunks_change_no_value_and_no_gradient(monkeypatch, one_device):
  policy, teacher = (Decoder(TINY, rngs=nnx.Rngs(i)) for i in (0, 1))
  row_set = RowSet('', taught_rows(), FIELDS, taught=True)
  batch, _ = make_batch(row_set, 0, one_device, Shapes(16, 16))

  def kl(p, t):
    p, t = jax.nn.log_softmax(p), jax.nn.log_softmax(t)
    return jnp.sum(jnp.exp(t) * (t - p), -1)

  graphs, states = zip(*map(nnx.split, (policy, teacher)), strict=True)

  def value(states, batch):
    micro = batch.microbatch(jnp.int32(0))
    return micro.weighted(
      micro.over_targets(kl, *map(nnx.merge, graphs, states))
    )

  def both():
    gradient = jax.jit(jax.value_and_grad(value))
    return jax.tree.leaves(gradient(states, batch))

  whole = both()
  monkeypatch.setattr(scoring, '_CHUNK_BYTES', 4 * 16 * 2 * 20 * 3)
  jax.clear_caches()
  for a, b in zip(whole, both(), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
  # None goes through the teacher.
  half = (len(whole) - 1) // 2
  assert any(np.abs(x).max() > 1e-3 for x in whole[1 : 1 + half])
  assert not any(np.abs(x).max() for x in whole[1 + half :])


def test_a_host_without_rows_has_the_same_arrays(one_device):
  row_sets = (
    RowSet('', rows, FIELDS, paired=True, taught=True)
    for rows in ([], taught_rows()[:1])
  )
  empty, one = (make_batch(s, 0, one_device, SHAPES)[0] for s in row_sets)
  assert jax.tree.structure(empty) == jax.tree.structure(one)
  for a, b in zip(*map(jax.tree.leaves, (empty, one)), strict=True):
    assert a.shape == b.shape and a.dtype == b.dtype
  assert empty.fields['ids'].shape[-1] == 3
  assert empty.fields['ids'].dtype == np.int32


def test_stacked_batches_are_each_their_own(one_device):

  few, many = (
    RowSet('', taught_rows(seed)[:n], FIELDS, taught=True)
    for seed, n in ((1, 2), (2, 20))
  )
  both = stack([few, many], 0, one_device, Shapes(16, 2))
  assert both.total.tolist() == [2.0, 20.0]
  assert both.microbatches[0] < both.microbatches[1]
  for e, row_set in enumerate((few, many)):
    own, _ = make_batch(row_set, 0, one_device, Shapes(16, 2))
    tokens = np.asarray(both.reading.tokens[e])
    length = own.reading.tokens.shape[-1]
    n = own.reading.tokens.shape[0]
    np.testing.assert_array_equal(tokens[:n, :, :length], own.reading.tokens)
    assert not tokens[n:].any()

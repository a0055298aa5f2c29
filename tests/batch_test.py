"""Rows into arrays and back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed_rows import FIELDS, make_row, related_rows, row_set, tokens_of

from jaxdistill import dist
from jaxdistill.batch import (
  Shapes,
  bucket,
  make_batch,
  make_minibatches,
  pack,
  take_rows,
)
from jaxdistill.types import Prompt, Rollout, Row, RowSet, response_row

MESHES = {
  'one device': {'devices': jax.devices()[:1]},
  'data=8': {},
  'data=2,fsdp=2,tensor=2': {'data': 2, 'fsdp': 2, 'tensor': 2},
}
READ = ('tokens', 'positions', 'until')
SCORED = ('sources', 'targets', 'segments', 'weight')


@pytest.fixture(params=list(MESHES))
def mesh(request):
  return dist.make_mesh(**MESHES[request.param])


def common(first, second):
  pairs = zip(first, second, strict=False)
  return next(
    (i for i, (a, b) in enumerate(pairs) if a != b),
    min(len(first), len(second)),
  )


def parts(batch):
  """The arrays of a batch that have microbatches and sequences."""
  scored = {n: getattr(batch, n) for n in SCORED[1:]}
  return vars(batch.reading) | scored | batch.fields


@pytest.mark.parametrize('seed', range(20))
def test_packing_places_every_row_in_room_of_its_own(seed):
  draw = np.random.default_rng(seed)
  length = int(draw.integers(2, 40))
  rows = related_rows(seed, int(draw.integers(1, 60)), length, empty=True)
  places, used = pack(rows, length)
  assert len(places) == len(rows)
  taken, scored = np.zeros((2, used, length * 60), int)
  for place, row in zip(places, rows, strict=True):
    own = len(row) - place.shared
    assert 0 <= place.shared <= len(row.prompt_T)
    assert 0 <= place.start <= length - own
    taken[place.sequence, place.start : place.start + own] += 1
    r = len(row.response_R)
    scored[place.sequence, place.scored : place.scored + r] += 1
  for there, whole in (
    (taken, sum(len(r) - p.shared for r, p in zip(rows, places, strict=True))),
    (scored, sum(len(r.response_R) for r in rows)),
  ):
    assert there.sum() == whole
    assert there.max() <= 1
    # One after the other, without gaps.
    assert (np.diff(there, axis=1) <= 0).all()
  assert taken.any(1).all()


@pytest.mark.parametrize('seed', range(10))
def test_rows_of_like_prompts_are_neighbours(seed):
  rows = related_rows(seed, 40, 12)
  places, used = pack(rows, 24)
  assert used > 3
  laid = list(zip(places, rows, strict=True))
  laid.sort(key=lambda x: (x[0].sequence, x[0].start))
  prompts = [row.prompt_T.tolist() for _, row in laid]
  assert prompts == sorted(prompts)
  room = 24
  for i, (place, row) in enumerate(laid):
    shared = common(prompts[i - 1], prompts[i]) if i else 0
    if i and place.sequence == laid[i - 1][0].sequence:
      assert place.shared == shared
    else:  # a new sequence only where there was no room
      assert place.shared == 0
      assert not i or len(row) - shared > room
      room = 24
    room -= len(row) - place.shared


def test_packing_by_hand():
  draw = np.random.default_rng(0)
  rows = [
    make_row(draw, prompt, [9] * n)
    for prompt, n in (([1, 2], 2), ([5], 7), ([1, 2, 3], 1), ([4, 4], 2))
  ]
  rows.append(make_row(draw, [1, 2], [9]))
  places, used = pack(rows, 8)
  assert [(p.sequence, p.shared, p.start, p.scored) for p in places] == [
    (0, 0, 0, 0),
    (2, 0, 0, 0),
    (0, 2, 5, 3),
    (1, 0, 0, 0),
    (0, 2, 4, 2),
  ]
  assert used == 3
  assert pack([], 8) == ([], 0)


def test_a_forest_by_hand(one_device):
  draw = np.random.default_rng(0)
  rows = [
    make_row(draw, [1, 2, 3], [9]),
    make_row(draw, [4], [7, 8]),
    make_row(draw, [1, 2], [5, 6]),
    make_row(draw, [1, 2], [7]),
  ]
  batch, _ = make_batch(RowSet('', rows, FIELDS), 0, one_device, Shapes(16, 1))
  found = {
    name: np.asarray(x)[0, 0].tolist() for name, x in parts(batch).items()
  }
  #  1 2 { 5 6 } { 7 } { 3 9 }   4 7 8
  assert found['tokens'] == [1, 2, 5, 6, 7, 3, 9, 4, 7, 8] + [0] * 6
  assert found['positions'] == [0, 1, 2, 3, 2, 2, 3, 0, 1, 2] + [0] * 6
  assert found['until'] == [7, 7, 4, 4, 5, 7, 7, 10, 10, 10] + [0] * 6
  assert found['sources'] == [1, 2, 1, 5, 7, 8, 0, 0]
  assert found['targets'] == [5, 6, 7, 9, 7, 8, 0, 0]
  assert found['segments'] == [1, 1, 2, 3, 4, 4, 0, 0]


def test_buckets_by_hand():
  least_1 = {0: 1, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 7: 8, 64: 64}
  least_1 |= {65: 96, 96: 96, 97: 128}
  assert {n: bucket(n) for n in least_1} == least_1
  least_6 = {1: 6, 6: 6, 7: 12, 12: 12, 13: 18, 19: 24, 50: 72, 73: 96}
  assert {n: bucket(n, 6) for n in least_6} == least_6


@pytest.mark.parametrize('empty', [False, True])
def test_rows_come_back_as_they_went(mesh, empty):
  rows = RowSet('', related_rows(1, 40, 16, empty), FIELDS)
  assert empty != all(len(row.response_R) for row in rows.rows)
  batch, places = make_batch(rows, 1, mesh, Shapes(16, 4))
  arrays = parts(batch)
  back = {
    name: take_rows(arrays[name].astype('float32'), places, rows.rows)
    for name in (*SCORED, *FIELDS)
  }
  read = {n: np.asarray(arrays[n]).reshape(-1, 16) for n in READ}
  for i, row in enumerate(rows.rows):
    np.testing.assert_array_equal(back['targets'][i], row.response_R)
    np.testing.assert_array_equal(back['weight'][i], row.weight_R)
    for name in FIELDS:
      np.testing.assert_array_equal(back[name][i], row.fields[name])
    assert len(set(back['segments'][i])) == min(len(row.response_R), 1)
    # A source sees what comes before its target in the row, and nothing else.
    tokens, positions, until = (read[n][places[i].sequence] for n in READ)
    for t, source in enumerate(back['sources'][i].astype(int)):
      seen = [j for j in range(source + 1) if source < until[j]]
      before = tokens_of(row)[: len(row.prompt_T) + t]
      assert tokens[seen].tolist() == before
      assert positions[seen].tolist() == list(range(len(before)))
  # Everywhere else there is nothing.
  pairs = list(zip(rows.rows, places, strict=True))
  laid = sum(len(row) - place.shared for row, place in pairs)
  count = sum(len(row.response_R) for row in rows.rows)
  for name in ('tokens', 'until'):
    assert np.count_nonzero(arrays[name]) == laid
  for name in ('targets', 'segments', 'weight', *FIELDS):
    assert np.count_nonzero(arrays[name]) == count


@pytest.mark.parametrize('seed', range(5))
def test_rows_without_a_response_stand_in_nobody_s_way(one_device, seed):
  draw = np.random.default_rng(seed)
  odd = [([1, 2, 3], []), ([1, 2], []), ([1, 2, 3], []), ([1, 2], [8, 7])]
  odd += [([1], []), ([1, 2, 3], [9]), ([1, 4], [6])]
  rows = [make_row(draw, *odd[i]) for i in draw.permutation(len(odd))]
  batch, places = make_batch(
    RowSet('', rows, FIELDS), 0, one_device, Shapes(16, 1)
  )
  tokens, until = (
    np.asarray(x)[0, 0] for x in (batch.reading.tokens, batch.reading.until)
  )
  assert np.count_nonzero(until) == 4 + 4
  for row, sources in zip(
    rows,
    take_rows(batch.reading.sources.astype('float32'), places, rows),
    strict=True,
  ):
    for t, source in enumerate(sources.astype(int)):
      seen = [j for j in range(source + 1) if source < until[j]]
      assert tokens[seen].tolist() == tokens_of(row)[: len(row.prompt_T) + t]


@pytest.mark.parametrize('seed', range(5))
def test_what_prompts_share_is_there_once(one_device, seed):
  rows = RowSet('', related_rows(seed, 30, 12), FIELDS)
  batch, _ = make_batch(rows, 0, one_device, Shapes(512, 1))
  assert batch.reading.tokens.shape[:2] == (1, 1)
  prompts = [tuple(row.prompt_T) for row in rows.rows]
  trie = {p[:n] for p in prompts for n in range(1, len(p) + 1)}
  responses = sum(len(row.response_R) for row in rows.rows)
  assert np.count_nonzero(batch.reading.until) == len(trie) + responses
  assert len(trie) + responses < 0.9 * sum(map(len, rows.rows))


def test_segments_tell_the_rows_of_a_sequence_apart(mesh):
  rows = row_set([5, 6, 3, 2, 9, 3, 8])
  batch, places = make_batch(rows, 0, mesh, Shapes(16, 4))
  segments = np.asarray(batch.segments)
  segments = segments.reshape(-1, segments.shape[-1])
  positions, until = (
    np.asarray(x).reshape(-1, 16)
    for x in (batch.reading.positions, batch.reading.until)
  )
  for sequence in range(len(segments)):
    there = [p for p in places if p.sequence == sequence]
    ids = sorted({int(x) for x in segments[sequence]} - {0})
    assert ids == list(range(1, len(there) + 1))
    begins = (positions[sequence] == 0) & (until[sequence] > 0)
    assert begins.sum() == len(there)
  assert max(p.sequence for p in places) == 2


def test_numbers_of_a_batch():
  rows = row_set([4, 6, 5], {'clip': 0.2, 'kl': 0.5})
  mesh = dist.make_mesh()
  batch, _ = make_batch(rows, 1, mesh, Shapes(8, 8))
  assert batch.reading.tokens.shape == (1, 8, 8)
  assert int(batch.role) == 1
  np.testing.assert_allclose(batch.total, sum(r.total for r in rows.rows))
  assert {k: float(v) for k, v in batch.coefficients.items()} == {
    'clip': pytest.approx(0.2),
    'kl': pytest.approx(0.5),
  }
  assert sorted(batch.fields) == ['advantage', 'old_logp']


@pytest.mark.parametrize(
  ('lengths', 'sequences', 'devices', 'shape', 'scored', 'microbatches'),
  [
    ([8] * 3, 4, 1, (1, 4, 8), 4, 1),
    ([8] * 9, 4, 1, (32, 4, 8), 4, 3),
    ([8] * 9, 4, 8, (32, 8, 8), 4, 2),
    ([8] * 9, 12, 8, (1, 16, 8), 4, 1),
    ([8] * 17, 2, 8, (32, 8, 8), 4, 3),
    ([8, 9], 4, 1, (1, 4, 16), 8, 1),
    ([8, 40], 4, 1, (1, 4, 48), 24, 1),
    ([8, 30], 4, 1, (1, 4, 32), 16, 1),
    ([16, 15, 14], 4, 1, (1, 4, 16), 8, 1),
  ],
)
def test_shapes_that_are_asked_for(
  lengths, sequences, devices, shape, scored, microbatches
):
  mesh = dist.make_mesh(devices=jax.devices()[:devices])
  shapes = Shapes(8, sequences)
  batch, _ = make_batch(row_set(lengths), 0, mesh, shapes)
  for name, x in parts(batch).items():
    assert x.shape == (shape if name in READ else (*shape[:2], scored)), name
  filled = np.asarray(batch.segments).any((1, 2))
  assert filled.tolist() == [i < microbatches for i in range(shape[0])]


@pytest.mark.parametrize(('prompt', 'room'), [(1, 8), (3, 8), (4, 4), (7, 4)])
def test_there_is_room_for_half_of_a_sequence_or_all(one_device, prompt, room):
  tokens = np.arange(1, 9)
  row = make_row(np.random.default_rng(0), tokens[:prompt], tokens[prompt:])
  rows = RowSet('', [row], FIELDS)
  batch, places = make_batch(rows, 0, one_device, Shapes(8, 1))
  assert batch.targets.shape == (1, 1, room)
  (found,) = take_rows(batch.targets.astype('float32'), places, rows.rows)
  np.testing.assert_array_equal(found, tokens[prompt:])


def test_a_batch_is_split_over_data_and_fsdp(mesh):
  batch, _ = make_batch(row_set([8] * 9), 0, mesh, Shapes(8, 16))
  shards = mesh.shape['data'] * mesh.shape['fsdp']
  for name, x in parts(batch).items():
    wanted = (1, 16 // shards, 8 if name in READ else 4)
    assert x.sharding.shard_shape(x.shape) == wanted


def test_no_rows_make_an_empty_batch(mesh):
  batch, places = make_batch(row_set([], {'kl': 1.0}), 0, mesh, Shapes(16, 8))
  assert places == []
  assert float(batch.total) == 0
  assert sorted(batch.fields) == ['advantage', 'old_logp']
  for name, x in parts(batch).items():
    assert x.shape == (1, 8, 16 if name in READ else 8)
    assert not np.asarray(x).any()
  assert take_rows(batch.weight, places, []) == []


def test_a_microbatch_is_one_of_them():
  mesh = dist.make_mesh(devices=jax.devices()[:1])
  batch, _ = make_batch(row_set([8] * 5), 0, mesh, Shapes(8, 2))
  second = batch.microbatch(jnp.array(1))
  for name, x in parts(batch).items():
    np.testing.assert_array_equal(parts(second)[name], np.asarray(x)[1])
  assert second.total is batch.total


def test_minibatches_deal_the_rows_out_and_share_the_total(mesh):
  rows = row_set([1, 2, 3, 4, 5, 6, 7], {'kl': 0.5})
  batches = make_minibatches(rows, 3, 1, mesh, Shapes(8, 8))
  for i, part in enumerate(batches):
    until, positions = (
      np.asarray(x).reshape(-1, 8)
      for x in (part.reading.until, part.reading.positions)
    )
    begins = np.nonzero((until > 0) & (positions == 0))
    lengths = until[begins] - begins[1]
    assert sorted(lengths) == [[1, 4, 7], [2, 5], [3, 6]][i]
    assert part.total == pytest.approx(sum(r.total for r in rows.rows) / 3)
    assert (part.role, part.coefficients) == (1, {'kl': 0.5})
  # What is left out is what has no rows, not what has little weight.
  light = [dataclasses.replace(row, total=0.25) for row in row_set([4, 4]).rows]
  light = dataclasses.replace(rows, rows=light)
  assert None not in make_minibatches(light, 2, 0, mesh, Shapes(8, 8))
  whole, none = make_minibatches(row_set([5]), 2, 0, mesh, Shapes(8, 8))
  assert none is None
  assert whole.total == pytest.approx(row_set([5]).rows[0].total / 2)


def test_a_response_row_trains_the_response_only():
  prompt, tokens = np.array([1, 5, 6], np.int32), np.array([7, 2], np.int32)
  logp, zeros = np.array([-1, -2], np.float32), np.zeros(2, np.float32)
  rollout = Rollout(
    Prompt('solver', '2 3'), prompt, tokens, logp, zeros, 'stop', '4'
  )
  row = response_row(rollout, 0.5, 1.0, advantage=2.0, old_logp=logp)
  np.testing.assert_array_equal(row.prompt_T, [1, 5, 6])
  np.testing.assert_array_equal(row.response_R, [7, 2])
  np.testing.assert_array_equal(row.weight_R, [0.5, 0.5])
  np.testing.assert_array_equal(row.fields['advantage'], [2, 2])
  np.testing.assert_array_equal(row.fields['old_logp'], [-1, -2])
  assert row.total == 1.0
  assert len(row) == 5


def test_a_row_without_a_prompt_is_refused():
  none, one = np.zeros(0, np.int32), np.ones(1, np.int32)
  with pytest.raises(ValueError, match='nothing predicts a first token'):
    Row(none, one, np.ones(1, np.float32), 1.0)
  assert len(Row(one, none, np.zeros(0, np.float32), 1.0)) == 1

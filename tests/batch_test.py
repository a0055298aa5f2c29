"""Rows into arrays and back."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import dist
from jaxdistill.batch import (
  Shapes,
  bucket,
  make_batch,
  make_minibatches,
  pack,
  take_rows,
)
from jaxdistill.dist import mesh as mesh_module
from jaxdistill.types import Prompt, Rollout, Row, RowSet, response_row

MESHES = {
  'one device': {'devices': jax.devices()[:1]},
  'data=8': {},
  'data=2,fsdp=2,tensor=2': {'data': 2, 'fsdp': 2, 'tensor': 2},
}


@pytest.fixture(params=list(MESHES))
def mesh(request):
  return dist.make_mesh(**MESHES[request.param])


def random_rows(lengths):
  """Tokens from 1 up and values that differ everywhere."""
  draw = np.random.default_rng(3)
  return [
    Row(
      tokens_T=draw.integers(1, 20, n).astype(np.int32),
      weight_T=draw.uniform(0.5, 1.5, n).astype(np.float32),
      total=float(draw.uniform(1, 2)),
      fields={
        name: draw.standard_normal(n).astype(np.float32)
        for name in ('advantage', 'old_logp')
      },
    )
    for n in lengths
  ]


def row_set(lengths, coefficients=None):
  fields = ('advantage', 'old_logp')
  return RowSet('solver', random_rows(lengths), fields, coefficients or {})


@pytest.mark.parametrize('seed', range(20))
def test_packing_places_every_row_in_room_of_its_own(seed):
  draw = np.random.default_rng(seed)
  length = int(draw.integers(1, 40))
  lengths = draw.integers(1, length + 1, draw.integers(1, 60)).tolist()
  places, used = pack(lengths, length)
  assert len(places) == len(lengths)
  taken = np.zeros((used, length), int)
  for place, n in zip(places, lengths, strict=True):
    assert 0 <= place.start <= length - n
    taken[place.sequence, place.start : place.start + n] += 1
  assert taken.sum() == sum(lengths)
  assert taken.max() == 1
  filled = np.sort(taken.sum(1))
  assert filled[0] > 0
  # Rows that would fit together are not kept apart.
  assert used == 1 or filled[0] + filled[1] > length


def test_packing_by_hand():
  places, used = pack([3, 8, 2, 5, 8], 8)
  assert [(p.sequence, p.start) for p in places] == [
    (2, 5),
    (0, 0),
    (3, 0),
    (2, 0),
    (1, 0),
  ]
  assert used == 4
  assert pack([], 8) == ([], 0)


def test_buckets_by_hand():
  least_1 = {0: 1, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 7: 8, 64: 64}
  least_1 |= {65: 96, 96: 96, 97: 128}
  assert {n: bucket(n) for n in least_1} == least_1
  least_6 = {1: 6, 6: 6, 7: 12, 12: 12, 13: 18, 19: 24, 50: 72, 73: 96}
  assert {n: bucket(n, 6) for n in least_6} == least_6


def test_rows_come_back_as_they_went(mesh):
  rows = row_set([5, 16, 1, 7, 9, 3, 12, 8, 2, 2, 16, 4, 11])
  batch, places = make_batch(rows, 1, mesh, Shapes(16, 4))
  arrays = batch.per_token()
  arrays |= arrays.pop('fields')
  back = {
    name: take_rows(x.astype('float32'), places, rows.rows)
    for name, x in arrays.items()
  }
  for i, row in enumerate(rows.rows):
    n = len(row.tokens_T)
    np.testing.assert_array_equal(back['tokens'][i], row.tokens_T)
    np.testing.assert_array_equal(back['weight'][i], row.weight_T)
    np.testing.assert_array_equal(back['positions'][i], np.arange(n))
    assert len(set(back['segments'][i])) == 1
    for name in rows.fields:
      np.testing.assert_array_equal(back[name][i], row.fields[name])
  # Everywhere else there is nothing.
  count = sum(len(row.tokens_T) for row in rows.rows)
  for name in ('tokens', 'segments', 'weight', *rows.fields):
    assert np.count_nonzero(arrays[name]) == count


def test_segments_tell_the_rows_of_a_sequence_apart(mesh):
  rows = row_set([5, 6, 4, 1, 9, 3, 8])
  batch, places = make_batch(rows, 0, mesh, Shapes(16, 4))
  segments = np.asarray(batch.segments).reshape(-1, 16)
  positions = np.asarray(batch.positions).reshape(-1, 16)
  for sequence in range(len(segments)):
    there = [p for p in places if p.sequence == sequence]
    ids = sorted({int(x) for x in segments[sequence]} - {0})
    assert ids == list(range(1, len(there) + 1))
    begins = (positions[sequence] == 0) & (segments[sequence] > 0)
    assert begins.sum() == len(there)
  assert max(p.sequence for p in places) == 2


def test_numbers_of_a_batch():
  rows = row_set([4, 6, 5], {'clip': 0.2, 'kl': 0.5})
  mesh = dist.make_mesh()
  batch, _ = make_batch(rows, 1, mesh, Shapes(8, 8))
  assert batch.tokens.shape == (1, 8, 8)
  assert int(batch.role) == 1
  assert int(batch.microbatches) == 1
  np.testing.assert_allclose(batch.total, sum(r.total for r in rows.rows))
  assert {k: float(v) for k, v in batch.coefficients.items()} == {
    'clip': pytest.approx(0.2),
    'kl': pytest.approx(0.5),
  }
  assert sorted(batch.fields) == ['advantage', 'old_logp']


@pytest.mark.parametrize(
  ('lengths', 'sequences', 'devices', 'shape', 'microbatches'),
  [
    ([8] * 3, 4, 1, (1, 4, 8), 1),
    ([8] * 9, 4, 1, (3, 4, 8), 3),
    ([8] * 9, 4, 8, (2, 8, 8), 2),
    ([8] * 9, 12, 8, (1, 16, 8), 1),
    ([8] * 17, 2, 8, (3, 8, 8), 3),
    ([8, 9], 4, 1, (1, 4, 16), 1),
    ([8, 40], 4, 1, (1, 4, 48), 1),
  ],
)
def test_shapes_come_from_a_small_set(
  lengths, sequences, devices, shape, microbatches
):
  mesh = dist.make_mesh(devices=jax.devices()[:devices])
  shapes = Shapes(8, sequences)
  batch, _ = make_batch(row_set(lengths), 0, mesh, shapes)
  for x in jax.tree.leaves(batch.per_token()):
    assert x.shape == shape
  assert int(batch.microbatches) == microbatches
  filled = np.asarray(batch.segments).any((1, 2))
  assert filled.tolist() == [i < microbatches for i in range(shape[0])]


def test_a_batch_is_split_over_data_and_fsdp(mesh):
  batch, _ = make_batch(row_set([8] * 9), 0, mesh, Shapes(8, 16))
  parts = mesh.shape['data'] * mesh.shape['fsdp']
  for x in jax.tree.leaves(batch.per_token()):
    assert x.sharding.shard_shape(x.shape) == (1, 16 // parts, 8)


def test_no_rows_make_an_empty_batch(mesh):
  batch, places = make_batch(row_set([], {'kl': 1.0}), 0, mesh, Shapes(16, 8))
  assert places == []
  assert float(batch.total) == 0
  assert int(batch.microbatches) == 1
  assert sorted(batch.fields) == ['advantage', 'old_logp']
  for x in jax.tree.leaves(batch.per_token()):
    assert x.shape == (1, 8, 16)
    assert not np.asarray(x).any()
  assert take_rows(batch.weight, places, []) == []


def test_a_microbatch_is_one_of_them():
  mesh = dist.make_mesh(devices=jax.devices()[:1])
  batch, _ = make_batch(row_set([8] * 5), 0, mesh, Shapes(8, 2))
  second = batch.microbatch(jnp.array(1))
  for name, x in batch.per_token().items():
    for whole, part in zip(
      jax.tree.leaves(x),
      jax.tree.leaves(second.per_token()[name]),
      strict=True,
    ):
      np.testing.assert_array_equal(part, np.asarray(whole)[1])
  assert second.total is batch.total


def test_a_batch_row_must_not_be_spread_over_hosts():
  def owned(*hosts):
    return np.array([SimpleNamespace(process_index=h) for h in hosts])

  mesh_module._check_hosts(owned(0, 0, 1, 1).reshape(2, 1, 2))
  mesh_module._check_hosts(owned(0, 1, 2, 3).reshape(2, 2, 1))
  with pytest.raises(ValueError, match=r'mesh.tensor = 2 .* \[0, 1\]'):
    mesh_module._check_hosts(owned(0, 1, 0, 1).reshape(2, 1, 2))


def test_minibatches_deal_the_rows_out_and_share_the_total(mesh):
  rows = row_set([1, 2, 3, 4, 5, 6, 7], {'kl': 0.5})
  parts = make_minibatches(rows, 3, 1, mesh, Shapes(8, 8))
  for i, part in enumerate(parts):
    segments = np.array(part.segments)
    lengths = [
      np.sum(sequence == s)
      for sequence in segments.reshape(-1, 8)
      for s in range(1, sequence.max() + 1)
    ]
    assert sorted(lengths) == [[1, 4, 7], [2, 5], [3, 6]][i]
    assert part.total == pytest.approx(sum(r.total for r in rows.rows) / 3)
    assert (part.role, part.coefficients) == (1, {'kl': 0.5})
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
  np.testing.assert_array_equal(row.tokens_T, [1, 5, 6, 7, 2])
  np.testing.assert_array_equal(row.weight_T, [0, 0, 0, 0.5, 0.5])
  np.testing.assert_array_equal(row.fields['advantage'], [0, 0, 0, 2, 2])
  np.testing.assert_array_equal(row.fields['old_logp'], [0, 0, 0, -1, -2])
  assert row.total == 1.0

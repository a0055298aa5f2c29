"""Snapshots come back bit by bit, and as many are kept as should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from snapshots import assert_equal, make_params, on_mesh, zeros_like

from jaxdistill import dist
from jaxdistill.anchors import Bank
from jaxdistill.batch import Shapes, make_batch
from jaxdistill.checkpoint import pure
from jaxdistill.methods.sft import Sft
from jaxdistill.run.step import OptimizerConfig, init_state, make_step
from jaxdistill.types import Row, RowSet

OPTIMIZER = OptimizerConfig(lr=1e-2)
MESHES = {
  'one device': {'devices': jax.devices()[:1]},
  'data=8': {'data': 8},
  'data=2,fsdp=4': {'data': 2, 'fsdp': 4},
}


def test_a_snapshot_comes_back_bit_by_bit(bank, one_device):
  _, params, _ = make_params()
  params = on_mesh(params, one_device)
  bank.save('base', 0, params)
  bank.wait()
  found = bank.restore('base', 0, zeros_like(params))
  assert jax.tree.structure(found) == jax.tree.structure(params)
  assert_equal(found, params)


@pytest.mark.parametrize(
  ('target', 'part'),
  [('data=2,fsdp=4', (2, 4, 32)), ('one device', (2, 16, 32))],
)
def test_a_snapshot_restores_onto_another_mesh(bank, target, part):
  _, params, _ = make_params()
  bank.save('base', 3, on_mesh(params, dist.make_mesh(**MESHES['data=8'])))
  bank.wait()
  mesh = dist.make_mesh(**MESHES[target])
  like = on_mesh(zeros_like(params), mesh)
  found = bank.restore('base', 3, like)
  assert_equal(found, params)
  for x, wanted in zip(
    jax.tree.leaves(found), jax.tree.leaves(like), strict=True
  ):
    assert x.sharding.is_equivalent_to(wanted.sharding, x.ndim)
  kernel = found.shared['q']['kernel'][...]
  assert kernel.sharding.device_set == set(mesh.devices.flat)
  assert kernel.sharding.shard_shape(kernel.shape) == part


def test_restoring_needs_shapes_only(bank, one_device):
  _, params, _ = make_params()
  params = on_mesh(params, one_device)
  bank.save('base', 0, params)
  bank.wait()
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    params,
  )
  assert_equal(bank.restore('base', 0, like), params)


def test_a_snapshot_that_is_still_being_written_is_waited_for(bank):
  params = {'x': jnp.arange(2**22, dtype=jnp.float32)}
  bank.save('base', 0, params)
  assert_equal(bank.restore('base', 0, zeros_like(params)), params)


def test_what_a_dying_run_took_is_taken_anew(bank):
  bank.forget_from(0)  # nothing yet
  first, second = {'x': jnp.ones(3)}, {'x': jnp.zeros(3)}
  for step in (0, 4, 5):
    bank.save('base', step, first)
    bank.wait()
  bank.forget_from(4)
  assert bank.listing() == 'base@0'
  bank.save('base', 4, second)
  bank.wait()
  assert_equal(bank.restore('base', 4, first), second)
  assert_equal(bank.restore('base', 0, second), first)


def test_one_of_each_name_may_be_kept_of_what_is_forgotten(bank):
  for name in ('base', 'mean'):
    for step in (0, 4, 5, 10):
      bank.save(name, step, {'x': jnp.full(3, step)})
  bank.wait()
  (bank.root / 'base' / '5.orbax-checkpoint-tmp').mkdir()
  bank.forget_from(4, {'base': 5, 'mean': 0, 'other': 4})
  assert bank.listing() == 'base@0 base@5 mean@0'
  assert {p.name for p in (bank.root / 'base').iterdir()} == {
    *('0', '0.json', '5', '5.json')
  }
  found = bank.restore('base', 5, {'x': jnp.zeros(3, jnp.int32)})
  np.testing.assert_array_equal(found['x'], 5)


def test_all_are_kept_by_default(bank):
  for step in (0, 20, 100):
    bank.save('base', step, {'x': jnp.full(3, step)})
    bank.save('best', step + 1, {'x': jnp.full(3, step)})
  bank.wait()
  assert bank.steps('base') == [0, 20, 100]
  assert bank.steps('other') == []
  assert bank.listing() == 'base@0 base@20 base@100 best@1 best@21 best@101'


@pytest.mark.parametrize('keep', [1, 2])
def test_the_newest_are_kept_of_each_name(tmp_path, keep):
  bank = Bank(tmp_path, keep)
  for step in (0, 9, 10, 100):
    for name in ('base', 'best'):
      bank.save(name, step, {'x': jnp.full(3, step)})
      bank.wait()
  kept = [0, 9, 10, 100][-keep:]
  assert bank.steps('base') == kept
  assert bank.steps('best') == kept
  found = bank.restore('base', 100, {'x': jnp.zeros(3, jnp.int32)})
  np.testing.assert_array_equal(found['x'], 100)


def test_what_a_checkpoint_needs_is_kept_besides(tmp_path):
  bank = Bank(tmp_path, keep=1)
  for step in (0, 10, 20, 30):
    bank.save('base', step, {'x': jnp.zeros(3)}, needed_from=10)
    bank.wait()
  assert bank.steps('base') == [10, 20, 30]


def test_a_missing_snapshot_is_said_so_with_those_there_are(bank):
  like = {'x': jnp.zeros(3)}
  with pytest.raises(FileNotFoundError, match='base@7; it has none'):
    bank.restore('base', 7, like)
  for name, step in (('base', 0), ('base', 20), ('best', 5)):
    bank.save(name, step, like)
  bank.wait()
  there = 'it has base@0 base@20 best@5'
  with pytest.raises(FileNotFoundError, match=f'base@7; {there}'):
    bank.restore('base', 7, like)
  with pytest.raises(FileNotFoundError, match=f'best@20; {there}'):
    bank.restore('best', 20, like)


def test_what_a_dying_run_left_behind_is_no_snapshot(bank):
  bank.save('base', 1, {'x': jnp.zeros(3)})
  bank.wait()
  (bank.root / 'base' / '2.orbax-checkpoint-tmp').mkdir()
  assert bank.steps('base') == [1]


def one_batch(mesh):
  draw = np.random.default_rng(5)
  tokens = draw.integers(1, 20, (8, 12)).astype(np.int32)
  rows = [Row(t[:1], t[1:], np.ones(11, np.float32), 11.0) for t in tokens]
  return make_batch(RowSet('solver', rows), 0, mesh, Shapes(16, 8))[0]


def test_a_step_leaves_anchors_alone_and_can_be_undone(bank):
  mesh = dist.make_mesh(**MESHES['data=2,fsdp=4'])
  tokens = jnp.arange(12, dtype=jnp.int32).reshape(2, 6)
  with jax.set_mesh(mesh):
    graphdef, params, frozen = make_params(trainable='lora')
    logits = jax.jit(lambda p: nnx.merge(graphdef, *p, frozen)(tokens, role=0))
    step = make_step(graphdef, Sft().loss, OPTIMIZER)
    state = init_state(params, OPTIMIZER, mesh)
    before = np.array(logits(state.params))
    # As the loop takes an anchor: copied, and saved in the background.
    anchor = jax.tree.map(lambda x: x.copy(), state.params)
    bank.save('base', 0, anchor)
    old = state.params.shared['q']['deltas'][0][0][...]
    for _ in range(2):
      state, _ = step(state, frozen, {}, (one_batch(mesh),))
    assert old.is_deleted()
    assert np.abs(logits(state.params) - before).max() > 1e-2
    np.testing.assert_array_equal(logits(anchor), before)
    assert_equal(anchor, params)  # what the state was made from is whole too
    assert all('.deltas.' in name for name in pure(anchor))  # no trunk

    bank.wait()
    back = state._replace(params=bank.restore('base', 0, state.params))
    np.testing.assert_array_equal(logits(back.params), before)
    for x, y in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
      assert x.sharding.is_equivalent_to(y.sharding, x.ndim)
    again, _ = step(back, frozen, {}, (one_batch(mesh),))
    assert int(again.step) == 3
    assert np.abs(logits(again.params) - before).max() > 1e-3

"""When anchors move, and that their snapshots come back bit by bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import TINY

from jaxdistill import dist
from jaxdistill.anchors import Bank, Rule, parse_rule
from jaxdistill.batch import Shapes, make_batch
from jaxdistill.methods.sft import Sft
from jaxdistill.models import Decoder, Deltas
from jaxdistill.step import (
  OptimizerConfig,
  init_state,
  make_step,
  param_shardings,
  split_params,
)
from jaxdistill.types import Row, RowSet

OPTIMIZER = OptimizerConfig(lr=1e-2)
MESHES = {
  'one device': {'devices': jax.devices()[:1]},
  'data=8': {'data': 8},
  'data=2,fsdp=4': {'data': 2, 'fsdp': 4},
}


pytestmark = pytest.mark.usefixtures('quick_compilation')


@pytest.fixture
def bank(tmp_path):
  bank = Bank(tmp_path / 'anchors')
  yield bank
  bank.wait()


def make_params(seed=0):
  deltas = Deltas(per_role='heads', lora=True, rank=2)
  empty = nnx.eval_shape(lambda: Decoder(TINY, deltas, rngs=nnx.Rngs(0)))
  graphdef, params = split_params(empty, 'lora')
  draw = np.random.default_rng(seed)
  for state in params:
    for _, variable in nnx.to_flat_state(state):
      value = 0.3 * draw.standard_normal(variable.shape)
      variable.set_value(jnp.asarray(value, jnp.float32))
  return graphdef, params


def on_mesh(params, mesh):
  return jax.device_put(params, param_shardings(params, mesh))


def values(tree):
  return [np.array(x) for x in jax.tree.leaves(tree)]


def assert_equal(first, second):
  for a, b in zip(values(first), values(second), strict=True):
    np.testing.assert_array_equal(a, b)


def zeros_like(params):
  def zeros(x):
    return jax.device_put(np.zeros(x.shape, x.dtype), x.sharding)

  return jax.tree.map(zeros, params)


def test_rules_are_read():
  assert parse_rule('frozen') == Rule(0)
  assert parse_rule('every:20') == Rule(20)
  assert parse_rule('every:1') == Rule(1)


@pytest.mark.parametrize(
  'text',
  ['', 'frozen:3', 'every', 'every:', 'every:0', 'every:-1', 'every:2.5', '20'],
)
def test_other_rules_are_refused(text):
  with pytest.raises(ValueError, match='must be frozen or every:K') as error:
    parse_rule(text)
  assert repr(text) in str(error.value)


def test_what_an_anchor_holds_by_hand():
  assert [Rule(0).holds(step) for step in range(5)] == [0] * 5
  assert [Rule(1).holds(step) for step in range(5)] == [0, 1, 2, 3, 4]
  assert [Rule(3).holds(step) for step in range(8)] == [0, 0, 0, 3, 3, 3, 6, 6]


def test_a_snapshot_comes_back_bit_by_bit(bank, one_device):
  _, params = make_params()
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
  _, params = make_params()
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
  kernel = found.frozen['q']['kernel'][...]
  assert kernel.sharding.device_set == set(mesh.devices.flat)
  assert kernel.sharding.shard_shape(kernel.shape) == part


def test_restoring_needs_shapes_only(bank, one_device):
  _, params = make_params()
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
  rows = [Row(t, np.ones(12, np.float32), 12.0) for t in tokens]
  return make_batch(RowSet('solver', rows), 0, mesh, Shapes(16, 8))[0]


def test_a_step_leaves_anchors_alone_and_can_be_undone(bank):
  mesh = dist.make_mesh(**MESHES['data=2,fsdp=4'])
  tokens = jnp.arange(12, dtype=jnp.int32).reshape(2, 6)
  with jax.set_mesh(mesh):
    graphdef, params = make_params()
    logits = jax.jit(lambda p: nnx.merge(graphdef, *p)(tokens, role=0))
    step = make_step(graphdef, Sft().loss, OPTIMIZER)
    state = init_state(params, OPTIMIZER, mesh)
    before = np.array(logits(state.params))
    # As the loop takes an anchor: copied, and saved in the background.
    anchor = jax.tree.map(lambda x: x.copy(), state.params)
    bank.save('base', 0, anchor)
    old = state.params.shared['q']['deltas'][0][0][...]
    for _ in range(2):
      state, _ = step(state, {}, (one_batch(mesh),))
    assert old.is_deleted()
    assert np.abs(logits(state.params) - before).max() > 1e-2
    np.testing.assert_array_equal(logits(anchor), before)
    assert_equal(anchor, params)  # what the state was made from is whole too

    bank.wait()
    back = state._replace(params=bank.restore('base', 0, state.params))
    np.testing.assert_array_equal(logits(back.params), before)
    for x, y in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
      assert x.sharding.is_equivalent_to(y.sharding, x.ndim)
    again, _ = step(back, {}, (one_batch(mesh),))
    assert int(again.step) == 3
    assert np.abs(logits(again.params) - before).max() > 1e-3

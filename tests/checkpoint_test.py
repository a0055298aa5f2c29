"""A run's state on disk: what comes back, and what is not trusted."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import checkpoint, dist
from jaxdistill.checkpoint import Checkpoints, RefusedError


def state_of(step):
  return {
    'params': {'w': jnp.arange(8.0) + step, 'b': jnp.full((2, 4), step)},
    'count': jnp.array(step),
  }


def write(root, *steps, keep=2):
  checkpoints = Checkpoints(root, keep)
  for step in steps:
    checkpoints.save(step, state_of(step), {'seen': np.arange(step)})
  checkpoints.close()
  return Checkpoints(root, keep)


def largest_file(root, step):
  files = [p for p in (root / f'checkpoints/{step}').rglob('*') if p.is_file()]
  return max(files, key=lambda p: p.stat().st_size)


def assert_same(found, wanted):
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def test_the_newest_comes_back(tmp_path):
  checkpoints = write(tmp_path, 2, 4)
  assert checkpoints.newest() == 4
  state, record = checkpoints.restore(4, state_of(0))
  assert_same(state, state_of(4))
  assert record.keys() == {'seen'}
  np.testing.assert_array_equal(record['seen'], np.arange(4))
  assert_same(checkpoints.restore(2, state_of(0))[0], state_of(2))


def test_a_part_is_read_alone_and_onto_another_mesh(tmp_path):
  checkpoints = write(tmp_path, 3)
  mesh = dist.make_mesh(fsdp=8)
  like = {'params': {'w': jnp.zeros(8)}}
  like = jax.device_put(like, dist.sharding(mesh, ('embed',)))
  found, _ = checkpoints.restore(3, like)
  assert_same(found, {'params': {'w': state_of(3)['params']['w']}})
  assert found['params']['w'].sharding.shard_shape((8,)) == (1,)


def test_what_is_not_there_is_named(tmp_path):
  checkpoints = write(tmp_path, 3)
  like = {'params': {'w': jnp.zeros(8), 'scale': jnp.zeros(8)}}
  with pytest.raises(ValueError, match=r"checkpoint 3 .* 'params\.scale'"):
    checkpoints.restore(3, like)


@pytest.mark.parametrize('harm', ['flip', 'cut', 'remove', 'unsealed'])
def test_a_damaged_newest_is_passed_over(tmp_path, harm):
  write(tmp_path, 2, 4)
  path = largest_file(tmp_path, 4)
  data = bytearray(path.read_bytes())
  if harm == 'flip':
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
  elif harm == 'cut':
    path.write_bytes(data[:-1])
  elif harm == 'remove':
    path.unlink()
  else:
    (tmp_path / 'manifests/4.json').unlink()
  checkpoints = Checkpoints(tmp_path)
  assert checkpoints.newest() == 2
  assert_same(checkpoints.restore(2, state_of(0))[0], state_of(2))
  # The run goes on from step 2 and saves step 4 again.
  checkpoints.recover()
  checkpoints.reload()
  checkpoints.forget_after(2)
  checkpoints.save(4, state_of(5), {})
  checkpoints.close()
  again = Checkpoints(tmp_path)
  assert again.newest() == 4
  assert_same(again.restore(4, state_of(0))[0], state_of(5))


def test_nothing_saved_is_none_and_nothing_whole_is_refused(tmp_path):
  assert Checkpoints(tmp_path / 'fresh').newest() is None
  write(tmp_path, 2)
  largest_file(tmp_path, 2).write_bytes(b'')
  with pytest.raises(RefusedError, match=r'no whole .*2: .* has changed'):
    Checkpoints(tmp_path).newest()


def test_old_ones_go_with_their_manifests(tmp_path):
  checkpoints = write(tmp_path, 1, 2, 3, 4, 5, keep=2)
  manifests = {int(p.stem) for p in (tmp_path / 'manifests').iterdir()}
  steps = {int(p.name) for p in (tmp_path / 'checkpoints').iterdir()}
  assert steps == manifests == {3, 4, 5}  # one more than asked for
  assert checkpoints.oldest() == 3


def test_what_cannot_be_kept_is_refused_before_it_is_written(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  with pytest.raises(TypeError, match='set cannot be kept'):
    checkpoints.save(1, state_of(1), {'seen': {1, 2}})
  assert checkpoints.newest() is None


def record_round_trip(record):
  text = checkpoint.to_json(record)
  return json.loads(text, object_hook=checkpoint.from_json)


@pytest.mark.parametrize(
  'array',
  [
    np.arange(6, dtype=np.int64).reshape(2, 3),
    np.arange(6, dtype=np.uint8).reshape(2, 3).T,
    np.arange(10, dtype=np.int32)[::-3],
    np.array([0.1, -0.0, np.inf, 1e-45], np.float32),
    np.array([1e300, np.pi]),
    np.array([True, False]),
    np.array(3.5),
    np.zeros((0, 3), np.float32),
    np.arange(3).astype('>i4'),
  ],
  ids=lambda x: f'{x.dtype}{list(x.shape)}',
)
def test_record_keeps_arrays(array):
  (found,) = record_round_trip({'state': [array]})['state']
  assert isinstance(found, np.ndarray)
  assert found.dtype == array.dtype
  assert found.shape == array.shape
  assert found.tobytes() == array.tobytes()
  assert found.flags.writeable


def test_record_keeps_the_rest():
  record = {
    'method': {'pool': ['47+85', None], 'rates': {'add': 0.1, 'mul': 2}},
    'tokens': np.int64(12345678901),
    'seconds': np.float64(0.1),
    'done': True,
  }
  found = record_round_trip(record)
  assert found == record
  assert type(found['tokens']) is int and type(found['seconds']) is float
  with pytest.raises(TypeError, match='set cannot be kept'):
    record_round_trip({'method': {1, 2}})


@pytest.mark.parametrize(
  'target',
  [{'fsdp': 4, 'tensor': 2}, {'fsdp': 2, 'tensor': 2}, {}],
  ids=['4 by 2', '4 devices', '1 device'],
)
def test_a_run_goes_on_on_other_devices(tmp_path, target):
  def on(mesh, state):
    where = {'w': ('embed',), 'b': ('embed', 'mlp')}
    params = {
      k: jax.device_put(v, dist.sharding(mesh, where[k], v.shape))
      for k, v in state['params'].items()
    }
    return state | {'params': params}

  def add(x):
    return x + 1

  mesh = dist.make_mesh(fsdp=2, tensor=4)
  checkpoints = Checkpoints(tmp_path)
  state = on(mesh, state_of(2))
  assert len(state['params']['b'].sharding.device_set) == 8
  checkpoints.save(2, state, {})
  checkpoints.close()
  devices = int(np.prod([*target.values(), 1]))
  other = dist.make_mesh(**target, devices=jax.devices()[:devices])
  again = Checkpoints(tmp_path)
  found, _ = again.restore(2, on(other, state_of(0)))
  assert_same(found, state_of(2))
  assert found['params']['b'].sharding.mesh.shape == other.shape
  # It goes on, and comes back where it began.
  again.save(3, jax.tree.map(add, found), {})
  again.close()
  back = Checkpoints(tmp_path)
  assert back.newest() == 3
  assert_same(back.restore(3, state)[0], jax.tree.map(add, state_of(2)))

"""Runs and models in object stores that are slow, fail and are cut."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import stores
from checkpoint_test import assert_same, state_of
from checkpoints import make
from loop_test import same, start
from survive_test import brief
from whole_runs import dies_after

from jaxdistill import dist, models, storage
from jaxdistill.anchors import Bank
from jaxdistill.checkpoint import Checkpoints, RefusedError
from jaxdistill.data.tasks import load_task
from jaxdistill.models import remote, store
from jaxdistill.run import lease
from jaxdistill.run.workdir import Workdir
from jaxdistill.storage import absolute

SCHEMES = 'gs', 's3'


@pytest.fixture(scope='module')
def served():
  """Scheme -> a store that is served while these tests run."""
  apps = {'gs': stores.Gcs(), 's3': stores.amazon()}
  apps = {scheme: stores.Faulty(app) for scheme, app in apps.items()}
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('AWS_CONFIG_FILE', '/dev/null')
    patch.setenv('AWS_SHARED_CREDENTIALS_FILE', '/dev/null')
    with (
      stores.serving_at(apps['gs']) as google,
      stores.serving_at(apps['s3']) as amazon,
    ):
      urls = {'gs': google, 's3': amazon}
      for scheme, url in urls.items():
        for name, value in stores.variables(scheme, url).items():
          patch.setenv(name, value)
      yield apps


@pytest.fixture(params=SCHEMES)
def root(request, served):
  """A folder of a store."""
  return absolute(
    f'{request.param}://{stores.BUCKET}/{request.node.originalname}'
  )


@pytest.fixture
def google(request, served):
  """What Google's store holds, and a folder there."""
  folder = absolute(f'gs://{stores.BUCKET}/{request.node.originalname}')
  return served['gs'].app, folder


def copy(source, target):
  for name in storage.files(source):
    data = (source / name).read_bytes()
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    (target / name).write_bytes(data)


def test_files_are_listed_moved_read_and_gone(root):
  assert storage.names(root) == storage.files(root) == []
  storage.remove(root)
  wanted = [f'a/{i:02}.txt' for i in range(9)] + ['b']
  for i, name in enumerate(wanted):
    storage.write_atomically(root / name, 'x' * i)
  assert storage.names(root) == ['a', 'b']
  assert storage.files(root) == wanted
  storage.move(root / 'a', root / 'c/d')
  assert storage.files(root) == ['b', *(f'c/d/{i:02}.txt' for i in range(9))]
  assert storage.size(root / 'c/d/08.txt') == 8
  storage.write_atomically(root / 'b', '0123456789')
  assert storage.read_range(root / 'b', 3, 7) == b'3456'
  with pytest.raises(OSError, match='ends before its byte 11'):
    storage.read_range(root / 'b', 3, 11)
  for name in ('c1/x', 'c10', 'cc'):  # they only begin alike
    storage.write_atomically(root / name, '')
  storage.remove(root / 'c1')
  storage.remove(root / 'c')
  assert storage.files(root) == ['b', 'c10', 'cc']
  assert storage.files(root / 'c') == storage.names(root / 'c') == []
  storage.remove(root / 'c10')
  storage.move(root / 'cc', root / 'd/cc')
  storage.remove(root / 'd')
  assert storage.files(root) == ['b']
  storage.check_writable(root)
  assert storage.files(root) == ['b']


def test_a_large_file_is_read_in_order(google, monkeypatch):
  monkeypatch.setattr(storage, 'BLOCK', 10)
  _, folder = google
  data = bytes(range(256))
  (folder / 'x').write_bytes(data)
  assert list(storage.blocks(folder / 'x')) == [
    data[i : i + 10] for i in range(0, 256, 10)
  ]


def saved(root, *steps):
  bank, checkpoints = Bank(root / 'anchors'), Checkpoints(root, 1)
  for step in steps:
    bank.save('base', step, {'x': jnp.full(10, step)})
    bank.wait()
    needs = [bank.root / f'base/{step}']
    checkpoints.save(step, state_of(step), {'seen': np.arange(step)}, needs)
  checkpoints.close()


def test_what_is_damaged_in_a_store_is_set_aside(root):
  saved(root, 1, 2, 3)
  checkpoints = Checkpoints(root, 1)
  assert checkpoints.recover() == (3, {})
  state, record = checkpoints.restore(3, state_of(0))
  assert_same(state, state_of(3))
  np.testing.assert_array_equal(record['seen'], np.arange(3))
  assert storage.names(root / 'manifests') == ['2.json', '3.json']
  cut = root / 'checkpoints/3/record/metadata'
  cut.write_bytes(cut.read_bytes()[:-3])
  step, damaged = Checkpoints(root, 1).recover()
  assert step == 2 and 'record/metadata has changed' in damaged[3]
  assert '3' not in storage.names(root / 'checkpoints')
  assert {'checkpoints', 'manifests'} <= set(storage.names(root / 'damaged'))
  # A past version that is not what was saved is none.
  flipped = root / 'anchors/base/2/_METADATA'
  flipped.write_text(flipped.read_text().replace('1', '2', 1))
  with pytest.raises(RefusedError, match=r'anchors/base/2/_METADATA has chan'):
    Checkpoints(root).newest()


def test_a_checkpoint_that_is_cut_anywhere_is_not_taken_for_whole(google):
  held, folder = google
  checkpoints = Checkpoints(folder)
  checkpoints.save(1, state_of(1), {})
  checkpoints.seal(wait=True)
  moments, put = [dict(held.objects)], held.put

  def recorded(name, data):
    about = put(name, data)
    moments.append(dict(held.objects))
    return about

  held.put = recorded
  checkpoints.save(2, state_of(2), {})
  checkpoints.close()
  held.put, found = put, []
  assert len(moments) > 12
  for objects in (*moments[:-2:2], *moments[-2:]):  # killed just then
    held.objects = dict(objects)
    checkpoints = Checkpoints(folder)
    step, damaged = checkpoints.recover()
    assert not damaged
    found.append(step)
    if step == 1:
      checkpoints.forget_after(1)
      assert storage.names(folder / 'checkpoints') == ['1']
  assert found[-1] == 2 and {*found[:-1]} == {1}


def lines(root):
  text = (absolute(root) / 'metrics.jsonl').read_text()
  return [
    {
      k: v
      for k, v in json.loads(line).items()
      if not k.startswith('time') and not k.endswith('_per_s')
    }
    for line in text.splitlines()
  ]


def test_a_run_that_was_cut_ends_the_same_though_requests_fail(
  served, mesh, tmp_path
):
  config = brief(anchors={'past': 'every:2'}, checkpoint_every=2)
  whole = start(config, tmp_path)
  whole.train()
  roots = [absolute(f'{x}://{stores.BUCKET}/run') for x in SCHEMES]
  loop = start(config, roots[0])
  dies_after(loop, 3)
  copy(*roots)
  google = served['gs']
  google.delay, google.fail = 0.01, 0.03
  for root in roots:
    again = start(config, root)
    assert again.first_step == 2
    again.train()
    assert same(whole.state, again.state)
    assert lines(tmp_path) == lines(root)
    assert 'lock' not in storage.names(root)
    google.delay = google.fail = 0.0
  assert google.failed > 3


# Who runs there.


@pytest.fixture
def quick(monkeypatch):
  monkeypatch.setattr(lease, 'BEAT', 0.2)
  monkeypatch.setattr(lease, 'PATIENCE', 8)
  monkeypatch.setattr(lease, 'SETTLE', 0.05)


def test_who_runs_in_a_store_keeps_others_out(google, quick, capsys):
  _, folder = google
  first, second = Workdir(folder), Workdir(folder)
  first.lock()
  with pytest.raises(RefusedError, match=r'is in use by process \d+ on'):
    second.lock()
  with pytest.raises(RefusedError, match='is in use by'):
    Workdir(folder).free()
  first.close()
  assert storage.names(folder) == []
  second.free()
  second.lock()
  second.close()


@pytest.mark.parametrize('beats', [True, False])
def test_a_dead_one_is_waited_for_and_ends_if_it_was_not(
  google, quick, capsys, beats
):
  _, folder = google
  first, second = Workdir(folder), Workdir(folder)
  first.lock()
  first._lock._ended.set()  # it hangs
  second.lock()
  assert 'waiting up to' in capsys.readouterr().err
  first._lock._ended.clear()
  if beats:
    first._lock._beat()  # and is back
  with pytest.raises(RefusedError, match=r'taken over by process \d+ on'):
    first.log(0, {})
  first.close()
  assert 'lock' in storage.names(folder)
  second.log(0, {'train/loss': 1.0})
  second.close()


def test_a_dead_process_of_this_machine_is_not_waited_for(google, capsys):
  _, folder = google
  held = lease.Lease(folder / 'lock')
  gone = subprocess.Popen([sys.executable, '-c', ''])
  gone.wait()
  held._mine['pid'] = gone.pid
  held._write()
  lease.clear(folder / 'lock')
  assert storage.names(folder) == [] and not capsys.readouterr().err


# What is read there.


def test_a_model_in_a_store_is_the_one_on_the_disk(google, tmp_path):
  _, folder = google
  make(tmp_path / 'model', 'qwen2', shard='50KB')
  copy(absolute(tmp_path / 'model'), folder)
  mesh = dist.make_mesh(fsdp=4, tensor=2)
  there = models.load(str(folder), mesh=mesh)
  here = models.load(str(tmp_path / 'model'), mesh=mesh)
  assert there.sha256 == here.sha256
  pairs = zip(*map(jax.tree.leaves, (there.model, here.model)), strict=True)
  for a, b in pairs:
    np.testing.assert_array_equal(a, b)
  name = next(x for x in storage.files(folder) if x.endswith('.safetensors'))
  data = (folder / name).read_bytes()
  (folder / name).write_bytes(data[:-1])
  with pytest.raises(ValueError, match=r'safetensors is damaged: it has'):
    store.check(str(folder))


def test_only_the_rows_that_are_wanted_are_fetched(google, tmp_path):
  held, folder = google
  values = {'a': np.arange(6000.0).reshape(100, 60), 'b': np.array(3.0)}
  (folder / 'x').write_bytes(safetensors.numpy.save(values))
  tensors, sent = remote.RemoteTensors(folder / 'x'), held.sent
  part = tensors.get_slice('a')[slice(20, 30), slice(5, 9)]
  np.testing.assert_array_equal(part, values['a'][20:30, 5:9])
  assert held.sent - sent == 10 * 60 * 8
  assert tensors.get_slice('b')[()] == 3
  assert tensors.get_slice('a')[:, slice(None)].shape == (100, 60)


def test_a_task_in_a_store_is_that_on_the_disk(google, tmp_path):
  text = '{"text": "1+1", "answer": "2"}\n{"text": "2+2", "answer": "4"}\n'
  _, folder = google
  (folder / 'lines.jsonl').write_text(text)
  (problem, other) = load_task(str(folder / 'lines.jsonl')).problems('train')
  assert {problem.answer, other.answer} == {'2', '4'}


@pytest.mark.parametrize(
  ('workdir', 'why'),
  [
    ('gs://nobody/run', 'gs://nobody/run cannot be reached'),
    ('s3://nobody/run', 's3://nobody/run cannot be reached'),
    ('s3://bucket', 's3://bucket must be s3://BUCKET/FOLDER'),
    ('az://bucket/run', 'az://bucket/run is in no store that is known'),
    ('gs://bucket/r[1]', 'gs://bucket/r[1] must do without'),
  ],
)
def test_a_store_that_is_not_reached_is_one_line(served, refused, workdir, why):
  config = str(pathlib.Path(__file__).parents[1] / 'configs/pretrain_small.py')
  train = 'train', '--config', config, '--workdir', workdir
  assert why in refused(*train, '--config.model=small-fresh')


def test_a_package_that_is_missing_is_named(monkeypatch):
  def missing(scheme):
    raise ImportError('Install s3fs to access S3')

  monkeypatch.setattr(storage, '_stores', missing)
  with pytest.raises(ValueError, match=r"needs s3fs: pip install 'jaxdistill"):
    storage.check_store('s3://bucket/run')

"""What a run outlives, and what it refuses in one line."""

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare_test import ARMS
from etils import epath
from loop_test import lines, same, small, start
from whole_runs import dies_after

from jaxdistill.anchors import Bank
from jaxdistill.checkpoint import (
  Checkpoints,
  RefusedError,
  failing_as_os_error,
)
from jaxdistill.cli.main import main
from jaxdistill.run.stopping import Stopped
from jaxdistill.run.workdir import Workdir

CONFIG = pathlib.Path(__file__).parents[1] / 'configs/pretrain_small.py'


def brief(**changes):
  """A run that compiles quickly and has all that can be lost."""
  config = small('sft', model='small-fresh', checkpoint_every=1)
  config.anchors = {'past': 'every:2', 'mean': 'ema:0.5'}
  config.eval.problems, config.eval.splits = 2, ('test',)
  config.update(changes)
  return config


def largest(folder):
  files = [p for p in folder.rglob('*') if p.is_file()]
  return max(files, key=lambda p: p.stat().st_size)


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def cut(path):
  path.write_bytes(path.read_bytes()[:-3])


def empty(path):
  path.write_bytes(b'')


def remove(path):
  path.unlink()


HARMS = (flip, cut, empty, remove)


def ended_alike(left, right, whole, other):
  assert same(left.state, right.state)
  assert same(left.anchors.params, right.anchors.params)
  assert left.method_state == right.method_state
  assert lines(whole) == lines(other)
  texts = [
    {p.name: p.read_text() for p in (x / 'rollouts').glob('*')}
    for x in (whole, other)
  ]
  assert texts[0] == texts[1]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """An uninterrupted run, and its folder."""
  from jaxdistill import dist

  make_mesh, patch = dist.make_mesh, pytest.MonkeyPatch()
  one = jax.devices()[:1]
  patch.setattr(dist, 'make_mesh', lambda **x: make_mesh(**x, devices=one))
  folder = tmp_path_factory.mktemp('whole')
  loop = start(brief(), folder)
  with jax.set_mesh(loop.run.mesh):
    loop.train()
  patch.undo()
  return loop, folder


# Past versions.


@pytest.mark.parametrize('harm', HARMS, ids=lambda x: x.__name__)
@pytest.mark.parametrize('what', ['arrays', 'hashes'])
def test_a_damaged_past_version_is_not_restored(tmp_path, harm, what):
  bank, like = Bank(tmp_path), {'x': jnp.arange(1000.0)}
  bank.save('base', 3, like)
  bank.wait()
  snapshot, seal = tmp_path / 'base/3', tmp_path / 'base/3.json'
  harm(largest(snapshot) if what == 'arrays' else seal)
  with pytest.raises(RefusedError, match=r'base/3.*(changed|missing|damaged)'):
    Bank(tmp_path).restore('base', 3, like)


def test_a_past_version_counts_once_it_has_its_hashes(tmp_path):
  bank = Bank(tmp_path, keep=2)
  for step in range(4):
    bank.save('base', step, {'x': jnp.full(3, step)})
  bank.wait()
  assert bank.steps('base') == [2, 3]
  assert {p.name for p in (tmp_path / 'base').iterdir()} == {
    *('2', '2.json', '3', '3.json')
  }
  (tmp_path / 'base/3.json').unlink()
  assert bank.listing() == 'base@2'


# Checkpoints.


def saved(root, *steps):
  bank, checkpoints = Bank(root / 'anchors'), Checkpoints(root)
  for step in steps:
    bank.save('base', step, {'x': jnp.full(100, step)})
    bank.wait()
    checkpoints.save(
      step, {'x': jnp.full(100, step)}, {}, [bank.root / f'base/{step}']
    )
  checkpoints.close()
  return Checkpoints(root)


def tree(root):
  return {str(p.relative_to(root)) for p in root.rglob('*') if p.is_file()}


@pytest.mark.parametrize('harm', HARMS, ids=lambda x: x.__name__)
@pytest.mark.parametrize('what', ['record', 'anchor', 'hashes', 'manifest'])
def test_what_is_damaged_is_set_aside(tmp_path, harm, what):
  saved(tmp_path, 2, 4)
  path = {
    'record': tmp_path / 'checkpoints/4/record/metadata',
    'anchor': largest(tmp_path / 'anchors/base/4'),
    'hashes': tmp_path / 'anchors/base/4.json',
    'manifest': tmp_path / 'manifests/4.json',
  }[what]
  before = tree(tmp_path)
  harm(path)
  checkpoints = Checkpoints(tmp_path)
  step, damaged = checkpoints.recover()
  assert step == 2
  if what == 'manifest' and harm == remove:
    assert not damaged  # as a run leaves it that dies before the manifest
    return
  assert list(damaged) == [4] and '/4' in damaged[4]
  after = tree(tmp_path)
  kept = {x.removeprefix('damaged/') for x in after}
  gone = {str(path.relative_to(tmp_path))} if harm == remove else set()
  assert kept == before - gone
  assert any(x.startswith('damaged/checkpoints/4/') for x in after)
  assert not any(x.startswith('checkpoints/4/') for x in after)
  checkpoints.reload()
  assert checkpoints.newest() == 2
  # Twice at the same step: neither is lost.
  Bank(tmp_path / 'anchors').forget_from(4)
  again = saved(tmp_path, 4)
  flip(largest(tmp_path / 'checkpoints/4'))
  assert again.recover()[0] == 2
  assert (tmp_path / 'damaged/checkpoints/4.1').is_dir()


@pytest.mark.parametrize('harm', HARMS, ids=lambda x: x.__name__)
def test_without_a_whole_one_nothing_is_touched(tmp_path, harm):
  saved(tmp_path, 2, 4)
  for step in (2, 4):
    harm(largest(tmp_path / f'checkpoints/{step}'))
  before = tree(tmp_path)
  with pytest.raises(RefusedError) as e:
    Checkpoints(tmp_path).recover()
  (line,) = str(e.value).splitlines()
  assert 'checkpoints/2/' in line and 'checkpoints/4/' in line
  assert 'start over' in line
  assert tree(tmp_path) == before


def test_only_the_newest_may_lack_its_manifest(tmp_path):
  saved(tmp_path, 2, 4)
  for path in (tmp_path / 'manifests').iterdir():
    path.unlink()
  with pytest.raises(RefusedError, match=r'manifests/2\.json is missing'):
    Checkpoints(tmp_path).recover()


# Runs.


def test_what_a_dying_run_left_does_not_stay(mesh, tmp_path, whole):
  uncut, folder = whole
  config = brief()
  loop = start(config, tmp_path)
  dies_after(loop, 3)
  # Of a save that was cut, of a later end, of half a line.
  for path in ('checkpoints/4.orbax-checkpoint-tmp', 'anchors/mean/4.tmp'):
    (tmp_path / path).mkdir(parents=True)
    (tmp_path / path / 'some').write_text('some')
  (tmp_path / 'manifests/9.json').write_text('{}')
  (tmp_path / 'summary.json').write_text('{}')
  (tmp_path / 'rollouts').mkdir()
  (tmp_path / 'rollouts/000003.jsonl').write_text('{}')
  (tmp_path / 'anchors/mean/3.json.partial').write_text('{')
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 4, "train/lo')
  again = start(config, tmp_path)
  assert again.first_step == 3
  with pytest.raises(RefusedError, match=f'in use by process {os.getpid()} on'):
    start(config, tmp_path)
  again.train()
  (folder / 'rollouts').mkdir(exist_ok=True)
  ended_alike(uncut, again, folder, tmp_path)
  left = {'tmp' in x or 'partial' in x for x in tree(tmp_path)}
  assert left == {False}
  assert json.loads((tmp_path / 'summary.json').read_text())['seed'] == 0


def test_a_damaged_anchor_costs_one_checkpoint(mesh, tmp_path, whole, capsys):
  config = brief()
  loop = start(config, tmp_path)
  loop.train()
  flip(largest(tmp_path / 'anchors/mean/4'))
  again = start(config, tmp_path)
  assert again.first_step == 3
  (line,) = capsys.readouterr().err.splitlines()[-1:]
  assert line.startswith(f'checkpoint 4 of {tmp_path} is damaged')
  assert 'anchors/mean/4/' in line and str(tmp_path / 'damaged') in line
  again.train()
  assert same(whole[0].state, again.state)
  assert lines(whole[1]) == lines(tmp_path)


def test_asked_to_stop_it_saves_and_goes_on(mesh, tmp_path, whole):
  config = brief(checkpoint_every=10)
  loop = start(config, tmp_path)
  update = loop.update

  def asked(*args):
    os.kill(os.getpid(), signal.SIGTERM)
    loop.update = update
    return update(*args)

  loop.update = asked
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(Stopped, match='saved at step 1'):
    loop.train()
  assert signal.getsignal(signal.SIGTERM) == before
  again = start(config, tmp_path)
  assert again.first_step == 1
  again.train()
  assert same(whole[0].state, again.state)
  assert lines(whole[1]) == lines(tmp_path)


def test_a_request_may_come_twice_and_an_impatient_one_ends_it():
  """By the machine and by whoever began it; later on it is meant."""
  stuck = (
    'import ctypes, os, signal, sys, time\n'
    'from jaxdistill.run import stopping\n'
    'stopping.SAME = 0.5\n'
    'with stopping.asked_to_stop() as stop:\n'
    '  for _ in range(2):\n'
    '    os.kill(os.getpid(), signal.SIGTERM)\n'
    '  print(stop(0), flush=True)\n'
    '  ctypes.CDLL(None).sleep(60)  # no Python runs\n'
  )
  process = subprocess.Popen(
    [sys.executable, '-c', stuck], stdout=subprocess.PIPE, text=True
  )
  try:
    assert process.stdout and process.stdout.readline() == 'True\n'
    with pytest.raises(subprocess.TimeoutExpired):
      process.wait(1)
    process.terminate()
    assert process.wait(10) == -signal.SIGTERM
  finally:
    process.kill()


def full(*args, **kwargs):
  raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'the/file')


def orbax_full(*args, **kwargs):
  raise ValueError('RESOURCE_EXHAUSTED: writing: No space left on device [x]')


FULL = {
  'events': ('jaxdistill.run.board.EventsWriter.write_event', full),
  'hashes': ('jaxdistill.anchors.bank.write_atomically', full),
  'manifest': ('jaxdistill.storage.write_atomically', full),
  'orbax': ('orbax.checkpoint.CheckpointManager.save', orbax_full),
  'orbax_later': (
    *('orbax.checkpoint.CheckpointManager.wait_until_finished', orbax_full),
  ),
}


@pytest.mark.parametrize('where', FULL)
def test_a_full_disk_ends_a_run_and_harms_nothing(
  mesh, tmp_path, monkeypatch, whole, where
):
  config = brief()
  loop = start(config, tmp_path)
  log = loop.workdir.log

  def fills(step, metrics):
    if step == 2:
      monkeypatch.setattr(*FULL[where])
    log(step, metrics)

  loop.workdir.log = fills
  with pytest.raises(OSError) as e:
    loop.train()
  assert e.value.errno == errno.ENOSPC
  monkeypatch.undo()
  monkeypatch.setattr('jaxdistill.dist.make_mesh', lambda **_: loop.run.mesh)
  again = start(config, tmp_path)
  assert again.first_step in (1, 2, 3)
  again.train()
  assert same(whole[0].state, again.state)
  assert lines(whole[1]) == lines(tmp_path)


def test_only_a_full_disk_is_one():
  folder = epath.Path('x')
  with pytest.raises(ValueError, match='shapes'), failing_as_os_error(folder):
    raise ValueError('shapes differ')


# The folder.


def test_a_lock_goes_with_its_process(tmp_path):
  hold = (
    'import sys, time\n'
    'from jaxdistill.run.workdir import Workdir\n'
    'held = Workdir(sys.argv[1])\n'
    'held.lock()\n'
    'print("held", flush=True)\n'
    'time.sleep(60)\n'
  )
  other = subprocess.Popen(
    [sys.executable, '-c', hold, tmp_path], stdout=subprocess.PIPE, text=True
  )
  try:
    assert other.stdout and other.stdout.readline() == 'held\n'
    workdir = Workdir(tmp_path)
    for ask in (workdir.free, workdir.lock):
      with pytest.raises(RefusedError, match=f'in use by process {other.pid} '):
        ask()
  finally:
    other.kill()
    other.wait()
  workdir.free()
  workdir.lock()
  with pytest.raises(RefusedError):
    Workdir(tmp_path).lock()
  workdir.close()
  Workdir(tmp_path).free()


def test_a_run_that_cannot_begin_lets_others_in(mesh, tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    patch.setattr('jaxdistill.run.loop.Guard', full)
    with pytest.raises(OSError):
      start(brief(), tmp_path)
  start(brief(), tmp_path).workdir.close()


@pytest.mark.parametrize('text', ['', '{"seed": 1', '[]', '\0\0\0'])
def test_a_damaged_config_is_named(tmp_path, text):
  (tmp_path / 'config.json').write_text(text)
  with pytest.raises(RefusedError, match=r'config\.json is damaged'):
    Workdir(tmp_path).claim({'seed': 1})


def test_a_lost_line_of_metrics_is_told(tmp_path, capsys):
  workdir = Workdir(tmp_path)
  rows = [json.dumps({'step': i, 'x': 0.5}) for i in range(4)]
  rows[1] = rows[1].replace('{', '\0')
  (tmp_path / 'metrics.jsonl').write_text('\n'.join(rows) + '\n')
  workdir.open(4)
  workdir.close()
  assert [x['step'] for x in workdir.metrics()] == [0, 2, 3]
  assert 'it has 3 of the 4 lines' in capsys.readouterr().err


# The command.


def train(folder, *more):
  sets = ('steps=2', 'eval.problems=2', 'task=small', 'method.problems=2')
  sets = (*sets, 'guard.problems=2', 'checkpoint_every=1', *more)
  sets = [f'--config.{x}' for x in sets]
  return main(
    ['train', '--config', str(CONFIG), '--workdir', str(folder), *sets]
  )


def test_a_foreign_folder_is_refused_before_a_model_is_loaded(
  mesh, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr('jaxdistill.config.build', None)
  (tmp_path / 'letter.txt').write_text('Dear')
  assert train(tmp_path) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert 'is not empty and holds no run' in line and 'letter.txt' in line
  assert [p.name for p in tmp_path.iterdir()] == ['letter.txt']
  Workdir(tmp_path / 'other').claim({'seed': 9})
  assert train(tmp_path / 'other') == 2
  assert 'holds a run of another config' in capsys.readouterr().err
  held = Workdir(tmp_path / 'held')
  held.lock()
  assert train(tmp_path / 'held') == 2
  assert 'is in use by process' in capsys.readouterr().err
  held.close()


def test_a_comparison_says_who_is_at_work(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr('jaxdistill.config.build', None)
  (tmp_path / 'arms.py').write_text(ARMS)
  held = Workdir(tmp_path / 'w/dapo/1')
  held.lock()
  paths = ['--config', str(tmp_path / 'arms.py')]
  paths += ['--workdir', str(tmp_path / 'w')]
  assert main(['compare', *paths, '--arms', 'dapo']) == 2
  *_, line = capsys.readouterr().err.splitlines()
  assert f'w/dapo/1 is in use by process {os.getpid()} on' in line
  assert 'other --arms or --seeds' in line
  held.close()


def test_each_end_of_a_run_is_one_line(mesh, tmp_path, capsys, monkeypatch):
  """A full disk, a request to stop, damage: exit codes 1, 75 and 2."""
  run = tmp_path / 'run'
  with monkeypatch.context() as patch:
    patch.setattr(*FULL['events'])
    assert train(run) == 1
  *_, line = capsys.readouterr().err.splitlines()
  assert line == (
    'jaxdistill: the/file: no space left on device; make room, and the same '
    'command goes on from its newest checkpoint'
  )

  def asked(self, step):
    os.kill(os.getpid(), signal.SIGTERM)
    return {}

  with monkeypatch.context() as patch:
    patch.setattr('jaxdistill.run.loop.Loop._train_step', asked)
    assert train(run) == os.EX_TEMPFAIL == 75
  *_, line = capsys.readouterr().out.splitlines()
  assert line == (
    f'jaxdistill: stopped as asked; {run} is saved at step 1; the same command '
    'goes on from its newest checkpoint'
  )
  assert train(run) == 0
  assert f'{run} goes on from step 1.' in capsys.readouterr().out

  ask = ['export', '--workdir', str(run), '--to', str(tmp_path / 'out')]
  flip(largest(run / 'anchors/past/0'))
  assert main([*ask, '--anchor', 'past@0']) == 2
  *_, line = capsys.readouterr().err.splitlines()
  assert 'a past version is damaged' in line and 'anchors/past/0/' in line

  flip(largest(run / 'checkpoints/2'))
  assert main(ask) == 0
  *_, line = capsys.readouterr().err.splitlines()
  assert line.startswith('checkpoint 2 is damaged (')
  flip(largest(run / 'checkpoints/1'))
  for words in ([*ask[:-1], str(tmp_path / 'more')], None):
    assert (main(words) if words else train(run)) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert 'has no whole checkpoint left (2: ' in line and 'start over' in line
  assert not (run / 'damaged').exists()


def test_numbers_are_read_back(tmp_path):
  """The events file holds what was logged; written without a thread."""
  from tensorboardX.proto import event_pb2

  workdir = Workdir(tmp_path)
  workdir.open(0)
  workdir.log(3, {'train/loss': 0.5, 'time': 2.0})
  workdir.close()
  (path,) = tmp_path.glob('events.*')
  data, events = path.read_bytes(), []
  while data:
    n = int(np.frombuffer(data[:8], np.uint64)[0])
    events.append(event_pb2.Event.FromString(data[12 : 12 + n]))
    data = data[16 + n :]
  values = {v.tag: v.simple_value for e in events for v in e.summary.value}
  assert values == {'train/loss': 0.5, 'time': 2.0}
  assert events[-1].step == 3

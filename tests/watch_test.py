"""A process that is gone, or has failed, is named to the others, which end."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from jaxdistill import dist
from jaxdistill.cli import main
from jaxdistill.dist import forward, watch

WORKER = pathlib.Path(__file__).with_name('watch_worker.py')


class Store:
  """What the coordination service keeps."""

  def __init__(self):
    self.kept, self.down = {}, False

  def key_value_set(self, key, value, allow_overwrite=False):
    if self.down or (key in self.kept and not allow_overwrite):
      raise RuntimeError('ALREADY_EXISTS' * (not self.down))
    self.kept[key] = value

  def key_value_dir_get(self, key):
    if self.down:
      raise RuntimeError('it does not answer')
    return [(k, v) for k, v in [*self.kept.items()] if k.startswith(key)]

  def blocking_key_value_get(self, key, timeout_in_ms):
    return self.kept[key]


class Group:
  """Processes of one run that are threads here; how each ended, and when."""

  def __init__(self, count):
    self.store, self.codes = Store(), {}
    self.all = [
      watch.Watch(self.store, i, count, 'do it again') for i in range(count)
    ]
    for i, each in enumerate(self.all):
      each.host = each.host + f'-{i}'
      each._first = self.all[0].host
      each._says(0)

  def start(self, *which):
    for i in which:
      for work in self.all[i]._ask, self.all[i]._judge:
        threading.Thread(target=self.run, args=(i, work), daemon=True).start()

  def run(self, i, work):
    ENDING.i, ENDING.group = i, self
    with contextlib.suppress(SystemExit):
      work()

  def until(self, *ended):
    end = time.monotonic() + 10
    while {*self.codes} != {*ended} and time.monotonic() < end:
      time.sleep(0.01)
    assert {*self.codes} == {*ended}
    return {self.codes[i] for i in ended}


ENDING = threading.local()


@pytest.fixture
def group(monkeypatch):
  """Makes groups in which two seconds are sixty."""

  def end(code):
    ENDING.group.codes[ENDING.i] = code
    raise SystemExit  # of the thread

  monkeypatch.setattr(watch, '_exit', end)
  monkeypatch.setattr(watch, 'BEAT', 0.05)
  monkeypatch.setattr(watch, 'SILENT', 2.0)
  monkeypatch.setattr(watch, 'CLOSING', 0.2)
  monkeypatch.setattr(watch, '_GRACE', 0.3)
  monkeypatch.setattr(watch, '_LOOK', 0.02)
  made = []

  def make(count):
    made.append(Group(count))
    return made[-1]

  yield make
  for each in made:
    for one in each.all:
      one._left.set()


HOST = socket.gethostname()


def test_all_name_the_one_that_is_silent(group, capsys):
  three = group(3)
  three.start(0, 2)
  assert three.until(0, 2) == {69}
  line = f'jaxdistill: process 1 at {HOST}-1 is gone (silent for 2 s)'
  assert capsys.readouterr().err.splitlines() == [f'{line}; do it again'] * 2


def test_who_was_held_for_gone_ends_too(group):
  """Stopped for a while, and going on when the others are ending."""
  two = group(2)
  two.all[0]._announce(watch.Verdict(1, 'there', 69, 'silent'))
  two.start(0, 1)
  assert two.until(0, 1) == {69}


def test_several_that_are_silent_are_named(group, capsys):
  three = group(3)
  three.start(0)
  assert three.until(0) == {69}
  line = f'process 1 at {HOST}-1 is gone (silent for 2 s, as are 2 at {HOST}-2)'
  assert line in capsys.readouterr().err


def test_a_service_that_does_not_answer_is_process_0(group, capsys):
  three = group(3)
  three.start(1, 2)
  three.store.down = True
  assert three.until(1, 2) == {69}
  line = f'jaxdistill: process 0 at {HOST}-0 is gone (silent for 2 s)'
  assert capsys.readouterr().err.splitlines() == [f'{line}; do it again'] * 2


def test_who_has_left_is_not_missed(group):
  three = group(3)
  three.start(0, 1, 2)
  three.all[2].leave()
  three.all[1].leave()
  time.sleep(2.4)
  assert not three.codes and three.all[0].verdict is None


@pytest.mark.parametrize('process', [0, 2])
def test_an_error_of_one_ends_all_by_its_code(group, capsys, process):
  three = group(3)
  three.start(0, 1, 2)
  others = {0, 1, 2} - {process}
  three.all[process].ended(2, 'no such key')
  assert three.until(*others) == {2}
  line = f'process {process} at {HOST}-{process} has ended: no such key'
  assert capsys.readouterr().err.splitlines() == [f'jaxdistill: {line}'] * 2
  # The one that failed does not wait for the others, which do not come.
  ENDING.i, ENDING.group = process, three
  with pytest.raises(SystemExit):
    three.all[process].leave()
  assert three.codes[process] == 2


def test_what_all_meet_is_said_by_each_itself(group, capsys):
  two = group(2)
  two.start(0, 1)
  said = [threading.Thread(target=x.ended, args=(2, 'no')) for x in two.all]
  for thread in said:
    thread.start()
  time.sleep(0.6)
  assert not two.codes and capsys.readouterr().err == ''


def test_who_fails_of_another_waits_until_it_is_named(group, capsys):
  """The one that a collective has failed of is not to blame."""
  three = group(3)
  three.start(0, 1)
  failing = threading.Thread(
    target=three.all[1].ended, args=(1, 'Gloo AllGather failed: closed')
  )
  failing.start()
  assert three.until(0, 1) == {69}
  assert 'process 1' not in capsys.readouterr().err
  failing.join()


def test_an_error_is_told_though_closing_waits_for_others(group, capsys):
  two = group(2)
  two.start(0, 1)
  with two.all[1].closing(TypeError('a bug\nindeed')):
    assert two.until(0, 1) == {1}
  err = capsys.readouterr().err
  assert f'process 1 at {HOST}-1 has ended: TypeError: a bug\n' in err


def test_a_connection_outlives_the_service():
  with socket.create_server(('127.0.0.1', 0)) as server:
    way = forward.Forward(f'127.0.0.1:{server.getsockname()[1]}')
    with socket.create_connection(('127.0.0.1', way.port), 5) as here:
      there, _ = server.accept()
      here.sendall(b'x' * 100_000)
      got = b''
      while len(got) < 100_000:
        got += there.recv(65_536)
      there.sendall(b'well')
      assert here.recv(9) == b'well' and not way.closed
      there.close()
      here.settimeout(0.3)
      with pytest.raises(TimeoutError):  # it would have been closed
        here.recv(9)
      assert way.closed
      way.release()
      here.settimeout(5)
      assert here.recv(9) == b''


def launched(coordinator, count, process, joining=60):
  words = [coordinator, count, process, 8, 0.3, joining]
  return subprocess.Popen(
    [sys.executable, '-W', 'ignore', WORKER, *map(str, words)],
    env=os.environ | {'XLA_FLAGS': ''},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def run(count, victim):
  """The codes of processes one of which is killed, and what they said."""
  with socket.socket() as s:
    s.bind(('localhost', 0))
    coordinator = f'localhost:{s.getsockname()[1]}'
  all_ = [launched(coordinator, count, i) for i in range(count)]
  try:
    line = ''
    while line != 'met\n':
      line = all_[0].stdout.readline()
      assert line
    all_[victim].send_signal(signal.SIGKILL)
    said = [p.communicate(timeout=60)[1] for p in all_]
  finally:
    for p in all_:
      p.kill()
  return [p.returncode for p in all_], [
    [x for x in text.splitlines() if not x.startswith('[Gloo]')]
    for text in said
  ]


@pytest.mark.parametrize(
  ('count', 'victim', 'why'),
  [(3, 1, 'silent for 8 s'), (2, 0, 'it closed its connection')],
)
def test_a_killed_process_is_one_line_of_the_others(count, victim, why):
  codes, said = run(count, victim)
  line = f'jaxdistill: process {victim} at {HOST} is gone ({why}); start again'
  for i in {*range(count)} - {victim}:
    assert (codes[i], said[i]) == (69, [line])


def test_who_is_alone_says_so():
  with socket.create_server(('127.0.0.1', 0)) as server:
    port = server.getsockname()[1]  # where nobody is from now on
  alone = launched(f'127.0.0.1:{port}', 2, 1, joining=2)
  said = alone.communicate(timeout=60)[1]
  line = f'jaxdistill: process 0 cannot be reached at 127.0.0.1:{port}, in 2 s'
  assert (alone.returncode, said) == (69, f'{line}; start again\n')


def test_refusals_say_what_kind_they_are():
  from jaxdistill.dist.hosts import _as_text, _from_text

  for error in ValueError('no'), OSError('no'):
    assert isinstance(_from_text(_as_text(error)), ValueError)
  bug = _from_text(_as_text(TypeError('no')), 'there: ')
  assert isinstance(bug, RuntimeError) and str(bug) == 'there: TypeError: no'
  assert json.loads(_as_text(TypeError('no'))) == [False, 'TypeError: no']
  dist.ended(1, 'alone')  # nobody is told, and nobody waited for


def test_who_lost_another_is_not_taken_for_one_that_has_saved():
  """Or a host that fails each time would begin for ever."""
  assert watch.GONE not in (0, main.WRONG, main.GOES_ON, main.FAILED)

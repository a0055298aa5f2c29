"""Who runs in a folder of an object store, where nothing can be locked.

A run writes its name there again and again. Who finds one there waits to see
whether it is written again: if so, that run goes on, and he is refused; if not,
it has died, and the folder is his. A run that finds another's name in the place
of its own has been taken for dead, and ends.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from typing import Any

from etils import epath

from jaxdistill import storage
from jaxdistill.checkpoint import RefusedError

BEAT = 10.0  # seconds between two times that it is written
PATIENCE = 3  # beats without one, and it counts as dead
SETTLE = 1.0  # seconds after which the last of several who write it has it


class Lease:
  """One run's hold on a folder.

  Args:
    path: The object that says so.
  """

  def __init__(self, path: epath.Path):
    self._path = path
    since = time.strftime('%Y-%m-%d %H:%M:%S')
    who = f'process {os.getpid()} on {socket.gethostname()}, {since}'
    self._mine = {'token': uuid.uuid4().hex, 'who': who, 'pid': os.getpid()}
    self._mine |= {'machine': _machine()}
    self._beats, self._taken_by, self._written = 0, '', 0.0
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._beat, daemon=True)

  def take(self) -> None:
    """Takes hold of the folder, at once if nobody has it.

    Raises:
      RefusedError: Another process has it.
    """
    clear(self._path)
    self._write()
    time.sleep(SETTLE)
    found = _read(self._path)
    if found.get('token') != self._mine['token']:
      raise _in_use(self._path, found)
    self._thread.start()

  def check(self) -> None:
    """Finds that another run has taken this one for dead.

    Raises:
      RefusedError: One has.
    """
    if time.monotonic() - self._written > BEAT * PATIENCE:
      with contextlib.suppress(Exception):  # it was stopped, or the store fails
        self._look()
    if self._taken_by:
      raise RefusedError(
        f'{self._path.parent} has been taken over by {self._taken_by}, who had '
        f'not heard of this run for {BEAT * PATIENCE:.0f} s; it ends here'
      )

  def close(self) -> None:
    """Lets others in."""
    self._ended.set()
    if self._thread.is_alive():
      self._thread.join()
    with contextlib.suppress(Exception):  # whoever comes next sees it dead
      if _read(self._path).get('token') == self._mine['token']:
        storage.remove(self._path)

  def _beat(self) -> None:
    while not self._ended.wait(BEAT):
      with contextlib.suppress(Exception):  # a store that fails for a while
        self._look()
        if self._taken_by:
          return
        self._write()

  def _look(self) -> None:
    """Whether another's name stands in the place of this one's."""
    found = _read(self._path)
    if found and found.get('token') != self._mine['token']:
      self._taken_by = found.get('who', 'another process')

  def _write(self) -> None:
    self._beats += 1
    text = json.dumps(self._mine | {'beats': self._beats})
    storage.write_atomically(self._path, text)
    self._written = time.monotonic()


def clear(path: epath.Path) -> None:
  """Returns once nobody has a folder: at once, or when its holder is dead.

  Args:
    path: The object that says who has it; a dead one's is deleted.

  Raises:
    RefusedError: Somebody has it.
  """
  found = _read(path)
  if not found:
    return
  if not _is_dead(found):
    print(
      f'{path.parent} was in use by {found.get("who")}: waiting up to '
      f'{BEAT * PATIENCE:.0f} s to see whether it still is',
      file=sys.stderr,
    )
    end = time.monotonic() + BEAT * PATIENCE
    while time.monotonic() < end:
      time.sleep(min(1.0, BEAT))
      now = _read(path)
      if not now:
        return
      if now != found:
        raise _in_use(path, now)
  storage.remove(path)


def _in_use(path: epath.Path, found: dict[str, Any]) -> RefusedError:
  return RefusedError(
    f'{path.parent} is in use by {found.get("who", "another process")}; wait '
    'for it, or choose another --workdir (of a comparison: other --arms or '
    '--seeds)'
  )


def _read(path: epath.Path) -> dict[str, Any]:
  with contextlib.suppress(FileNotFoundError, ValueError):
    found = json.loads(path.read_text())
    return found if isinstance(found, dict) else {}
  return {}


def _is_dead(found: dict[str, Any]) -> bool:
  """Whether it was a process of this machine that is no more."""
  if found.get('machine') != _machine() or not found['machine']:
    return False
  return not os.path.exists(f'/proc/{found.get("pid")}')


def _machine() -> str:
  """What has these process ids: a boot of a machine, a container."""
  try:
    boot = epath.Path('/proc/sys/kernel/random/boot_id').read_text()
    return f'{boot.strip()} {os.readlink("/proc/self/ns/pid")}'
  except OSError:
    return ''

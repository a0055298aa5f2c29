"""The files that a run leaves behind."""

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import math
import os
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from typing import IO, TYPE_CHECKING, Any

import jax
from etils import epath
from tqdm import tqdm

from jaxdistill import storage
from jaxdistill.checkpoint import RefusedError
from jaxdistill.eval.alarms import Fired
from jaxdistill.run.lease import Lease, clear
from jaxdistill.storage import check_writable, write_atomically

if TYPE_CHECKING:
  from jaxdistill.run.board import Board

# How a run is laid out, not what it does: a resumed run may change these.
MAY_CHANGE = (
  *('mesh', 'attention', 'keep_checkpoints', 'keep_anchors', 'foresee'),
  # But not in how many bits, which changes what is drawn.
  *('rollout.cache_gib', 'rollout.sharded'),
  'max_prompts',  # in its place, once
)

# What is in a folder that no run has begun in, and yet is a run's.
_BEFORE_A_RUN = ('lock', '.config.json.partial')
# What a run writes after its last step.
_ENDING = ('summary.json', 'curves.png', 'report.html')


class Workdir:
  """A run's folder; process 0 writes to it.

  Args:
    path: Local or in an object store; made if needed.
  """

  def __init__(self, path: epath.PathLike):
    self.path = _path(path)
    self.writes = jax.process_index() == 0
    self._lines: list[str] = []
    self._alarms: list[str] = []
    self._board: Board | None = None
    self._lock: IO | Lease | None = None

  def lock(self) -> None:
    """Keeps other runs out, until `close` or the end of the process.

    Process 0 holds the lock. In an object store it is a lease. Where the file
    system has no locks there is none, which is said.

    Raises:
      RefusedError: Another process has it.
    """
    if not self.writes or self._lock:
      return
    if storage.is_remote(self.path):
      lease = Lease(self.path / 'lock')
      lease.take()
      self._lock = lease
      return
    self.path.mkdir(parents=True, exist_ok=True)
    file = _locked(self.path)
    if file:
      file.truncate(0)
      since = time.strftime('%Y-%m-%d %H:%M:%S')
      file.write(f'process {os.getpid()} on {socket.gethostname()}, {since}')
      file.flush()
    self._lock = file

  def free(self) -> None:
    """Looks whether a run is going on here.

    Raises:
      RefusedError: One is.
    """
    if storage.is_remote(self.path):
      if self.writes and not self._lock:
        clear(self.path / 'lock')
    elif (self.path / 'lock').exists():
      mine = self._lock
      self.lock()
      if self._lock and not mine:
        self._lock.close()
        self._lock = None

  def check(self, config: Mapping[str, Any]) -> None:
    """Finds why a run cannot live here, and leaves everything as it is.

    Raises:
      RefusedError: The folder holds a run of another config, of which the first
        difference is named; or something else; or nothing can be written there.
    """
    there = self.path / 'config.json'
    try:
      storage.check_store(self.path)
      if there.exists():
        if difference := _difference(read_config(self.path), config):
          raise RefusedError(
            f'{self.path} holds a run of another config: {difference}; '
            'choose another --workdir'
          )
      elif self.writes:
        names = storage.names(self.path)
        foreign = [
          x
          for x in names
          if x not in _BEFORE_A_RUN and not x.startswith('.pod-')  # of doctor
        ]
        if foreign:
          raise RefusedError(
            f'{self.path} is not empty and holds no run (no config.json, but '
            f'{foreign[0]!r}); choose another --workdir'
          )
      if self.writes:
        check_writable(self.path)
    except OSError as e:
      why = (e.strerror or str(e)).lower()
      raise RefusedError(
        f'--workdir {self.path} cannot be written: {why}; choose another'
      ) from None
    except RefusedError:
      raise
    except ValueError as e:  # of an object store
      raise RefusedError(f'--workdir {e}') from None

  def claim(self, config: Mapping[str, Any]) -> None:
    """Locks the folder and writes `config.json`, or checks the one there.

    Raises:
      RefusedError: As `check` and `lock`.
    """
    self.check(config)
    self.lock()
    self.check(config)  # now that nobody else writes it
    there = self.path / 'config.json'
    if self.writes and not there.exists():
      self.path.mkdir(parents=True, exist_ok=True)
      text = json.dumps(config, indent=1, sort_keys=True)
      write_atomically(there, text)

  def open(self, step: int, ended: bool = False) -> None:
    """Starts logging at `step`; what was logged at or after it is dropped.

    Args:
      step: Of the run.
      ended: Whether the run had ended. If not, what is there of an end is of
        steps that are now taken again, and is dropped as well.
    """
    if not self.writes:
      return
    if not ended:
      for name in _ENDING:
        storage.remove(self.path / name)
    for name in storage.names(self.path / 'rollouts'):
      number = name.partition('.')[0]
      late = number.isdecimal() and int(number) >= step
      if late or name.endswith('.partial'):
        storage.remove(self.path / 'rollouts' / name)
    self._lines = self._before(step, 'metrics.jsonl')
    if len(self._lines) < step:
      print(
        f'{self.path / "metrics.jsonl"} is damaged: it has {len(self._lines)} '
        f'of the {step} lines before this step; the run goes on without the '
        'others',
        file=sys.stderr,
      )
    self._write('metrics.jsonl', self._lines)
    self._alarms = self._before(step, 'alarms.jsonl')
    if self._alarms:
      self._write('alarms.jsonl', self._alarms)
    else:
      storage.remove(self.path / 'alarms.jsonl')
    if not storage.is_remote(self.path):  # event files need a local disk
      # It imports PyTorch where that is installed: a second or more.
      from jaxdistill.run.board import Board

      self._board = Board(self.path, step)

  def log(self, step: int, metrics: Mapping[str, float]) -> None:
    """Adds a line to `metrics.jsonl` and to TensorBoard."""
    if not self.writes:
      return
    if isinstance(self._lock, Lease):
      self._lock.check()
    finite = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
    line = json.dumps({'step': step} | finite)
    self._lines.append(line)
    if self._board:
      with open(self.path / 'metrics.jsonl', 'a') as f:
        f.write(line + '\n')
      self._board.log(step, metrics)
    else:
      self._write('metrics.jsonl', self._lines)  # an object store cannot append

  def alarm(self, step: int, fired: Fired, did: str) -> None:
    """Says that an alarm went off, and adds a line to `alarms.jsonl`."""
    if not self.writes:
      return
    said = f'{fired.said}. {did[0].upper()}{did[1:]}.'
    tqdm.write(f'step {step}: alarm {fired.alarm}: {said}')
    record = {'step': step} | dataclasses.asdict(fired) | {'said': said}
    self._alarms.append(json.dumps(record))
    self._write('alarms.jsonl', self._alarms)

  def say(self, lines: Iterable[str]) -> None:
    """Says something between the steps; process 0 alone."""
    for line in lines if self.writes else ():
      tqdm.write(line)

  def has_logged(self) -> bool:
    """Whether a run has left metrics here; asked of process 0."""
    return self.writes and (self.path / 'metrics.jsonl').exists()

  def metrics(self) -> list[dict[str, float]]:
    """All lines logged so far."""
    return [json.loads(line) for line in self._lines]

  def transcripts(
    self, step: int, records: Iterable[Mapping[str, Any]]
  ) -> None:
    """Writes this process's `rollouts/STEP.jsonl`."""
    records = list(records)
    if not records:
      return
    host = f'.{jax.process_index()}' if jax.process_count() > 1 else ''
    folder = self.path / 'rollouts'
    folder.mkdir(parents=True, exist_ok=True)
    text = ''.join(json.dumps(r) + '\n' for r in records)
    write_atomically(folder / f'{step:06d}{host}.jsonl', text)

  def summarise(self, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Writes and returns `summary.json`.

    For every `eval/...` metric its first and last value, of accuracies also
    the best; `last_step`, and `kept_step`, whose version the run ends with;
    the versions of the libraries, and `facts`.
    """
    lines = self.metrics()
    names = {k for line in lines for k in line if k.startswith('eval/')}
    summary: dict[str, Any] = {}
    for name in sorted(names):
      series = [x[name] for x in lines if x.get(name) is not None]
      if not series:
        continue
      summary[name] = {'first': series[0], 'last': series[-1]}
      if 'accuracy' in name:
        summary[name]['best'] = max(series)
    if lines:
      last = lines[-1]
      summary['last_step'] = last['step']
      summary['kept_step'] = int(last.get('guard/kept', last['step']))
    libraries = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain')
    versions = {name: importlib.metadata.version(name) for name in libraries}
    summary |= {'versions': versions} | dict(facts)
    if self.writes:
      text = json.dumps(summary, indent=1)
      write_atomically(self.path / 'summary.json', text)
    return summary

  def close(self) -> None:
    """Ends logging and lets others in."""
    if self._board:
      with contextlib.suppress(OSError):  # of a full disk: it has been said
        self._board.close()
    if self._lock:
      self._lock.close()
    self._board = self._lock = None

  def _before(self, step: int, name: str) -> list[str]:
    """The whole lines of a file that are of earlier steps."""
    if not (self.path / name).exists():
      return []
    logged = read_lines(self.path / name)
    return [text for text, line in logged if line['step'] < step]

  def _write(self, name: str, lines: list[str]) -> None:
    write_atomically(self.path / name, ''.join(x + '\n' for x in lines))


def read_lines(path: epath.PathLike) -> list[tuple[str, dict[str, Any]]]:
  """The whole lines of a log in JSON: as text, and as what they say."""
  out = []
  for text in epath.Path(path).read_bytes().split(b'\n'):
    with contextlib.suppress(ValueError):  # cut in the middle, or damaged
      line = json.loads(text.decode())
      if isinstance(line, dict) and isinstance(line.get('step'), int):
        out.append((text.decode(), line))
  return out


def _locked(path: epath.Path) -> IO | None:
  """The folder's lock file, locked; None where there are no locks."""
  file = (path / 'lock').open('a')
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    file.close()
    who = (path / 'lock').read_text() or 'another process'
    raise RefusedError(
      f'{path} is in use by {who}; wait for it, or choose another --workdir '
      '(of a comparison: other --arms or --seeds)'
    ) from None
  except OSError as e:
    file.close()
    why = (e.strerror or str(e)).lower()
    print(
      f'{path} cannot be locked ({why}): start no second run in it',
      file=sys.stderr,
    )
    return None
  return file


def read_config(root: epath.PathLike) -> dict[str, Any]:
  """What a run wrote to its `config.json`.

  Raises:
    RefusedError: The folder holds no run, or the file is damaged.
  """
  path = _path(root) / 'config.json'
  try:
    storage.check_store(root)
  except ValueError as e:
    raise RefusedError(f'--workdir {e}') from None
  try:
    if not path.exists():
      raise RefusedError(f'{root} holds no run (no config.json)')
    config = json.loads(path.read_text())
  except (UnicodeDecodeError, json.JSONDecodeError) as e:
    raise RefusedError(f'{path} is damaged: {e}') from None
  if not isinstance(config, dict):
    raise RefusedError(f'{path} is damaged: it is not a JSON object')
  return config


def _path(root: epath.PathLike) -> epath.Path:
  try:
    return epath.Path(root)
  except KeyError:
    raise RefusedError(
      f'{root} is in no store that is known, as gs:// and s3:// are'
    ) from None


def _difference(old: Any, new: Any, name: str = '') -> str | None:
  """The first value in which two configs differ, in words."""
  if isinstance(old, Mapping) and isinstance(new, Mapping):
    for key in sorted({*old, *new}):
      inner = f'{name}.{key}' if name else key
      if inner in MAY_CHANGE:
        continue
      if found := _difference(old.get(key), new.get(key), inner):
        return found
    return None
  if isinstance(new, tuple):
    new = list(new)
  return None if old == new else f'{name} was {old!r}, now {new!r}'

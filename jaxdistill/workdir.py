"""The files that a run leaves behind."""

import importlib.metadata
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import tensorboardX
from etils import epath

from jaxdistill.checkpoint import check_writable, write_atomically

# How a run is laid out, not what it does: a resumed run may change these.
_MAY_CHANGE = ('mesh', 'max_prompts', 'keep_checkpoints', 'keep_anchors')


class Workdir:
  """A run's folder; process 0 writes to it.

  Args:
    path: Local or in an object store; made if needed.
  """

  def __init__(self, path: epath.PathLike):
    self.path = _path(path)
    self.writes = jax.process_index() == 0
    self._lines: list[str] = []
    self._board = None

  def check(self, config: Mapping[str, Any]) -> None:
    """Finds why a run cannot live here, and leaves everything as it is.

    Raises:
      ValueError: The folder belongs to a run of another config (the first
        difference is named), or nothing can be written there.
    """
    there = self.path / 'config.json'
    try:
      if there.exists() and (
        difference := _difference(_read_json(there), config)
      ):
        raise ValueError(
          f'{self.path} holds a run of another config: {difference}; '
          'choose another --workdir'
        )
      if self.writes:
        check_writable(self.path)
    except OSError as e:
      why = (e.strerror or str(e)).lower()
      raise ValueError(
        f'--workdir {self.path} cannot be written: {why}; choose another'
      ) from None
    except ImportError as e:  # of an object store
      raise ValueError(f'--workdir {self.path} is not reached: {e}') from None

  def claim(self, config: Mapping[str, Any]) -> None:
    """Writes `config.json`, or checks that the one there is the same.

    Raises:
      ValueError: As `check` does.
    """
    self.check(config)
    there = self.path / 'config.json'
    if self.writes and not there.exists():
      self.path.mkdir(parents=True, exist_ok=True)
      write_atomically(there, json.dumps(config, indent=1, sort_keys=True))

  def open(self, step: int) -> None:
    """Starts logging at `step`; what was logged at or after it is dropped."""
    metrics = self.path / 'metrics.jsonl'
    if not self.writes:
      return
    if metrics.exists():
      lines = metrics.read_text().splitlines()
      whole = [line for line in lines if line.endswith('}')]
      self._lines = [x for x in whole if json.loads(x)['step'] < step]
    self._write_lines()
    if '://' not in str(self.path):  # event files need a local disk
      self._board = tensorboardX.SummaryWriter(
        str(self.path), purge_step=step or None
      )

  def log(self, step: int, metrics: Mapping[str, float]) -> None:
    """Adds a line to `metrics.jsonl` and to TensorBoard."""
    if not self.writes:
      return
    finite = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
    line = json.dumps({'step': step} | finite)
    self._lines.append(line)
    if self._board:
      with open(self.path / 'metrics.jsonl', 'a') as f:
        f.write(line + '\n')
      for name, value in metrics.items():
        self._board.add_scalar(name, value, step)
    else:
      self._write_lines()  # an object store cannot append

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
    the best; the versions of the libraries, and `facts`.
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
    libraries = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain')
    versions = {name: importlib.metadata.version(name) for name in libraries}
    summary |= {'versions': versions} | dict(facts)
    if self.writes:
      text = json.dumps(summary, indent=1)
      write_atomically(self.path / 'summary.json', text)
    return summary

  def close(self) -> None:
    """Flushes TensorBoard."""
    if self._board:
      self._board.close()

  def _write_lines(self):
    text = ''.join(line + '\n' for line in self._lines)
    write_atomically(self.path / 'metrics.jsonl', text)


def read_config(root: epath.PathLike) -> dict[str, Any]:
  """What a run wrote to its `config.json`.

  Raises:
    ValueError: The folder holds no run, or the file is damaged.
  """
  path = _path(root) / 'config.json'
  try:
    if not path.exists():
      raise ValueError(f'{root} holds no run (no config.json)')
    return _read_json(path)
  except ImportError as e:  # of an object store
    raise ValueError(f'--workdir {root} is not reached: {e}') from None


def _path(root: epath.PathLike) -> epath.Path:
  try:
    return epath.Path(root)
  except KeyError:
    raise ValueError(
      f'{root} is in no store that is known, as gs:// is'
    ) from None


def _read_json(path: epath.Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text())
  except ValueError as e:
    raise ValueError(f'{path} is damaged: {e}') from None
  if not isinstance(found, dict):
    raise ValueError(f'{path} is damaged: it is not a JSON object')
  return found


def _difference(old: Any, new: Any, name: str = '') -> str | None:
  """The first value in which two configs differ, in words."""
  if isinstance(old, Mapping) and isinstance(new, Mapping):
    for key in sorted({*old, *new}):
      inner = f'{name}.{key}' if name else key
      if inner in _MAY_CHANGE:
        continue
      if found := _difference(old.get(key), new.get(key), inner):
        return found
    return None
  if isinstance(new, tuple):
    new = list(new)
  return None if old == new else f'{name} was {old!r}, now {new!r}'

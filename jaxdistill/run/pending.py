"""What a step will train on, drawn before its time: `pending/STEP/HOST.json`.

It is a part of the run's state: what was drawn by weights that are no more
cannot be drawn again.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxdistill import dist, storage
from jaxdistill.checkpoint import (
  RefusedError,
  from_json,
  hashes,
  seal_of,
  to_json,
  write_atomically,
)
from jaxdistill.methods.method import Method
from jaxdistill.rollout.player import Player
from jaxdistill.run import records
from jaxdistill.types import Collected, Field, Problem, Row, RowSet, Update


@dataclasses.dataclass(frozen=True)
class Pending:
  """What is ready for the next step.

  Attributes:
    collected: Drawn by the weights of before the last update.
    seconds: What drawing it took.
  """

  collected: Collected
  seconds: float


def check(collected: Collected) -> None:
  """What the first step of a run is held against, too.

  Raises:
    RefusedError: It brings weights of its own.
  """
  if collected.adopt is not None:
    raise RefusedError(
      'the method adopts an adapted player, which would undo the update that '
      'went on meanwhile; set config.ahead=False'
    )


def drawn(
  method: Method,
  players: dict[str, Player],
  problems: Sequence[Problem],
  state: Any,
  step: int,
  key: jax.Array,
) -> Callable[[], Collected]:
  """Draws a step's responses; what is returned judges them, once.

  Args:
    method: Whose `collect` is begun.
    players: Loses `policy` once all has been drawn: nothing holds on to its
      weights any more.
    problems: See `Method.collect`, as for the others.
    state: The method's.
    step: That will train on it.
    key: Of that step.
  """
  begun = method.collect(players, problems, state, step, key)
  if not isinstance(begun, Generator):
    return lambda: begun
  end = _advance(begun)
  players.pop('policy', None)
  return lambda: _ended(begun) if end is None else end


def _advance(begun: Generator[None, None, Collected]) -> Collected | None:
  """Goes on to the `yield`, which is None, or to the end."""
  try:
    next(begun)
  except StopIteration as end:
    return end.value
  return None


def _ended(begun: Generator[None, None, Collected]) -> Collected:
  end = _advance(begun)
  if end is None:
    raise ValueError('collect yields more than once')
  return end


def save(root: epath.Path, step: int, pending: Pending) -> epath.Path:
  """Writes this host's part; the sealed folder of all of them.

  Args:
    root: The run's folder.
    step: That it is for.
    pending: What is written.
  """
  folder = root / 'pending' / str(step)
  if jax.process_index() == 0:
    folder.mkdir(parents=True, exist_ok=True)
  dist.barrier('a folder for what is pending')
  text = to_json(_plain(root, pending))
  path = folder / f'{jax.process_index()}.json'
  dist.together(lambda: write_atomically(path, text))
  if jax.process_index() == 0:
    write_atomically(seal_of(folder), json.dumps(hashes(folder), indent=1))
  return folder


def load(root: epath.Path, step: int, hosts: int) -> Pending | None:
  """What `save` wrote; None, and said, where it was another number of hosts.

  Whoever calls it has compared its hashes.

  Args:
    root: The run's folder.
    step: That it is for.
    hosts: How many processes wrote it.
  """
  folder = root / 'pending' / str(step)
  if hosts != jax.process_count():
    if jax.process_index() == 0:
      print(
        f'{root} was saved by {hosts} processes: what step {step} trains on is '
        'drawn anew',
        file=sys.stderr,
      )
    return None
  text = (folder / f'{jax.process_index()}.json').read_text()
  return _restored(root, json.loads(text, object_hook=from_json))


def forget(root: epath.Path, first: int, last: int) -> None:
  """Deletes what is for other steps than `first` to `last`."""
  folder = root / 'pending'
  if jax.process_index() == 0:
    for file in sorted(storage.names(folder), reverse=True):  # seals first
      name = file.removesuffix('.json')
      if not name.isdecimal() or not first <= int(name) <= last:
        storage.remove(folder / file)


def _plain(root: epath.Path, pending: Pending) -> dict[str, Any]:
  """JSON and arrays, from which `_restored` makes the same."""
  collected = pending.collected
  return collected._asdict() | {
    'updates': [_plain_update(x) for x in collected.updates],
    'later': (),  # of a run's first step only
    'state': records.put(root, collected.state),
    # Sums come out the same in the same dtype only.
    'metrics': {k: np.asarray(v) for k, v in collected.metrics.items()},
    'seconds': pending.seconds,
  }


def _plain_update(update: Update) -> dict[str, Any]:
  return _fields(update) | {'sets': [_plain_set(x) for x in update.sets]}


def _plain_set(row_set: RowSet) -> dict[str, Any]:
  rows = [_fields(x) for x in row_set.rows]
  return _fields(row_set) | {'rows': rows, 'fields': row_set.specs}


def _fields(instance: Any) -> dict[str, Any]:
  """Of a dataclass, as they are."""
  names = [field.name for field in dataclasses.fields(instance)]
  values = {name: getattr(instance, name) for name in names}
  return {
    k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()
  }


def _restored(root: epath.Path, plain: dict[str, Any]) -> Pending:
  seconds = plain.pop('seconds')
  updates = [_update(**x) for x in plain['updates']]
  state = records.get(root, plain['state'])
  return Pending(
    Collected(**plain | {'updates': updates, 'state': state}), seconds
  )


def _update(sets: Sequence[dict[str, Any]], **more: Any) -> Update:
  return Update(tuple(_set(**x) for x in sets), **more)


def _set(rows: Sequence[dict], fields: Sequence[list], **more: Any) -> RowSet:
  specs = tuple(Field(name, tuple(shape), kind) for name, shape, kind in fields)
  return RowSet(rows=[Row(**x) for x in rows], fields=specs, **more)

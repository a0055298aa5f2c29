"""What a method has built once, as files of its run: `data/SHA256.jsonl`.

A checkpoint names the file by the hash of what is in it, so that a large set is
written once, and what is read is what was written.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from jaxdistill.checkpoint import (
  RefusedError,
  from_json,
  to_json,
  write_atomically,
)
from jaxdistill.types import Records

_KEY = 'records_sha256'


def put(root: epath.PathLike, state: Any) -> Any:
  """A method's state with every `Records` in it written, and named instead.

  Args:
    root: The run's folder; process 0 writes.
    state: Equal on every host.
  """
  if isinstance(state, Records):
    text = ''.join(to_json(record) + '\n' for record in state)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    path = _path(root, sha256)
    if jax.process_index() == 0 and not path.exists():
      path.parent.mkdir(parents=True, exist_ok=True)
      write_atomically(path, text)
    return {_KEY: sha256}
  if isinstance(state, Mapping):
    return {key: put(root, value) for key, value in state.items()}
  if isinstance(state, list | tuple):
    return [put(root, value) for value in state]
  return state


def get(root: epath.PathLike, state: Any) -> Any:
  """What `put` was given.

  Raises:
    RefusedError: A file is missing, or is not what was written.
  """
  if isinstance(state, Mapping) and state.keys() == {_KEY}:
    path = _path(root, state[_KEY])
    if not path.exists():
      raise RefusedError(f'{path} is missing; a checkpoint needs it')
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != state[_KEY]:
      raise RefusedError(f'{path} is damaged: its hash is not its name')
    lines = data.decode().splitlines()
    return Records(json.loads(x, object_hook=from_json) for x in lines)
  if isinstance(state, Mapping):
    return {key: get(root, value) for key, value in state.items()}
  if isinstance(state, list):
    return [get(root, value) for value in state]
  return state


def _path(root: epath.PathLike, sha256: str) -> epath.Path:
  return epath.Path(root) / 'data' / f'{sha256}.jsonl'

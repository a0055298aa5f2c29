"""A run's state on Orbax, with a manifest that is checked before restoring."""

import base64
import functools
import hashlib
import json
import os
import tempfile
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath


def pure(tree: Any) -> dict[str, Any]:
  """The arrays of a tree by name: what is written, free of library types."""
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  name = functools.partial(jax.tree_util.keystr, simple=True, separator='.')
  return {name(path): x for path, x in flat}


def abstract(tree: Any) -> Any:
  """Shapes, dtypes and shardings of a tree of arrays."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
  )


def restored(values: dict[str, Any], like: Any) -> Any:
  """What `pure` wrote, in the structure of `like`."""
  leaves = [values[name] for name in pure(like)]
  return jax.tree.unflatten(jax.tree.structure(like), leaves)


class Checkpoints:
  """Saves a run's state and finds the newest that is whole.

  A checkpoint counts once its SHA-256 manifest is written, which happens when
  Orbax has finished; one without is what a dying run left behind.

  Args:
    root: The run's folder, local or in an object store.
    keep: Newest checkpoints to keep.
  """

  def __init__(self, root: epath.PathLike, keep: int = 2):
    self._root = absolute(root)
    self._manifests = self._root / 'manifests'
    self._unsealed: list[int] = []
    self._manager = ocp.CheckpointManager(
      self._root / 'checkpoints',
      options=ocp.CheckpointManagerOptions(
        # One more than asked: the newest counts only once it is sealed.
        max_to_keep=keep + 1,
        enable_async_checkpointing=True,
      ),
    )

  def save(self, step: int, state: Any, record: Any) -> None:
    """Writes in the background.

    Args:
      step: Run step at which the run will go on.
      state: Arrays.
      record: JSON and numpy arrays: the method's state and the like.
    """
    self.seal(wait=True)
    saved = self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.PyTreeSave(pure(state)),
        record=ocp.args.JsonSave(json.loads(_to_json(record))),
      ),
    )
    if not saved:
      raise RuntimeError(f'Orbax did not save step {step}')
    self._unsealed.append(step)

  def seal(self, wait: bool = False) -> None:
    """Writes the manifest of what has been saved since; cheap if nothing."""
    if not self._unsealed or (
      not wait and self._manager.is_saving_in_progress()
    ):
      return
    self._manager.wait_until_finished()
    if jax.process_index() == 0:
      self._manifests.mkdir(parents=True, exist_ok=True)
      for step in self._unsealed:
        hashes = json.dumps(self._hashes(step), indent=1)
        write_atomically(self._manifests / f'{step}.json', hashes)
      kept = set(self._manager.all_steps())
      for path in self._manifests.iterdir():
        if path.stem.isdecimal() and int(path.stem) not in kept:
          path.unlink()
    self._unsealed = []

  def oldest(self) -> int:
    """The oldest step that a run may have to go on from; 0 without any."""
    return min(self._manager.all_steps(), default=0)

  def newest(self) -> int | None:
    """The newest step whose files match its manifest, or None."""
    for step in sorted(self._manager.all_steps(), reverse=True):
      manifest = self._manifests / f'{step}.json'
      if manifest.exists() and _hashes_in(manifest) == self._hashes(step):
        return step
    return None

  def restore(self, step: int, like: Any) -> tuple[Any, Any]:
    """State and record of a step.

    Args:
      step: From `newest`.
      like: Says what goes where; any mesh will do. A state, or a dict of some
        of its fields: only these are read.

    Raises:
      ValueError: The checkpoint lacks an array that `like` has.
    """
    wanted = abstract(pure(like))
    found = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.PyTreeRestore(
          wanted,
          restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
          partial_restore=True,
        ),
        record=ocp.args.JsonRestore(),
      ),
    )
    for name, value in found['state'].items():
      if not isinstance(value, jax.Array):  # Orbax leaves what it did not find
        raise ValueError(
          f'checkpoint {step} of {self._root} has no array {name!r}'
        )
    record = json.loads(json.dumps(found['record']), object_hook=_from_json)
    return restored(found['state'], like), record

  def forget_after(self, step: int) -> None:
    """Deletes what a dying run left: steps later than the one restored.

    They are not whole, and would be in the way of saving again. A run whose
    checkpoints are all damaged forgets them all (`step` 0) and starts anew.
    """
    for later in self._manager.all_steps():
      if later > step:
        self._manager.delete(later)

  def close(self) -> None:
    """Waits until everything is on disk and sealed."""
    self.seal(wait=True)
    self._manager.close()

  def _hashes(self, step: int) -> dict[str, str]:
    folder = self._root / 'checkpoints' / str(step)
    return {
      str((root / name).relative_to(folder)): sha256(root / name)
      for root, _, names in sorted(folder.walk())
      for name in sorted(names)
    }


def _hashes_in(manifest: epath.Path) -> Any:
  try:
    return json.loads(manifest.read_text())
  except ValueError:  # it is damaged, so it vouches for nothing
    return None


def check_writable(folder: epath.PathLike) -> None:
  """Tries to make a folder and a file in it, and leaves everything as it is.

  Args:
    folder: There or not; in an object store nothing is tried.

  Raises:
    OSError: It cannot be.
  """
  wanted = there = absolute(folder)
  if '://' in str(wanted):
    return
  while not os.path.lexists(there):
    there = there.parent
  with tempfile.TemporaryDirectory(prefix='.jaxdistill-', dir=there) as made:
    inside = epath.Path(made) / wanted.relative_to(there)
    inside.mkdir(parents=True, exist_ok=True)


def absolute(path: epath.PathLike) -> epath.Path:
  """A path that Orbax takes: absolute, or an object store's."""
  remote = '://' in str(path)
  return epath.Path(path if remote else os.path.abspath(path))


def sha256(path: epath.PathLike) -> str:
  """Hex digest of a file."""
  digest = hashlib.sha256()
  with epath.Path(path).open('rb') as file:
    while block := file.read(2**24):
      digest.update(block)
  return digest.hexdigest()


def write_atomically(path: epath.PathLike, text: str) -> None:
  """Writes a text file so that a reader sees the old or the new one whole."""
  path = epath.Path(path)
  partial = path.with_name(f'.{path.name}.partial')
  partial.write_text(text)
  partial.replace(path)


def _to_json(record: Any) -> str:
  def encode(x):
    if isinstance(x, np.ndarray):
      data = base64.b64encode(np.ascontiguousarray(x).tobytes()).decode()
      return {'ndarray': data, 'dtype': str(x.dtype), 'shape': x.shape}
    if isinstance(x, np.generic):
      return x.item()
    raise TypeError(f'{type(x).__name__} cannot be kept in a checkpoint')

  return json.dumps(record, default=encode)


def _from_json(x: dict) -> Any:
  if x.keys() == {'ndarray', 'dtype', 'shape'}:
    data = base64.b64decode(x['ndarray'])
    return np.frombuffer(data, x['dtype']).reshape(x['shape']).copy()
  return x

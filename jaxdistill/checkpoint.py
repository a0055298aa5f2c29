"""A run's state on Orbax, with a manifest that is checked before restoring."""

import base64
import contextlib
import errno
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
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


# What the machine does to a write: a full disk, a quota, a limit, a bad disk.
STORAGE_ERRORS = (
  *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
  *(errno.EIO, errno.EROFS, errno.ESTALE),
)


# Folders that a checkpoint needs, by how deep they lie.
_NEEDED = {'anchors': 2, 'pending': 1}


class RefusedError(ValueError):
  """A run's folder is not as it must be to go on from; the text says how."""


class Checkpoints:
  """Saves a run's state and finds the newest that is whole.

  A checkpoint counts once its SHA-256 manifest is written, which happens when
  Orbax has finished; one without is what a dying run left behind. The manifest
  also has the hashes of the anchors that the checkpoint needs, and of what a
  step will train on that was drawn ahead: without them it is not whole.

  Args:
    root: The run's folder, local or in an object store.
    keep: Newest checkpoints to keep.
  """

  def __init__(self, root: epath.PathLike, keep: int = 2):
    self._root = absolute(root)
    self._folder = self._root / 'checkpoints'
    self._manifests = self._root / 'manifests'
    self._unsealed: dict[int, dict[str, dict[str, str]]] = {}
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        # One more than asked: the newest counts only once it is sealed.
        max_to_keep=keep + 1,
        enable_async_checkpointing=True,
      ),
    )

  def save(
    self, step: int, state: Any, record: Any, needs: Iterable[epath.Path] = ()
  ) -> None:
    """Writes in the background.

    Args:
      step: Run step at which the run will go on.
      state: Arrays.
      record: JSON and numpy arrays: the method's state and the like.
      needs: Sealed folders of the run without which it cannot go on.

    Raises:
      OSError: This save or the one before failed, say for a full disk.
    """
    self.seal(wait=True)
    needed = {}
    if jax.process_index() == 0:
      needed = {self._name(x): read_manifest(seal_of(x)) for x in needs}
    with failing_as_os_error(self._folder):
      saved = self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.PyTreeSave(pure(state)),
          record=ocp.args.JsonSave(json.loads(to_json(record))),
        ),
      )
    if not saved:
      raise RuntimeError(f'Orbax did not save step {step}')
    self._unsealed[step] = needed

  def seal(self, wait: bool = False) -> None:
    """Writes the manifest of what has been saved since; cheap if nothing."""
    if not self._unsealed or (
      not wait and self._manager.is_saving_in_progress()
    ):
      return
    try:
      with failing_as_os_error(self._folder):
        self._manager.wait_until_finished()
    except Exception:  # what fails is not sealed; what is interrupted may be
      self._unsealed = {}
      raise
    unsealed, self._unsealed = self._unsealed, {}
    if jax.process_index() == 0:
      self._manifests.mkdir(parents=True, exist_ok=True)
      for step, needed in unsealed.items():
        folder = self._folder / str(step)
        manifest = {self._name(folder): hashes(folder)} | needed
        text = json.dumps(manifest, indent=1)
        write_atomically(self._manifests / f'{step}.json', text)
      self._forget_manifests()

  def oldest(self) -> int:
    """The oldest step that a run may have to go on from; 0 without any."""
    return min(self._manager.all_steps(), default=0)

  def newest(self) -> int | None:
    """The newest step whose files match its manifest, or None.

    Raises:
      RefusedError: There are checkpoints, and none is whole.
    """
    return self.find()[0]

  def find(self) -> tuple[int | None, dict[int, dict[epath.Path, str]]]:
    """The newest whole step, and what is damaged of those after it.

    Returns:
      The step, None if nothing has been saved; and for each later step what is
      wrong with which file or folder. A newest step without a manifest is not
      among them: a run has died before it could write it.

    Raises:
      RefusedError: There are checkpoints, and none is whole.
    """
    damaged: dict[int, dict[epath.Path, str]] = {}
    steps = self._steps()
    for step in steps:
      if step == steps[0] and not self._manifest(step).exists():
        continue
      faults = self._faults(step)
      if not faults:
        return step, damaged
      damaged[step] = faults
    if damaged:
      told = '; '.join(f'{s}: {why(x)}' for s, x in damaged.items())
      raise RefusedError(
        f'{self._root} has no whole checkpoint left ({told}); to start over, '
        'choose another --workdir, or move this one away'
      )
    return None, {}

  def recover(self) -> tuple[int | None, dict[int, str]]:
    """Sets aside what is damaged, in `damaged/`, and finds what is whole.

    Process 0 calls it; then all call `reload`.

    Returns:
      The newest whole step, None if nothing has been saved; and what was wrong
      with each one set aside.

    Raises:
      RefusedError: There are checkpoints, and none is whole. All stay in place.
    """
    step, damaged = self.find()
    for later, faults in damaged.items():
      for path in faults:
        what, *names = path.relative_to(self._root).parts
        if what in _NEEDED:
          folder = self._root.joinpath(what, *names[: _NEEDED[what]])
          folder = folder.with_name(folder.name.removesuffix('.json'))
          if not _sound(folder):  # or the manifest has another in mind
            self._set_aside(seal_of(folder))
            self._set_aside(folder)
      self._set_aside(self._folder / str(later))
      self._set_aside(self._manifest(later))
    return step, {later: why(faults) for later, faults in damaged.items()}

  def reload(self) -> None:
    """Looks again at what is on disk."""
    self._manager.reload()

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
    record = json.loads(json.dumps(found['record']), object_hook=from_json)
    return restored(found['state'], like), record

  def forget_after(self, step: int) -> None:
    """Deletes what a dying run left: steps later than the one restored.

    They were not finished, and would be in the way of saving again.
    """
    for later in self._manager.all_steps():
      if later > step:
        if jax.process_index() == 0:  # first: one without is what died
          self._manifest(later).unlink(missing_ok=True)
        self._manager.delete(later)
    if jax.process_index() == 0:
      for path in self._folder.iterdir():
        if not path.name.isdecimal():  # of saves that were cut
          path.rmtree() if path.is_dir() else path.unlink()
      self._forget_manifests()

  def close(self) -> None:
    """Waits until everything is on disk and sealed."""
    self.seal(wait=True)
    with failing_as_os_error(self._folder):
      self._manager.close()

  def _steps(self) -> list[int]:
    """Steps on disk, or with a manifest at least, newest first."""
    names = {x.name for x in self._folder.iterdir()}
    if self._manifests.exists():
      names |= {x.name.removesuffix('.json') for x in self._manifests.iterdir()}
    return sorted((int(x) for x in names if x.isdecimal()), reverse=True)

  def _manifest(self, step: int) -> epath.Path:
    return self._manifests / f'{step}.json'

  def _name(self, folder: epath.Path) -> str:
    return str(folder.relative_to(self._root))

  def _faults(self, step: int) -> dict[epath.Path, str]:
    """What is wrong with a step: the first thing of each of its folders."""
    folder, manifest = self._folder / str(step), self._manifest(step)
    if not manifest.exists():
      return {manifest: 'is missing'}
    try:
      wanted = json.loads(manifest.read_text())
      listed = {self._root / k: dict(v) for k, v in wanted.items()}
    except (ValueError, AttributeError, TypeError):
      return {manifest: 'is damaged'}
    kinds = {(x.split('/')[0], x.count('/')) for x in wanted}
    if folder not in listed or kinds - {('checkpoints', 1), *_NEEDED.items()}:
      return {manifest: 'is damaged'}
    faults = {}
    for needed, files in listed.items():
      faults |= fault(needed, files)
      if needed != folder:
        with contextlib.suppress(RefusedError):
          if read_manifest(seal_of(needed)) == files:
            continue
        faults |= {seal_of(needed): 'is damaged'}
    return faults

  def _forget_manifests(self) -> None:
    kept = set(self._manager.all_steps())
    if self._manifests.exists():
      for path in self._manifests.iterdir():
        if path.stem.isdecimal() and int(path.stem) not in kept:
          path.unlink()

  def _set_aside(self, path: epath.Path) -> None:
    if not path.exists():
      return
    target = self._root / 'damaged' / path.relative_to(self._root)
    target.parent.mkdir(parents=True, exist_ok=True)
    name, n = target.name, 0
    while target.exists():
      n += 1
      target = target.with_name(f'{name}.{n}')
    path.rename(target)


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


def hashes(folder: epath.Path) -> dict[str, str]:
  """SHA-256 of each file in a folder, by its path there."""
  return {
    str((root / name).relative_to(folder)): sha256(root / name)
    for root, _, names in sorted(folder.walk())
    for name in sorted(names)
  }


def seal_of(folder: epath.Path) -> epath.Path:
  """Where the hashes of a folder that is not a checkpoint lie: beside it."""
  return folder.with_name(f'{folder.name}.json')


def read_manifest(path: epath.Path) -> dict[str, str]:
  """The hashes in a file.

  Raises:
    RefusedError: They cannot be read.
  """
  try:
    return dict(json.loads(path.read_text()))
  except FileNotFoundError:
    raise RefusedError(f'{path} is missing') from None
  except (ValueError, TypeError):
    raise RefusedError(f'{path} is damaged') from None


def fault(
  folder: epath.Path, wanted: Mapping[str, str]
) -> dict[epath.Path, str]:
  """The first file that is not as wanted, and why; empty if all are.

  Args:
    folder: What should be there, and nothing else.
    wanted: From `hashes`.
  """
  if not folder.is_dir():
    return {folder: 'is missing'}
  found = hashes(folder)
  for name in sorted({*found, *wanted}):
    if name not in found:
      return {folder / name: 'is missing'}
    if name not in wanted:
      return {folder / name: 'does not belong there'}
    if found[name] != wanted[name]:
      return {folder / name: 'has changed'}
  return {}


def _sound(folder: epath.Path) -> bool:
  """Whether a folder with a seal is what that says."""
  try:
    return not fault(folder, read_manifest(seal_of(folder)))
  except RefusedError:
    return False


def why(faults: Mapping[epath.Path, str]) -> str:
  """Faults in words."""
  return ', '.join(f'{path} {what}' for path, what in faults.items())


@contextlib.contextmanager
def failing_as_os_error(folder: epath.Path) -> Iterator[None]:
  """Raises `OSError` where Orbax could not write.

  Its storage layer reports a full disk as other kinds of errors.
  """
  try:
    yield
  except OSError:
    raise
  except Exception as e:
    for number in STORAGE_ERRORS:
      if os.strerror(number) in str(e):
        raise OSError(number, os.strerror(number), str(folder)) from e
    raise


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


def to_json(record: Any) -> str:
  """JSON with numpy arrays in it; `from_json` is its `object_hook`."""

  def encode(x):
    if isinstance(x, np.ndarray):
      data = base64.b64encode(np.ascontiguousarray(x).tobytes()).decode()
      return {'ndarray': data, 'dtype': str(x.dtype), 'shape': x.shape}
    if isinstance(x, np.generic):
      return x.item()
    raise TypeError(f'{type(x).__name__} cannot be kept in a checkpoint')

  return json.dumps(record, default=encode)


def from_json(x: dict) -> Any:
  """Arrays as `to_json` wrote them; anything else as it is."""
  if x.keys() == {'ndarray', 'dtype', 'shape'}:
    data = base64.b64decode(x['ndarray'])
    return np.frombuffer(data, x['dtype']).reshape(x['shape']).copy()
  return x

"""Checkpoints of a run: saved, sealed, found and restored."""

import contextlib
import json
import time
from collections.abc import Iterable
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from jaxdistill import dist, storage
from jaxdistill.checkpoint.hashes import (
  RefusedError,
  fault,
  hashes,
  is_sound,
  read_manifest,
  seal_of,
  sha256,
  why,
  written_by,
)
from jaxdistill.checkpoint.trees import (
  abstract,
  from_json,
  pure,
  restored,
  to_json,
)
from jaxdistill.checkpoint.writing import (
  Background,
  failing_as_os_error,
  orbax_options,
)

# Folders that a checkpoint needs, by how deep they lie.
_NEEDED = {'anchors': 2, 'pending': 1}


class Checkpoints:
  """Saves a run's state and finds the newest that is whole.

  A checkpoint counts once its SHA-256 manifest is written, which happens when
  Orbax has finished; one without is what a dying run left behind. The manifest
  also has the hashes of the anchors that the checkpoint needs, and of what a
  step will train on that was drawn ahead: without them it is not whole. Of
  several processes each hashes what it wrote, in the background.

  Args:
    root: The run's folder, local or in an object store.
    keep: Newest checkpoints to keep.
  """

  def __init__(self, root: epath.PathLike, keep: int = 2):
    self._root = storage.absolute(root)
    self._folder = self._root / 'checkpoints'
    self._manifests = self._root / 'manifests'
    self._sealing: Background | None = None
    self._read: dict[epath.Path, str] = {}  # hashes, by all processes
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        # One more than asked: the newest counts only once it is sealed.
        max_to_keep=keep + 1,
        enable_async_checkpointing=True,
        **orbax_options(self._root),
      ),
    )

  def save(
    self, step: int, state: Any, record: Any, needs: Iterable[epath.Path] = ()
  ) -> None:
    """Writes in the background, and then seals what it wrote.

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
    self._sealing = Background(lambda: self._seal(step, needed))

  def seal(self, wait: bool = False) -> None:
    """Sees whether what was saved last has its manifest; cheap.

    Args:
      wait: Until it has, as far as this process is concerned.

    Raises:
      OSError: It could not be written, say for a full disk.
    """
    sealing = self._sealing
    if sealing and (wait or sealing.done()):
      try:
        sealing.wait()
      finally:
        if sealing.done():  # what fails is not sealed; this may be interrupted
          self._sealing = None

  def _seal(self, step: int, needed: dict[str, dict[str, str]]) -> None:
    """Hashes what this process wrote; process 0 puts all together."""
    with failing_as_os_error(self._folder):
      self._manager.wait_until_finished()
    folder, mine = self._folder / str(step), jax.process_index()
    parts = Parts(self._manifests / 'parts', folder)
    try:
      found = storage.files(folder)
      own = hashes(folder, written_by(mine, found))
    except Exception as e:  # whatever it is, process 0 waits for this part
      if mine:
        parts.fail(mine, str(e))
      raise
    if mine:
      parts.write(mine, own)
      return
    for process in range(1, jax.process_count()):
      own |= parts.read(process)
    # Another process may not have seen them yet, in its view of a shared disk.
    own |= hashes(folder, [x for x in found if x not in own])
    manifest = {self._name(folder): own} | needed
    self._manifests.mkdir(parents=True, exist_ok=True)
    text = json.dumps(manifest, indent=1, sort_keys=True)
    storage.write_atomically(self._manifest(step), text)
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

  def read_together(self) -> None:
    """Has each process hash a share of what `recover` will look at.

    All call it, just before process 0 recovers. What cannot be read is left to
    that.
    """
    if jax.process_count() == 1:
      return
    listed = dist.by_first(self._listed)
    mine = listed[jax.process_index() :: jax.process_count()]
    found = storage.each(self._digest, mine)
    pairs = [x for x in zip(mine, found, strict=True) if x[1]]
    for text in dist.gather_texts([json.dumps(pairs)]):
      self._read |= {self._root / k: v for k, v in json.loads(text)}

  def _listed(self) -> list[str]:
    """The files of the newest step that has a manifest."""
    for step in self._steps():
      with contextlib.suppress(RefusedError, AttributeError, TypeError):
        wanted: Any = read_manifest(self._manifest(step))
        return [f'{k}/{name}' for k, v in wanted.items() for name in dict(v)]
    return []

  def _digest(self, name: str) -> str:
    try:
      return sha256(self._root / name)
    except OSError:
      return ''

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
          if not is_sound(folder):  # or the manifest has another in mind
            self._set_aside(seal_of(folder))
            self._set_aside(folder)
      self._set_aside(self._folder / str(later))
      self._set_aside(self._manifest(later))
    self._read = {}
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
      for name in storage.names(self._folder):  # of saves that were cut
        if not name.isdecimal() or int(name) > step:
          storage.remove(self._folder / name)
      self._forget_manifests()

  def close(self) -> None:
    """Waits until everything is on disk and sealed."""
    self.seal(wait=True)
    with failing_as_os_error(self._folder):
      self._manager.close()

  def _steps(self) -> list[int]:
    """Steps on disk, or with a manifest at least, newest first."""
    names = set(storage.names(self._folder))
    manifests = storage.names(self._manifests)
    names |= {x.removesuffix('.json') for x in manifests}
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
      faults |= fault(needed, files, self._read)
      if needed != folder:
        with contextlib.suppress(RefusedError):
          if read_manifest(seal_of(needed)) == files:
            continue
        faults |= {seal_of(needed): 'is damaged'}
    return faults

  def _forget_manifests(self) -> None:
    kept = set(self._manager.all_steps())
    for name in storage.names(self._manifests):
      stem = name.removesuffix('.json')
      if name == 'parts' or (stem.isdecimal() and int(stem) not in kept):
        storage.remove(self._manifests / name)

  def _set_aside(self, path: epath.Path) -> None:
    if not path.exists():
      return
    target = self._root / 'damaged' / path.relative_to(self._root)
    name, n = target.name, 0
    while target.exists():
      n += 1
      target = target.with_name(f'{name}.{n}')
    storage.move(path, target)


class Parts:
  """What processes other than the first have hashed: `PROCESS.json`.

  They lie in the run's folder, not in a message: threads send none. That one
  is of this very save it says by the hash of what Orbax wrote down about it.

  Args:
    folder: Where they are; made if needed.
    saved: The checkpoint that they are of, all written.
  """

  def __init__(self, folder: epath.Path, saved: epath.Path):
    self._folder = folder
    self._of = sha256(saved / '_CHECKPOINT_METADATA')

  def write(self, process: int, found: dict[str, str]) -> None:
    """Tells process 0 what a process has hashed."""
    self._write(process, {'of': self._of, 'hashes': found})

  def fail(self, process: int, why: str) -> None:
    """Tells process 0 that a process could not."""
    self._write(process, {'of': self._of, 'failed': why})

  def _write(self, process: int, said: dict[str, Any]) -> None:
    self._folder.mkdir(parents=True, exist_ok=True)
    path = self._folder / f'{process}.json'
    storage.write_atomically(path, json.dumps(said))

  def read(self, process: int) -> dict[str, str]:
    """What a process has hashed, once it has.

    Raises:
      OSError: It could not.
    """
    path = self._folder / f'{process}.json'
    while True:
      said = {}
      with contextlib.suppress(FileNotFoundError, ValueError):
        said = json.loads(path.read_text())
      if said.get('of') == self._of:
        break
      time.sleep(0.1)
    if 'failed' in said:
      raise OSError(f'on another host: {said["failed"]}')
    return said['hashes']

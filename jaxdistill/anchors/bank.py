"""Past versions of a model, kept as Orbax snapshots."""

import json
from collections.abc import Mapping
from types import MappingProxyType

import jax
import orbax.checkpoint as ocp
from etils import epath

from jaxdistill import dist, storage
from jaxdistill.checkpoint import (
  RefusedError,
  absolute,
  abstract,
  failing_as_os_error,
  fault,
  hashes,
  orbax_options,
  pure,
  read_manifest,
  restored,
  seal_of,
  why,
  write_atomically,
  written_by,
)


class Bank:
  """Snapshots of parameters under `root/<name>/<step>`.

  Saving is asynchronous. A snapshot counts once it is sealed, by its SHA-256
  hashes in `root/<name>/<step>.json`. It restores onto any mesh.

  Args:
    root: Folder, local or in an object store.
    keep: Newest snapshots to keep of each name; 0 keeps all.
  """

  def __init__(self, root: epath.PathLike, keep: int = 0):
    self.root, self.keep = absolute(root), keep
    self._unsealed: list[epath.Path] = []
    # Names of its own: between processes it would meet the barriers of the
    # run's checkpoints, which may be on their way at the same time.
    self._saver = ocp.StandardCheckpointer(
      multiprocessing_options=ocp.options.MultiprocessingOptions(
        barrier_sync_key_prefix='anchors'
      ),
      **orbax_options(self.root),
    )

  def save(
    self,
    name: str,
    step: int,
    params,
    needed_from: int | None = None,
    keep: int | None = None,
  ) -> None:
    """Writes a snapshot in the background.

    Args:
      name: Of the anchor.
      step: Whose policy it is.
      params: What is written.
      needed_from: Snapshots from this step on stay whatever `keep` says: a
        checkpoint that a run may go on from needs them.
      keep: Newest snapshots to keep of this name, where it is another number.
    """
    keep = self.keep if keep is None else keep
    path = self.root / name / str(step)
    with failing_as_os_error(self.root):
      self._saver.save(path, pure(params))
    self._unsealed.append(path)
    if keep and jax.process_index() == 0:
      for old in sorted({*self._saved(name), step})[:-keep]:
        if old != step and (needed_from is None or old < needed_from):
          path = self.root / name / str(old)
          storage.remove(seal_of(path))  # first: half of it is none
          storage.remove(path)

  def restore(self, name: str, step: int, like):
    """A snapshot with the structure and the shardings of `like`.

    Args:
      name: Of the anchor.
      step: One of `steps(name)`.
      like: Parameters, concrete or abstract, that say what goes where.

    Raises:
      FileNotFoundError: There is no such snapshot; those there are are named.
      RefusedError: It is not what was saved.
    """
    self.wait()
    path = self.root / name / str(step)
    dist.by_first(lambda: self._check(path))
    return restored(self._saver.restore(path, abstract(pure(like))), like)

  def forget_from(
    self, step: int, but: Mapping[str, int] = MappingProxyType({})
  ) -> None:
    """Deletes what a run that died after `step` took of itself since.

    The run that goes on from there takes its own.

    Args:
      step: Snapshots from this one on go.
      but: One snapshot of each name to keep all the same.
    """
    for folder in self._names() if jax.process_index() == 0 else ():
      kept = str(but.get(folder))
      inside = storage.names(self.root / folder)
      for file in sorted(inside, reverse=True):  # seals first
        name = file.removesuffix('.json')
        late = not name.isdecimal() or int(name) >= step
        if late and name != kept:
          storage.remove(self.root / folder / file)

  def steps(self, name: str) -> list[int]:
    """Steps of the sealed snapshots of a name, oldest first."""
    inside = set(storage.names(self.root / name))
    return [s for s in self._saved(name) if f'{s}.json' in inside]

  def listing(self) -> str:
    """All snapshots, as `name@step`, separated by spaces."""
    return ' '.join(f'{n}@{s}' for n in self._names() for s in self.steps(n))

  def wait(self) -> None:
    """Returns when everything saved is on disk and sealed.

    Raises:
      OSError: It could not be written, say for a full disk.
    """
    with failing_as_os_error(self.root):
      self._saver.wait_until_finished()
    unsealed, self._unsealed = self._unsealed, []
    for path in unsealed:
      self._seal(path)

  def _seal(self, path: epath.Path) -> None:
    """Each process hashes what it wrote; process 0 puts all together."""
    found, process = storage.files(path), jax.process_index()
    mine = dist.together(lambda: hashes(path, written_by(process, found)))
    parts = dist.gather_texts([json.dumps(mine)])
    if process == 0 and found:
      every = {k: v for part in parts for k, v in json.loads(part).items()}
      every |= hashes(path, [x for x in found if x not in every])
      text = json.dumps(every, indent=1, sort_keys=True)
      write_atomically(seal_of(path), text)

  def _names(self) -> list[str]:
    return [x for x in storage.names(self.root) if (self.root / x).is_dir()]

  def _saved(self, name: str) -> list[int]:
    inside = storage.names(self.root / name)
    return sorted(int(x) for x in inside if x.isdecimal())

  def _check(self, path: epath.Path) -> None:
    if not path.exists():
      raise FileNotFoundError(
        f'{self.root} has no snapshot {path.parent.name}@{path.name}; '
        f'it has {self.listing() or "none"}'
      )
    if faults := fault(path, read_manifest(seal_of(path))):
      raise RefusedError(f'a past version is damaged: {why(faults)}')

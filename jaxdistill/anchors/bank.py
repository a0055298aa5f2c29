"""Past versions of a model, kept as Orbax snapshots."""

import json
from collections.abc import Mapping
from types import MappingProxyType

import jax
import orbax.checkpoint as ocp
from etils import epath

from jaxdistill import dist
from jaxdistill.checkpoint import (
  RefusedError,
  absolute,
  abstract,
  failing_as_os_error,
  fault,
  hashes,
  pure,
  read_manifest,
  restored,
  seal_of,
  why,
  write_atomically,
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
      )
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
          seal_of(path).unlink(missing_ok=True)  # first: half of it is none
          path.rmtree()

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
    if jax.process_index() == 0 and self.root.exists():
      for folder in self.root.iterdir():
        kept = but.get(folder.name)
        for path in sorted(folder.iterdir(), reverse=True):  # seals first
          name = path.name.removesuffix('.json')
          late = not name.isdecimal() or int(name) >= step
          if late and name != str(kept):
            path.rmtree() if path.is_dir() else path.unlink()

  def steps(self, name: str) -> list[int]:
    """Steps of the sealed snapshots of a name, oldest first."""
    folder = self.root / name
    return [s for s in self._saved(name) if seal_of(folder / str(s)).exists()]

  def listing(self) -> str:
    """All snapshots, as `name@step`, separated by spaces."""
    if not self.root.exists():
      return ''
    names = sorted(p.name for p in self.root.iterdir() if p.is_dir())
    return ' '.join(f'{n}@{s}' for n in names for s in self.steps(n))

  def wait(self) -> None:
    """Returns when everything saved is on disk and sealed.

    Raises:
      OSError: It could not be written, say for a full disk.
    """
    with failing_as_os_error(self.root):
      self._saver.wait_until_finished()
    unsealed, self._unsealed = self._unsealed, []
    if jax.process_index() == 0:
      for path in unsealed:
        if path.exists():
          write_atomically(seal_of(path), json.dumps(hashes(path), indent=1))

  def _saved(self, name: str) -> list[int]:
    folder = self.root / name
    if not folder.exists():
      return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())

  def _check(self, path: epath.Path) -> None:
    if not path.exists():
      raise FileNotFoundError(
        f'{self.root} has no snapshot {path.parent.name}@{path.name}; '
        f'it has {self.listing() or "none"}'
      )
    if faults := fault(path, read_manifest(seal_of(path))):
      raise RefusedError(f'a past version is damaged: {why(faults)}')

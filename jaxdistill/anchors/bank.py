"""Past versions of a model, kept as Orbax snapshots."""

from collections.abc import Mapping
from types import MappingProxyType

import jax
import orbax.checkpoint as ocp
from etils import epath

from jaxdistill.checkpoint import absolute, abstract, pure, restored


class Bank:
  """Snapshots of parameters under `root/<name>/<step>`.

  Saving is asynchronous. A snapshot restores onto any mesh.

  Args:
    root: Folder, local or in an object store.
    keep: Newest snapshots to keep of each name; 0 keeps all.
  """

  def __init__(self, root: epath.PathLike, keep: int = 0):
    self.root, self.keep = absolute(root), keep
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
    self._saver.save(self.root / name / str(step), pure(params))
    if keep and jax.process_index() == 0:
      for old in sorted({*self.steps(name), step})[:-keep]:
        if old != step and (needed_from is None or old < needed_from):
          (self.root / name / str(old)).rmtree()

  def restore(self, name: str, step: int, like):
    """A snapshot with the structure and the shardings of `like`.

    Args:
      name: Of the anchor.
      step: One of `steps(name)`.
      like: Parameters, concrete or abstract, that say what goes where.

    Raises:
      FileNotFoundError: There is no such snapshot; those there are are named.
    """
    self.wait()
    path = self.root / name / str(step)
    if not path.exists():
      raise FileNotFoundError(
        f'{self.root} has no snapshot {name}@{step}; '
        f'it has {self.listing() or "none"}'
      )
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
        for path in folder.iterdir():
          late = not path.name.isdecimal() or int(path.name) >= step
          if late and path.name != str(kept):
            path.rmtree()

  def steps(self, name: str) -> list[int]:
    """Steps of the finished snapshots of a name, oldest first."""
    folder = self.root / name
    if not folder.exists():
      return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())

  def listing(self) -> str:
    """All snapshots, as `name@step`, separated by spaces."""
    if not self.root.exists():
      return ''
    names = sorted(p.name for p in self.root.iterdir())
    return ' '.join(f'{n}@{s}' for n in names for s in self.steps(n))

  def wait(self) -> None:
    """Returns when everything saved is on disk."""
    self._saver.wait_until_finished()

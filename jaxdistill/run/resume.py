"""What is looked at before a run goes on in its folder."""

import sys
from collections.abc import Mapping
from typing import Any

from etils import epath

from jaxdistill import dist
from jaxdistill.checkpoint import Checkpoints, RefusedError
from jaxdistill.run.run import Run
from jaxdistill.run.workdir import Workdir


def claimed(root: epath.PathLike, config: Mapping[str, Any]) -> Workdir:
  """A run's folder, which is its own from now on."""
  workdir = Workdir(root)
  dist.by_first(lambda: workdir.claim(config))
  workdir.claim(config)  # now that process 0 has written it, by all
  return workdir


def newest(checkpoints: Checkpoints, workdir: Workdir) -> int | None:
  """The newest whole step, None if there is none; what is damaged is said."""
  checkpoints.read_together()
  # One process decides, so that all restore the same.
  step, damaged = dist.by_first(checkpoints.recover)
  checkpoints.reload()
  if workdir.writes:
    for later, why in damaged.items():
      print(
        f'checkpoint {later} of {workdir.path} is damaged ({why}) and was '
        f'moved to {workdir.path / "damaged"}',
        file=sys.stderr,
      )
  return step


def check_origin(path: epath.Path, record: Mapping[str, Any], run: Run) -> None:
  """Refuses to go on with other models than a run began with."""
  began, now = record['model'], run.loaded.sha256
  if began != now:
    raise RefusedError(
      f'{path} began from a model with SHA-256 {began[:12]}; config.model now '
      f'has {now[:12]}'
    )
  if record['teachers'] != teachers_sha256(run):
    raise RefusedError(
      f'{path} was taught by other models than its config names now: their '
      'SHA-256 differ'
    )


def teachers_sha256(run: Run) -> dict[str, str]:
  """Which models teach a run."""
  return {name: t.loaded.sha256 for name, t in run.teachers.items()}

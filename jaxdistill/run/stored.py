"""Versions of a model that a run has left: checkpoints and anchors."""

import sys
from typing import Any

import jax
from etils import epath

from jaxdistill import dist
from jaxdistill.anchors import Bank
from jaxdistill.checkpoint import Checkpoints, why


def check_stored(workdir: epath.PathLike, anchor: str | None) -> None:
  """Finds that a version is not there, before a model is built.

  Args:
    workdir: The run's folder.
    anchor: `name@step`, or None for the newest checkpoint.

  Raises:
    ValueError: It is not; says which there are.
  """
  root = epath.Path(workdir)
  if anchor:
    known = Bank(root / 'anchors').listing()
    if anchor not in known.split():
      raise ValueError(
        f'--anchor is {anchor!r}; it must be name@step, one of: '
        f'{known or "none is there yet"}'
      )
  elif not ((root / 'checkpoints').is_dir() and (root / 'manifests').is_dir()):
    raise ValueError(f'{workdir} has no whole checkpoint yet')


def stored_params(
  workdir: epath.PathLike, anchor: str | None, like: Any
) -> Any:
  """Parameters of a run's newest checkpoint or of one of its anchors.

  All processes call it alike.

  Args:
    workdir: The run's folder.
    anchor: `name@step`, or None for the newest checkpoint.
    like: Parameters that say what goes where.

  Raises:
    ValueError: There is none, or it is damaged.
  """
  if anchor:
    bank = Bank(epath.Path(workdir) / 'anchors')
    name, _, step = anchor.partition('@')
    return bank.restore(name, int(step), like)
  checkpoints = Checkpoints(workdir)
  checkpoints.read_together()

  def find():
    step, damaged = checkpoints.find()
    return step, {later: why(faults) for later, faults in damaged.items()}

  # One process decides, so that all restore the same.
  newest, damaged = dist.by_first(find)
  for step, faults in damaged.items() if jax.process_index() == 0 else ():
    told = f'checkpoint {step} is damaged ({faults})'
    print(f'{told}; the one before is used', file=sys.stderr)
  if newest is None:
    raise ValueError(f'{workdir} has no whole checkpoint yet')
  return checkpoints.restore(newest, {'params': like})[0]['params']

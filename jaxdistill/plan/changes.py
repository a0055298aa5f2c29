"""What makes a run fit, or faster: other settings, each planned as well."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxdistill.config import ConfigError
from jaxdistill.config.keys import override
from jaxdistill.dist.mesh import Sizes, fitting, machines
from jaxdistill.plan.estimate import Plan, plan


class Tried(NamedTuple):
  """Other settings, and what they come to.

  Attributes:
    changes: Keys of the config and their values.
    plan: None where they cannot be.
  """

  changes: Mapping[str, Any]
  plan: Plan | None


def changed(config: Any, changes: Mapping[str, Any]) -> Any:
  """A config with other values."""
  new = copy.deepcopy(config)
  override(new, changes.items())
  return new


def nearest(
  config: Any,
  devices: Sequence[Any],
  name: str,
  misfit: Plan,
  tell: Callable[[str], None] = lambda text: None,
) -> Tried | None:
  """The smallest change that was found to fit.

  Args:
    config: Of a run that does not.
    devices: That it is to run on.
    name: Of these.
    misfit: Its plan.
    tell: Is given what is tried.
  """
  for changes in _candidates(config, devices, misfit):
    tell(' '.join(f'{k}={v}' for k, v in changes.items()))
    try:
      found = plan(changed(config, changes), devices, name)
    except ConfigError:
      continue
    if found.fits:
      return Tried(changes, found)
  return None


def _candidates(
  config: Any, devices: Sequence[Any], misfit: Plan
) -> Iterator[dict[str, Any]]:
  """What may help, what changes least of the science first."""
  trains = 'train' in {p.name for p in misfit.misfits}
  meshes = [
    _keys(sizes)
    for sizes in _more_shards(
      misfit.mesh['fsdp'], misfit.mesh['tensor'], devices
    )
  ]
  if trains and config.remat != 'full':
    yield {'remat': 'full'}
  if trains and config.batch.sequences:
    smaller = max(config.batch.sequences // 2, 1)
    yield {'batch.sequences': smaller}
  elif trains and config.batch.tokens >= 256:
    yield {'batch.tokens': config.batch.tokens // 2}
  yield from meshes
  if not trains and not config.rollout.sharded:
    yield {'rollout.sharded': True}
  both = meshes[-1] if meshes else {}
  both = both | ({'remat': 'full'} if config.remat != 'full' else {})
  yield both | {'rollout.sharded': True}
  if not config.optimizer.offload:
    yield both | {'rollout.sharded': True, 'optimizer.offload': True}
  if config.trainable == 'full':
    yield both | {'trainable': 'lora'}
    yield both | {'trainable': 'lora', 'rollout.sharded': True}


def _keys(sizes: Sizes) -> dict[str, Any]:
  """A mesh as keys of a config."""
  return {f'mesh.{k}': v for k, v in sizes._asdict().items()}


def _more_shards(fsdp: int, tensor: int, devices: Sequence[Any]) -> list[Sizes]:
  """Meshes with more shards of the parameters, the fewest first.

  Of those with as many, the one whose `tensor` is nearest to what it is.
  """
  best: dict[int, Sizes] = {}
  for sizes in fitting(machines(devices)):
    count = sizes.fsdp * sizes.tensor
    away = abs(math.log2(sizes.tensor / tensor))
    held = best.get(count)
    if count > fsdp * tensor and (
      held is None or away < abs(math.log2(held.tensor / tensor))
    ):
      best[count] = sizes
  return [best[count] for count in sorted(best)]


def search(config: Any, devices: Sequence[Any], name: str) -> Iterator[Tried]:
  """Plans of all meshes that fit, with what the backward pass keeps.

  Args:
    config: Of the run.
    devices: That it is to run on.
    name: Of these.
  """
  for sizes in fitting(machines(devices)):
    for remat in ('none', 'full'):
      changes = _keys(sizes) | {'remat': remat}
      try:
        yield Tried(changes, plan(changed(config, changes), devices, name))
      except ConfigError:
        yield Tried(changes, None)

"""What makes a run fit, or faster: other settings, each planned as well."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxdistill.config import ConfigError
from jaxdistill.config.keys import override
from jaxdistill.dist.mesh import Machines, Sizes, fitting, machines
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
  now, there = Sizes(**config.mesh), machines(devices)
  meshes = [_keys(sizes, now) for sizes in _more_shards(misfit.mesh, there)]
  if trains and config.remat != 'full':
    yield {'remat': 'full'}
  if trains and config.batch.sequences:
    smaller = max(config.batch.sequences // 2, 1)
    yield {'batch.sequences': smaller}
  elif trains and config.batch.tokens >= 256:
    yield {'batch.tokens': config.batch.tokens // 2}
  if trains and misfit.alone:
    yield from (_keys(sizes, now) for sizes in _split(misfit.mesh, there))
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


def _keys(sizes: Sizes, now: Sizes) -> dict[str, Any]:
  """A mesh as keys of a config; `context` only where it is another."""
  keys = {f'mesh.{k}': v for k, v in sizes._asdict().items()}
  if sizes.context == now.context:
    del keys['mesh.context']
  return keys


def _split(mesh: Mapping[str, int], there: Machines) -> list[Sizes]:
  """Meshes with as many shards of the parameters, and more of the tokens."""
  shards = mesh['fsdp'] * mesh['context']
  found = [
    sizes
    for sizes in fitting(there)
    if sizes.fsdp * sizes.context == shards
    and sizes.tensor == mesh['tensor']
    and sizes.context > mesh['context']
  ]
  return sorted(found, key=lambda sizes: sizes.context)


def _more_shards(mesh: Mapping[str, int], there: Machines) -> list[Sizes]:
  """Meshes with more shards of the parameters, the fewest first.

  Of those with as many, the one whose `tensor` is nearest to what it is.
  """
  best: dict[int, Sizes] = {}
  tensor, context = mesh['tensor'], mesh['context']
  for sizes in fitting(there):
    count = sizes.fsdp * sizes.tensor
    away = abs(math.log2(sizes.tensor / tensor))
    held = best.get(count)
    if (sizes.context, count > mesh['fsdp'] * tensor) == (context, True) and (
      held is None or away < abs(math.log2(held.tensor / tensor))
    ):
      best[count] = sizes
  return [best[count] for count in sorted(best)]


def search(config: Any, devices: Sequence[Any], name: str) -> Iterator[Tried]:
  """Plans of all meshes that fit, with what the backward pass keeps.

  Tokens are split only where that is of use: where a device has one sequence at
  a time, and the same shards of the parameters do not fit without.

  Args:
    config: Of the run.
    devices: That it is to run on.
    name: Of these.
  """
  now, too_long = Sizes(**config.mesh), set()
  for sizes in sorted(fitting(machines(devices)), key=lambda s: s.context):
    for remat in ('none', 'full'):
      alike = sizes.data, sizes.fsdp * sizes.context, sizes.tensor, remat
      if sizes.context > 1 and alike not in too_long:
        continue
      changes = _keys(sizes, now) | {'remat': remat}
      try:
        found = plan(changed(config, changes), devices, name)
      except ConfigError:
        found = None
      if found and found.alone and 'train' in {p.name for p in found.misfits}:
        too_long.add(alike)
      else:
        too_long.discard(alike)
      yield Tried(changes, found)

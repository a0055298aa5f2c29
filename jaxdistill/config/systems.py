"""Published systems by name: the keys of a config that make it one of them."""

from typing import Any

from jaxdistill.config.keys import ConfigError
from jaxdistill.methods import (
  minillm,
  offline_distill,
  opsa,
  rft,
  rlcsd,
  self_distill,
  teacher_distill,
)
from jaxdistill.spelling import among

SYSTEMS: dict[str, dict[str, Any]] = {
  **self_distill.SYSTEMS,
  **rft.SYSTEMS,
  **opsa.SYSTEMS,
  **rlcsd.SYSTEMS,
  **teacher_distill.SYSTEMS,
  **minillm.SYSTEMS,
  **offline_distill.SYSTEMS,
}


def system(name: str) -> dict[str, Any]:
  """The keys of a published system, for `override`.

  Raises:
    ConfigError: There is none of that name; the nearest is named.
  """
  of = [n for n, keys in SYSTEMS.items() if keys['method.name'] == name]
  if of and name not in SYSTEMS:
    raise ConfigError(f'{name!r} is a method; its systems are {", ".join(of)}')
  if name not in SYSTEMS:
    raise ConfigError(
      f'there is no system {name!r}{among(name, SYSTEMS)} (there are '
      f'{", ".join(SYSTEMS)})'
    )
  return SYSTEMS[name]

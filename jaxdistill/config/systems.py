"""Published systems by name: the keys of a config that make it one of them."""

from typing import Any

from jaxdistill.config.keys import ConfigError, method_names, systems_of
from jaxdistill.spelling import among

SYSTEMS: dict[str, dict[str, Any]] = {
  name: keys
  for method in method_names()
  for name, keys in systems_of(method).items()
}


def system(name: str) -> dict[str, Any]:
  """The keys of a published system, for `override`.

  Raises:
    ConfigError: There is none of that name; the nearest is named.
  """
  if name not in SYSTEMS and name in method_names():
    of = [n for n, keys in SYSTEMS.items() if keys['method.name'] == name]
    known = f'its systems are {", ".join(of)}' if of else 'it has no systems'
    raise ConfigError(f'{name!r} is a method, method.name={name}; {known}')
  if name not in SYSTEMS:
    raise ConfigError(
      f'there is no system {name!r}{among(name, SYSTEMS)} (there are '
      f'{", ".join(SYSTEMS)})'
    )
  return SYSTEMS[name]

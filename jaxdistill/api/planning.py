"""What a run would take on devices that need not be here."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax

from jaxdistill import config as configs
from jaxdistill.api.refusing import in_one_line
from jaxdistill.plan import published, slices
from jaxdistill.plan.changes import nearest, search
from jaxdistill.plan.estimate import Plan, plan
from jaxdistill.plan.measured import beside, read
from jaxdistill.plan.text import as_json, table

__all__ = [
  'Plan',
  'as_json',
  'beside',
  'configure',
  'devices',
  'nearest',
  'plan',
  'read',
  'search',
  'table',
]


def configure(path: str, overrides: Iterable[tuple[str, str]] = ()) -> Any:
  """The config of a run, complete and checked but for the devices.

  Raises:
    ConfigError: Names what is wrong.
  """
  config: Any = configs.read_config(path, overrides)
  if published.known(config.model):
    configs.check_settings(config)
  else:
    configs.check(config)
  return config


def devices(topology: str = '') -> tuple[Sequence[Any], str]:
  """Those of a topology, and what to call them; those at hand by default.

  Raises:
    ConfigError: There is no such topology, or no compiler for it.
  """
  with in_one_line():
    if topology:
      return slices.devices(topology), topology
    found = jax.devices()
    return found, f'{found[0].device_kind} here'

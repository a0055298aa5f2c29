"""Configs from files of Python."""

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxdistill.config.checks import check_frame
from jaxdistill.config.comparison import Comparison
from jaxdistill.config.keys import ConfigError, override, python_module
from jaxdistill.config.paths import make_absolute
from jaxdistill.models.remat import named


def read_config(path: str, overrides: Iterable[tuple[str, Any]]) -> ConfigDict:
  """The config of a file, with overrides applied.

  Args:
    path: A Python file with `get_config()`; `FILE.py:NAME` calls
      `get_config(NAME)`.
    overrides: Keys (`method.samples`) and values, as written or as they are.

  Raises:
    ConfigError: No such file, key, or type.
  """
  config = _get_config(path)
  if isinstance(config, Comparison):
    raise ConfigError(f'{path} is a comparison: jaxdistill compare runs it')
  if not isinstance(config, ConfigDict):
    raise ConfigError(f'{path}: get_config() must return a ConfigDict')
  return complete(config, overrides)


def complete(
  config: ConfigDict, overrides: Iterable[tuple[str, Any]]
) -> ConfigDict:
  """A copy of a config with overrides applied; see `read_config`."""
  config = ConfigDict(config.to_dict(), convert_dict=True)
  check_frame(config)
  with config.ignore_type():
    if 'remat' in config:
      config.remat = named(config.remat)
  override(config, overrides)
  make_absolute(config)
  return config


def read_comparison(
  path: str, overrides: Iterable[tuple[str, Any]]
) -> Comparison:
  """The comparison of a file, with overrides applied to its base.

  Args:
    path: A Python file whose `get_config()` gives a `Comparison`.
    overrides: As for `read_config`; what an arm sets, it sets all the same.

  Raises:
    ConfigError: No such file, key, or type, or no arms or seeds.
  """
  found = _get_config(path)
  if not isinstance(found, Comparison):
    raise ConfigError(
      f'{path}: get_config() must return a Comparison (jaxdistill train runs '
      'single runs)'
    )
  return complete_comparison(found, overrides, path)


def complete_comparison(
  found: Comparison, overrides: Iterable[tuple[str, Any]], name: str
) -> Comparison:
  """A copy of a comparison with overrides applied; see `read_comparison`."""
  if not found.arms or not found.seeds:
    raise ConfigError(f'{name}: a comparison needs arms and seeds')
  if (
    isinstance(found.seeds, Mapping) and found.seeds.keys() != found.arms.keys()
  ):
    odd = sorted({*found.seeds} ^ {*found.arms})
    raise ConfigError(f'{name}: arms and seeds differ in {", ".join(odd)}')
  overrides = list(overrides)
  if any(key == 'seed' for key, _ in overrides):
    raise ConfigError('config.seed: the seeds of a comparison are --seeds')
  found = dataclasses.replace(found, base=complete(found.base, overrides))
  if not found.base.tokens:
    raise ConfigError(
      f'{name}: a comparison needs a budget: base.tokens in it, or '
      '--config.tokens=N'
    )
  return found


def _get_config(path: str) -> Any:
  """What a file's `get_config` gives; that of `FILE.py:NAME` is told the name.

  (As ml_collections' config flags have it.)
  """
  file, parameterised, argument = path.partition('.py:')
  module = python_module(file + '.py' if parameterised else file)
  if parameterised and not inspect.signature(module.get_config).parameters:
    raise ConfigError(f'{file}.py: get_config() takes no {argument!r}')
  try:
    return module.get_config(*[argument] * bool(parameterised))
  except ConfigError:
    raise
  except (Exception, SystemExit) as e:  # it is the user's code
    raise ConfigError(f'{path}: {type(e).__name__}: {e}') from None

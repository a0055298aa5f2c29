"""A run's config: complete defaults, checked overrides, and what it builds.

Bad input ends in a `ConfigError`: one line that names the key or value and the
nearest right one.
"""

from jaxdistill.config.building import build, make_data, prepare
from jaxdistill.config.checks import (
  check,
  check_frame,
  check_settings,
  check_training,
)
from jaxdistill.config.comparison import Comparison
from jaxdistill.config.keys import (
  ConfigError,
  base_config,
  method_class,
  override,
)
from jaxdistill.config.read import (
  complete,
  complete_comparison,
  read_comparison,
  read_config,
)
from jaxdistill.config.systems import SYSTEMS, system
from jaxdistill.methods.sqlm import CONTROLS

__all__ = [
  'CONTROLS',
  'SYSTEMS',
  'Comparison',
  'ConfigError',
  'base_config',
  'build',
  'check',
  'check_frame',
  'check_settings',
  'check_training',
  'complete',
  'complete_comparison',
  'make_data',
  'method_class',
  'override',
  'prepare',
  'read_comparison',
  'read_config',
  'system',
]

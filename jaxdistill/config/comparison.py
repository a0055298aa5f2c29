"""Arms that are compared under one budget."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxdistill.config.keys import override
from jaxdistill.config.paths import make_absolute


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Arms to be compared under one budget; what `jaxdistill compare` runs.

  Attributes:
    base: A run's config, with `tokens` set: a run ends with the step in which
      so many are generated, or scored by others than the policy.
    arms: Name -> the keys that it changes (`{'method.samples': 4}`); the first
      is the one that the others are held against.
    seeds: For each arm, or by arm where they differ: `{'a': (0, 1), ...}`.
  """

  base: ConfigDict
  arms: Mapping[str, Mapping[str, Any]]
  seeds: Sequence[int] | Mapping[str, Sequence[int]]

  def seeds_of(self, arm: str) -> tuple[int, ...]:
    """The seeds of an arm."""
    if isinstance(self.seeds, Mapping):
      return tuple(self.seeds[arm])
    return tuple(self.seeds)

  def config(self, arm: str, seed: int) -> ConfigDict:
    """The config of one run."""
    config = ConfigDict(self.base.to_dict(), convert_dict=True)
    override(config, self.arms[arm].items())
    config.seed = seed
    make_absolute(config)
    return config

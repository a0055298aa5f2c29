"""The small world's task with other problems to train on.

What a model is held against stays: the held-out splits, prompts and answers are
those of `small`.
"""

import collections
import dataclasses
from collections.abc import Mapping

from jaxdistill.data.small import world
from jaxdistill.data.tasks.problems import TRAIN, by_index, generator
from jaxdistill.data.tasks.small import SmallTask
from jaxdistill.types import Problem, Problems

# The share of each kind in the train split; `small` itself has CORPUS_MIX.
POOLS: Mapping[str, dict] = {
  'narrow': {('add', 2, 2): 1},
  # About half is of the kinds of the ood split, of its train problems only.
  'broad': dict(
    collections.Counter(world.CORPUS_MIX) + collections.Counter(world.OOD_MIX)
  ),
}


@dataclasses.dataclass(frozen=True)
class PoolTask(SmallTask):
  """The small world's problems, those to train on drawn by index.

  Attributes:
    pool: One of `POOLS`.
  """

  pool: str = 'broad'

  @property
  def name(self) -> str:
    return f'small:{self.pool}'

  def problems(self, split: str) -> Problems:
    if split != 'train':
      return super().problems(split)
    mix = POOLS[self.pool]

    def read(index: int) -> Problem:
      rng = generator(self.name, 'train', index)
      return self.asked(world.draw_sum(rng, mix, 'train'))

    return by_index(TRAIN, read)

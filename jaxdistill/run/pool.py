"""Which problems of a task are trained on, and in which order."""

from typing import Any

import grain

from jaxdistill.types import Problems, Task

POOL = 0  # the seed that pools of problems are drawn by


def pool_of(task: Task, pool: int) -> Problems:
  """The first so many of a task's shuffled train problems; 0 is all of them.

  A pool is part of any larger one, and the same whatever a run's seed.
  """
  problems: Any = task.problems('train')  # lists too
  if pool:
    problems = grain.MapDataset.source(problems).shuffle(seed=POOL)[:pool]
  return problems


def shuffled(task: Task, pool: int, seed: int) -> Any:
  """The problems of a pool, read by index, in a run's order, without an end."""
  # As a source: a slice on its own has others each time round.
  problems: Any = pool_of(task, pool)
  return grain.MapDataset.source(problems).shuffle(seed=seed).repeat()

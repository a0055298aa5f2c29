"""Tasks by name: `small` (problems) and `small:corpus` (documents)."""

import dataclasses
import difflib
import functools
from typing import Any

from jaxdistill.data import small_world as world
from jaxdistill.types import Problem, Problems


@dataclasses.dataclass(frozen=True)
class SmallTask:
  """Arithmetic of the small world, with its answers.

  Attributes:
    name: `small`, or `small:corpus` where the train split is the pretraining
      corpus.
  """

  name: str = 'small'

  def problems(self, split: str) -> Problems:
    return _problems(self, split)

  def solver_prompt(self, problem: Problem) -> str:
    return f'solve {problem.text}:'

  def proposer_prompt(self, topic: Problem) -> str:
    return f'propose {topic.topic}:'

  def parse_problem(self, text: str) -> Problem | None:
    found = world.read_sum(text)
    if found is None:
      return None
    return Problem(text, self, answer=str(found.answer), topic=found.operation)

  def held_out(self, problem: Problem) -> bool:
    found = world.read_sum(problem.text)
    return found is not None and found.split != 'train'

  def parse_answer(self, text: str) -> str | None:
    return world.read_answer(text)


@functools.lru_cache
def _problems(task: SmallTask, split: str) -> Problems:
  from jaxdistill.data import builders  # TFDS takes half a second to import

  if task.name == 'small:corpus' and split == 'train':

    def read(example):
      pair = example['prompt'], example['response']
      return Problem(example['prompt'], task, demonstration=pair)

    documents: Any = builders.source('corpus', split).map(read)
    return documents

  def read(example):
    text, answer = example['text'], example['answer']
    found = world.read_sum(text)
    assert found is not None, f'{text} is in the data but not of the world'
    pair = f'solve {text}:', world.work(found, None, 0.0, 0.0)
    return Problem(text, task, answer, example['operation'], pair)

  problems: Any = builders.source('problems', split).map(read)
  return problems


TASKS = ('small', 'small:corpus')
HELD_OUT = ('dev', 'test', 'ood')


def load_task(name: str) -> SmallTask:
  """A task by its name.

  Raises:
    ValueError: There is no such task; the nearest is named.
  """
  if name in TASKS:
    return SmallTask(name)
  near = difflib.get_close_matches(name, TASKS, 1, 0)[0]
  raise ValueError(f'there is no task {name!r}; the nearest is {near!r}')

"""The small world as a task: its problems, prompts and answers."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jaxdistill.data.small import judging, world
from jaxdistill.data.tasks.problems import right
from jaxdistill.types import Hint, Problem, Problems, Task, Wording

Corpus = Literal['', 'corpus', 'wide', 'judging', 'foreign']
CORPORA: tuple[Corpus, ...] = ('corpus', 'wide', 'judging', 'foreign')


# Only `small-wide` and `small-judge` compare workings, or revise one.
WORDINGS = {
  'verify': Wording('verify {text}:{0}?', ('yes', 'no')),
  'compare': Wording(
    judging.compare_prompt('{text}', '{0}', '{1}'), ('1', '2')
  ),
  'revise': Wording(judging.REVISE),
  'reflect': Wording('hint {0} solve {text}:'),
  'guess': Wording('hint {0} propose {topic}:'),
}


@dataclasses.dataclass(frozen=True)
class SmallTask(Task):
  """Arithmetic of the small world, with its answers.

  Attributes:
    corpus: Which corpus its train split is; empty for problems.
  """

  corpus: Corpus = ''

  @property
  def name(self) -> str:
    return f'small:{self.corpus}' if self.corpus else 'small'

  @property
  def asks(self) -> bool:
    return not self.corpus

  def problems(self, split: str) -> Problems:
    return _problems(self, split)

  @property
  def wording(self) -> world.Wording:
    """How its demonstrations say a step."""
    return world.FOREIGN if self.corpus == 'foreign' else world.OWN

  def asked(self, found: world.Sum) -> Problem:
    """A problem with its answer and clean working to learn from."""
    text, working = str(found), world.work(found, None, 0.0, 0.0, self.wording)
    pair = f'solve {text}:', working
    return Problem(text, self, str(found.answer), found.operation, pair)

  def solver_prompt(self, problem: Problem) -> str:
    return f'solve {problem.text}:'

  def proposer_prompt(self, topic: Problem) -> str:
    return f'propose {topic.topic}:'

  def hinted_prompt(self, problem: Problem, hint: Hint) -> str:
    return f'hint {hint.text} solve {problem.text}:'

  @property
  def wordings(self) -> Mapping[str, Wording]:
    return WORDINGS

  def critique(self, problem: Problem, response: str) -> str | None:
    found = world.read_sum(problem.text)
    return found and world.mended(found, response)

  def without_thinking(self, response: str) -> str:
    return world.without_slips(response)

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

  def reward(
    self, problem: Problem, answers_G: Sequence[str | None]
  ) -> list[float]:
    return right(problem, answers_G)


@functools.lru_cache
def _problems(task: SmallTask, split: str) -> Problems:
  from jaxdistill.data import builders  # TFDS takes half a second to import

  if task.corpus and split == 'train':

    def read(example):
      pair = example['prompt'], example['response']
      return Problem(example['prompt'], task, demonstration=pair)

    documents: Any = builders.source(task.corpus, split).map(read)
    return documents

  def read(example):
    found = world.read_sum(example['text'])
    assert found is not None, f'{example} is in the data but not of the world'
    return task.asked(found)

  problems: Any = builders.source('problems', split).map(read)
  return problems

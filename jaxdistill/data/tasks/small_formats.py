"""The other formats of the small world as tasks, for models that know them.

`small:compare` and `small:revise` judge workings, `small:facts` asks about
people whose passages no corpus tells, `small:relevance` grades items.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxdistill.data.small import items, judging, people, world
from jaxdistill.data.tasks import problems
from jaxdistill.types import Problem, Problems, Task, Wording

COUNTS = {'dev': 200, 'test': 500, 'ood': 500}


class Asked(NamedTuple):
  """One problem as it is drawn.

  Attributes:
    prompt: The whole text that asks for it.
    answer: The right one.
    topic: What it is about: of facts the passage, of workings the operation.
    demonstration: A prompt and a response to learn from, if there is one.
  """

  prompt: str
  answer: str
  topic: str = ''
  demonstration: tuple[str, str] | None = None


Draw = Callable[[np.random.Generator, str], Asked]


def _sums(split: str) -> tuple[dict, str]:
  """The mix of kinds and the split of the sums that a split is made of."""
  if split == 'ood':
    return world.OOD_MIX, 'test'
  return (world.CORPUS_MIX if split == 'train' else world.TEST_MIX), split


def _compare(rng: np.random.Generator, split: str) -> Asked:
  prompt, answer = judging.draw_comparison(rng, *_sums(split))
  return Asked(prompt, answer, 'compare', (prompt, answer))


def _revise(rng: np.random.Generator, split: str) -> Asked:
  problem, attempt = judging.draw_first_attempt(rng, *_sums(split))
  prompt = judging.revise_prompt(str(problem), attempt)
  shown = prompt, world.work(problem, None, 0.0, 0.0)
  return Asked(prompt, str(problem.answer), problem.operation, shown)


def _facts(rng: np.random.Generator, split: str) -> Asked:
  ood = split == 'ood'
  name = people.draw_name(rng, 'test' if ood else split, 4 if ood else 3)
  key = str(rng.choice([*people.FACTS]))
  passage = people.passage(name)
  told = people.tell_prompt(name), passage
  answer = people.facts(name)[key]
  return Asked(people.ask_prompt(name, key), answer, passage, told)


def _relevance(rng: np.random.Generator, split: str) -> Asked:
  if split == 'ood':
    pair = items.draw_alike(rng, 'test')
  else:
    pair = items.draw_pair(rng, split)
  prompt, answer = items.grade_prompt(*pair), str(items.grade(*pair))
  return Asked(prompt, answer, 'grade', (prompt, answer))


class Format(NamedTuple):
  """How problems of a format are drawn, and answers read.

  Attributes:
    draw: One problem of a split.
    read: The answer in a response, or None.
    form: Of a prompt, a regular expression.
  """

  draw: Draw
  read: Callable[[str], str | None]
  form: str


def _word(text: str) -> str | None:
  return text if re.fullmatch(r'[a-z]+|[0-9]', text) else None


FORMATS: Mapping[str, Format] = {
  'compare': Format(_compare, _word, r'compare [0-9+*-]+:.+ or .+\?'),
  'revise': Format(
    _revise, world.read_answer, r'solve [0-9+*-]+:.+<eos>revise:'
  ),
  'facts': Format(_facts, _word, r'(read .+ )?ask [a-z ]+:'),
  'relevance': Format(_relevance, _word, r'query [a-z ]+ item [a-z ]+ grade:'),
}


@dataclasses.dataclass(frozen=True)
class FormatTask(Task):
  """Problems of one of the small world's formats, with their answers.

  Problems of the held-out splits are in no corpus and no train split. Out of
  distribution are sums that the corpus shows rarely or never, people with four
  syllables, and queries of two words of one kind.

  Of `facts`, a problem's topic is the passage that answers it, and its
  demonstration is that passage, told.

  Attributes:
    format: One of `FORMATS`.
  """

  format: str

  @property
  def name(self) -> str:
    return f'small:{self.format}'

  def problems(self, split: str) -> Problems:
    def train(i):
      rng = problems.generator(self.name, 'train', i)
      return Problem(task=self, **_named(FORMATS[self.format].draw(rng, split)))

    return problems.of_split(
      self.name, split, problems.HELD_OUT, train, lambda s: _held_out(self, s)
    )

  def solver_prompt(self, problem: Problem) -> str:
    return problem.text

  @property
  def wordings(self) -> Mapping[str, Wording]:
    return {}  # no corpus has any about these

  def parse_problem(self, text: str) -> Problem | None:
    """A prompt of this format, whose answer is not looked for."""
    if not re.fullmatch(FORMATS[self.format].form, text):
      return None
    return Problem(text, self)

  def parse_answer(self, text: str) -> str | None:
    return FORMATS[self.format].read(text)

  def reward(
    self, problem: Problem, answers_G: Sequence[str | None]
  ) -> list[float]:
    return problems.right(problem, answers_G)


@functools.lru_cache
def _held_out(task: FormatTask, split: str) -> list[Problem]:
  found = problems.draw_different(
    task.name,
    split,
    lambda rng: FORMATS[task.format].draw(rng, split),
    lambda asked: True,
    COUNTS[split],
  )
  return [Problem(task=task, **_named(asked)) for asked in found]


def _named(asked: Asked) -> dict:
  """Of an `Asked`, what a `Problem` calls it."""
  values = asked._asdict()
  return {'text': values.pop('prompt'), **values}

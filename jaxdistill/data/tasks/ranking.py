"""Queries with items that are graded: what a cross-encoder learns from."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from jaxdistill.data.small import items
from jaxdistill.data.tasks import problems
from jaxdistill.data.tasks.small_formats import FormatTask
from jaxdistill.types import Problem, Problems

# What a train split's queries are like, beside those of the test split.
Coverage = Literal['narrow', 'matched', 'broad']
COVERAGES: tuple[Coverage, ...] = ('narrow', 'matched', 'broad')


class Item(NamedTuple):
  """An item under a query.

  Attributes:
    query: Its text, as a cross-encoder reads it.
    text: The item's, likewise.
    grade: How well it fits, where that is known.
  """

  query: str
  text: str
  grade: float | None


@runtime_checkable
class Ranking(Protocol):
  """What a task has besides, whose problems are queries.

  Attributes:
    grades: The words by which a language model grades, and what they are worth.
  """

  @property
  def grades(self) -> Mapping[str, float]: ...

  def items(self, problem: Problem, count: int) -> Sequence[Item]:
    """At most `count` items of a problem's query, the same at every call.

    Those of a held-out problem are in no train problem.
    """
    ...

  def question(self, item: Item) -> str:
    """The text that asks a language model for a grade."""
    ...


@dataclasses.dataclass(frozen=True)
class RelevanceTask(FormatTask):
  """Items of the small world; a problem asks for the grade of one.

  Attributes:
    format: Of the small world.
    coverage: Of the train split. Its queries are of colours and shapes only
      (`narrow`), like those of the test split (`matched`), or half of them like
      those that are out of distribution (`broad`).
  """

  format: str = 'relevance'
  coverage: Coverage = 'matched'

  @property
  def grades(self) -> Mapping[str, float]:
    return {str(grade): float(grade) for grade in range(5)}

  @property
  def name(self) -> str:
    wider = '' if self.coverage == 'matched' else f':{self.coverage}'
    return f'{super().name}{wider}'

  def problems(self, split: str) -> Problems:
    if split != 'train' or self.coverage == 'matched':
      return super().problems(split) if self == PLAIN else PLAIN.problems(split)

    def train(i):
      rng = problems.generator(self.name, 'train', i)
      draw = _narrow if self.coverage == 'narrow' else _broad
      pair = draw(rng)
      prompt, answer = items.grade_prompt(*pair), str(items.grade(*pair))
      return Problem(prompt, self, answer, 'grade', (prompt, answer))

    return problems.by_index(problems.TRAIN, train)

  def items(self, problem: Problem, count: int) -> list[Item]:
    query, item = items.read_pair(problem.text)
    found = _pool(query, items.split_of(query, item))
    grades = np.array([items.grade(query, item) for item in found])
    weights = 1 / np.bincount(grades)[grades]  # each grade as often
    chosen = problems.generator(problem.text, count).choice(
      len(found),
      min(count, len(found)),
      replace=False,
      p=weights / weights.sum(),
    )
    return [
      Item(f'query {query}', f'item {found[i]}', float(grades[i]))
      for i in chosen
    ]

  def question(self, item: Item) -> str:
    return f'{item.query} {item.text} grade:'


PLAIN = RelevanceTask()


def _narrow(rng: np.random.Generator) -> tuple[str, str]:
  """A query of a colour and a shape."""
  kinds = [{word for pair in kind for word in pair} for kind in items.KINDS]

  def fits(pair):
    return all({*pair[0].split()} & kind for kind in kinds[:2])

  return problems.draw(rng, lambda rng: items.draw_pair(rng, 'train'), fits)


def _broad(rng: np.random.Generator) -> tuple[str, str]:
  draw = items.draw_alike if rng.random() < 0.5 else items.draw_pair
  return draw(rng, 'train')


@functools.lru_cache(2**10)
def _pool(query: str, split: str) -> list[str]:
  """The items of a query that are of a split."""
  return [x for x in items.every_item() if items.split_of(query, x) == split]


def relevance_tasks() -> dict[str, Any]:
  """Tasks by name."""
  tasks = [RelevanceTask(coverage=coverage) for coverage in COVERAGES]
  return {task.name: task for task in tasks}

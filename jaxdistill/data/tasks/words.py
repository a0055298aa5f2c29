"""Word problems about linear relations, made from templates."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxdistill import rewards
from jaxdistill.data.tasks import problems
from jaxdistill.types import Problem, Problems, Task

SOLVE = '{text}\n' + problems.BOXED
MARK = 'Problem:'
PROPOSE = (
  'Write one new word problem about {topic}. It should relate a few numbers '
  'linearly, in one to three steps, and its answer should be a single number. '
  'Begin it with `Problem:` and end it with its question. Do not solve it.'
)
NAMES = (
  *('Ada', 'Ben', 'Chloe', 'Diego', 'Emma', 'Farid', 'Grace', 'Hugo', 'Ines'),
  *('Jonas', 'Keiko', 'Liam', 'Maya', 'Noah', 'Olga', 'Priya', 'Rosa', 'Sam'),
)
THINGS = (
  *('apples', 'books', 'buttons', 'cards', 'coins', 'eggs', 'marbles'),
  *('pencils', 'shells', 'stamps', 'stickers', 'tickets'),
)
COUNTS = {'dev': 256, 'test': 1024, 'ood': 256}


class Template(NamedTuple):
  """A text with places for names, things and the numbers a, b and c."""

  topic: str
  text: str
  ranges: tuple[tuple[int, int], ...]
  answer: Callable[[int, int, int], float]


TEMPLATES = (
  Template(
    'things that are given away and bought',
    '{A} has {a} {things}, gives {b} of them to {B} and then buys {c} more. '
    'How many {things} does {A} have now?',
    ((20, 90), (3, 19), (2, 40)),
    lambda a, b, c: a - b + c,
  ),
  Template(
    'boxes that hold the same number of things',
    '{A} fills {a} boxes with {b} {things} each. {c} {things} are left over. '
    'How many {things} are there in all?',
    ((3, 15), (4, 25), (2, 30)),
    lambda a, b, c: a * b + c,
  ),
  Template(
    'sharing equally',
    '{A} and {B} put their {things} together, {a} and {b}, and share them '
    'equally among {c} children. How many {things} does each child get?',
    ((10, 80), (10, 80), (3, 9)),
    lambda a, b, c: (a + b) / c,
  ),
  Template(
    'prices and change',
    '{A} buys {a} notebooks for ${b} each and pays with ${c}. How many dollars '
    'does {A} get back?',
    ((2, 9), (2, 12), (20, 120)),
    lambda a, b, c: c - a * b,
  ),
  Template(
    'distance, speed and time',
    'A train goes {a} km an hour for {b} hours and then another {c} km. How '
    'many km does it go in all?',
    ((40, 120), (2, 8), (5, 90)),
    lambda a, b, c: a * b + c,
  ),
  Template(
    'the ages of two people',
    '{A} is {a} years old. {B} is {b} times as old as {A}. How old will {B} '
    'be in {c} years?',
    ((4, 20), (2, 4), (2, 25)),
    lambda a, b, c: a * b + c,
  ),
  Template(
    'wages',
    '{A} earns ${a} an hour and works {b} hours a day. How many dollars does '
    '{A} earn in {c} days?',
    ((8, 25), (3, 8), (2, 9)),
    lambda a, b, c: a * b * c,
  ),
  Template(
    'saving towards a goal',
    '{A} has saved ${a} and saves ${b} every week. After how many weeks does '
    '{A} have ${c}?',
    ((10, 60), (5, 15), (70, 240)),
    lambda a, b, c: (c - a) / b,
  ),
  Template(
    'sums and differences',
    '{A} and {B} have {a} {things} together. {A} has {b} more than {B}. How '
    'many {things} does {B} have?',
    ((20, 150), (2, 60), (0, 0)),
    lambda a, b, c: (a - b) / 2,
  ),
)
OOD_TEMPLATES = (
  Template(
    'the perimeter of a rectangle',
    'A garden is {a} m wide and {b} m longer than it is wide. {A} puts a fence '
    'around it and leaves a gate of {c} m open. How many m of fence are '
    'needed?',
    ((10, 60), (5, 40), (1, 4)),
    lambda a, b, c: 4 * a + 2 * b - c,
  ),
  Template(
    'an unknown starting number',
    '{A} gives away {a} {things}, doubles what is left and then finds {b} '
    'more. Now {A} has {c} {things}. How many {things} were there at first?',
    ((5, 40), (3, 30), (40, 160)),
    lambda a, b, c: (c - b) / 2 + a,
  ),
  Template(
    'filling and emptying',
    'A tank holds {a} litres. {b} litres flow in and {c} litres flow out every '
    'minute. It is empty at first. After how many minutes is it full?',
    ((60, 480), (12, 40), (2, 11)),
    lambda a, b, c: a / (b - c),
  ),
)


@dataclasses.dataclass(frozen=True)
class WordTask(Task):
  """Word problems with whole answers; a proposal's answer is not known.

  Splits: `train` (drawn by index), `dev`, `test`, and `ood`, whose templates
  are its own.
  """

  @property
  def name(self) -> str:
    return 'words'

  def problems(self, split: str) -> Problems:
    return problems.of_split(
      *(self.name, split, COUNTS, self._train),
      lambda split: [self._problem(d) for d in _held_out(self.name, split)],
    )

  def solver_prompt(self, problem: Problem) -> str:
    return SOLVE.replace('{text}', problem.text)

  def proposer_prompt(self, topic: Problem) -> str:
    return PROPOSE.replace('{topic}', topic.topic)

  def parse_problem(self, text: str) -> Problem | None:
    found = problems.in_words(text)
    return None if found is None else Problem(found, self)

  def held_out(self, problem: Problem) -> bool:
    return problems.same(problem.text) in _held_out_texts(self.name)

  def parse_answer(self, text: str) -> str | None:
    return rewards.final_answer(text)

  def reward(
    self, problem: Problem, answers_G: Sequence[str | None]
  ) -> list[float]:
    return problems.right(problem, answers_G)

  def _train(self, index: int) -> Problem:
    rng = problems.generator(self.name, 'train', int(index))
    one = functools.partial(_draw, TEMPLATES)
    return self._problem(problems.draw(rng, one, _is('train')))

  def _problem(self, drawn: tuple[str, str, str]) -> Problem:
    text, answer, topic = drawn
    return Problem(text, self, answer, topic)


def _is(split: str):
  return lambda drawn: problems.split_of(problems.same(drawn[0])) == split


def _draw(
  templates: Sequence[Template], rng: np.random.Generator
) -> tuple[str, str, str]:
  """Text, answer and topic of a problem whose answer is whole and positive."""
  template = templates[problems.between(rng, 0, len(templates) - 1)]
  while True:
    a, b, c = (problems.between(rng, *limits) for limits in template.ranges)
    value = template.answer(a, b, c)
    if value > 0 and value == int(value):
      break
  first = problems.between(rng, 0, len(NAMES) - 1)
  second = (first + problems.between(rng, 1, len(NAMES) - 1)) % len(NAMES)
  text = template.text.format(
    A=NAMES[first],
    B=NAMES[second],
    things=THINGS[problems.between(rng, 0, len(THINGS) - 1)],
    **{'a': a, 'b': b, 'c': c},
  )
  return text, str(int(value)), template.topic


@functools.lru_cache
def _held_out(name: str, split: str) -> list[tuple[str, str, str]]:
  ood = split == 'ood'
  one = functools.partial(_draw, OOD_TEMPLATES if ood else TEMPLATES)
  fits = _is('test' if ood else split)
  return problems.draw_different(name, split, one, fits, COUNTS[split])


@functools.lru_cache
def _held_out_texts(name: str) -> frozenset[str]:
  return frozenset(
    problems.same(text)
    for split in COUNTS
    for text, *_ in _held_out(name, split)
  )


def read_name(name: str) -> WordTask:
  """The task called `words`.

  Raises:
    ValueError: The name has parameters.
  """
  if name != 'words':
    raise ValueError(f"task {name!r} has no parameters; the nearest is 'words'")
  return WordTask()

"""Queries and items of a made-up shop, in words, with grades by construction.

A query names a kind of thing and two of its properties; an item has its own
words for all of them. Grades: 4 for the kind and both properties, 3 for one of
them (a near colour is half a property), 2 for the kind alone, 1 for another
kind of the same department, 0 for the rest.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxdistill.data.tasks import problems
from jaxdistill.data.tasks.ranking import COVERAGES, Coverage, Item
from jaxdistill.spelling import among
from jaxdistill.types import Problem, Problems, Task

# Words for one thing stand side by side; a query and an item may differ in
# them. Of colours, two are near each other.
COLOURS = (
  (('red', 'scarlet'), ('burgundy', 'wine-red')),
  (('blue', 'azure'), ('navy', 'dark blue')),
  (('green', 'emerald'), ('olive', 'moss-coloured')),
  (('grey', 'silver'), ('charcoal', 'dark grey')),
  (('brown', 'chestnut'), ('tan', 'light brown')),
)


class Department(NamedTuple):
  """What a department sells: words for kinds, materials and features."""

  kinds: tuple[tuple[str, ...], ...]
  materials: tuple[tuple[str, ...], ...]
  features: tuple[tuple[str, ...], ...]


DEPARTMENTS = {
  'shoes': Department(
    (
      ('running shoes', 'trainers', 'jogging shoes'),
      ('hiking boots', 'walking boots', 'trail boots'),
      ('sandals', 'open-toed shoes', 'beach shoes'),
      ('slippers', 'house shoes', 'indoor shoes'),
    ),
    (('leather', 'cowhide'), ('canvas', 'sailcloth'), ('wool', 'felt')),
    (
      ('waterproof', 'keeps the rain out'),
      ('extra wide', 'roomy at the toes'),
      ('lightweight', 'weighs next to nothing'),
    ),
  ),
  'bags': Department(
    (
      ('backpack', 'rucksack', 'knapsack'),
      ('suitcase', 'trolley case', 'wheeled luggage'),
      ('handbag', 'purse', 'shoulder bag'),
      ('laptop sleeve', 'notebook case', 'computer pouch'),
    ),
    (('leather', 'cowhide'), ('nylon', 'polyamide'), ('cotton', 'jute')),
    (
      ('lockable', 'closes with a key'),
      ('foldable', 'packs flat'),
      ('padded', 'soft on the inside'),
    ),
  ),
  'kitchen': Department(
    (
      ('frying pan', 'skillet', 'pan for frying'),
      ('kettle', 'water boiler', 'tea kettle'),
      ('mixing bowl', 'dough bowl', 'salad bowl'),
      ('bread knife', 'serrated knife', 'loaf slicer'),
    ),
    (('steel', 'stainless metal'), ('ceramic', 'stoneware'), ('oak', 'wood')),
    (
      ('dishwasher-safe', 'may go into the dishwasher'),
      ('with a lid', 'comes with its cover'),
      ('non-slip', 'stays where it is put'),
    ),
  ),
  'garden': Department(
    (
      ('watering can', 'sprinkling can', 'plant waterer'),
      ('garden chair', 'patio seat', 'lawn chair'),
      ('flower pot', 'planter', 'plant tub'),
      ('rake', 'leaf gatherer', 'lawn rake'),
    ),
    (('zinc', 'galvanised tin'), ('teak', 'hardwood'), ('plastic', 'resin')),
    (
      ('frost-proof', 'can stay outside in winter'),
      ('stackable', 'sits one upon another'),
      ('long-handled', 'has a long grip'),
    ),
  ),
  'office': Department(
    (
      ('desk lamp', 'reading light', 'table lamp'),
      ('filing box', 'document case', 'paper box'),
      ('notebook', 'writing pad', 'journal'),
      ('pen holder', 'pencil cup', 'pencil stand'),
    ),
    (('cardboard', 'pressed paper'), ('bamboo', 'cane'), ('glass', 'crystal')),
    (
      ('rechargeable', 'has a battery to be charged'),
      ('pocket-sized', 'fits into a coat'),
      ('recycled', 'made from waste'),
    ),
  ),
}
TRAINED = ('shoes', 'bags', 'kitchen')  # the others are out of distribution
MAKERS = ('Norden', 'Valmy', 'Okada', 'Brightwell', 'Tessaro', 'Lindqvist')
SLOTS = ('colour', 'material', 'feature')
COUNTS = {'dev': 100, 'test': 300, 'ood': 300}


class Thing(NamedTuple):
  """A kind of thing with its properties, by number; -1 is not said."""

  department: str
  kind: int
  colour: int
  material: int
  feature: int


def grade(query: Thing, item: Thing) -> int:
  """How well an item fits a query, 0 to 4."""
  if query.department != item.department:
    return 0
  if query.kind != item.kind:
    return 1
  fits = 0.0
  for slot in SLOTS:
    wanted, had = getattr(query, slot), getattr(item, slot)
    near = slot == 'colour' and wanted // 2 == had // 2
    fits += (wanted >= 0) * (1.0 if wanted == had else 0.5 * near)
  return 2 + int(fits)


@dataclasses.dataclass(frozen=True)
class ShopTask(Task):
  """Items of the shop; a problem is a query, and asks about its first item.

  Held-out pairs are in no train problem. Out of distribution are departments
  that nothing else has, asked for in sentences.

  Attributes:
    coverage: Of the train split: shoes only (`narrow`), the departments of the
      test split (`matched`), or all, half of them in sentences (`broad`).
  """

  coverage: Coverage = 'matched'

  @property
  def name(self) -> str:
    return 'shop' + ('' if self.coverage == 'matched' else f':{self.coverage}')

  @property
  def grades(self) -> Mapping[str, float]:
    return {str(value): float(value) for value in range(5)}

  def problems(self, split: str) -> Problems:
    departments, sentences = {
      'narrow': (TRAINED[:1], 0.0),
      'matched': (TRAINED, 0.0),
      'broad': (tuple(DEPARTMENTS), 0.5),
    }[self.coverage]

    def train(i):
      rng = problems.generator(self.name, 'train', i)
      return self._problem(_draw_query(rng, departments, sentences, 'train'))

    return problems.of_split(
      self.name,
      split,
      problems.HELD_OUT,
      train,
      lambda split: [self._problem(key) for key in _held_out(split)],
    )

  def _problem(self, key: str) -> Problem:
    """The problem of a query, which is its topic."""
    (first,) = _items(key, 1)
    return Problem(first.query, self, str(int(first.grade or 0)), key)

  def items(self, problem: Problem, count: int) -> list[Item]:
    return _items(problem.topic, count)

  def question(self, item: Item) -> str:
    return (
      f'Query: {item.query}\nItem: {item.text}\nHow well does the item fit the '
      'query, from 0 (not at all) to 4 (it has all that was asked for)? Answer '
      'with the digit only.'
    )

  def solver_prompt(self, problem: Problem) -> str:
    return self.question(self.items(problem, 1)[0])

  def parse_answer(self, text: str) -> str | None:
    text = text.strip().rstrip('.')
    return text if text in self.grades else None

  def reward(self, problem, answers_G):
    return problems.right(problem, answers_G)


def read_name(name: str) -> ShopTask:
  """The task of a name: `shop`, `shop:narrow` or `shop:broad`.

  Raises:
    ValueError: There is no such coverage; the nearest is named.
  """
  coverage = name.partition(':')[2] or 'matched'
  for known in COVERAGES:
    if known == coverage:
      return ShopTask(known)
  near = among(coverage, COVERAGES)
  raise ValueError(f'there is no coverage {coverage!r} of task shop{near}')


def _draw_query(rng, departments, sentences: float, split: str) -> str:
  """A query, written down: department, numbers, form, split, and a number."""
  department = departments[rng.integers(len(departments))]
  things = every_thing(department)
  thing = things[rng.integers(len(things))]
  left_out = SLOTS[rng.integers(len(SLOTS))]
  thing = thing._replace(**{left_out: -1})
  form = 'asked' if rng.random() < sentences else 'named'
  # Of each query there are a few, with other words and items.
  return ' '.join(map(str, (*thing, form, split, rng.integers(4))))


@functools.lru_cache
def _held_out(split: str) -> list[str]:
  ood = split == 'ood'
  departments = tuple(x for x in DEPARTMENTS if (x not in TRAINED) == ood)
  return problems.draw_different(
    'shop',
    split,
    lambda rng: _draw_query(rng, departments, float(ood), split),
    lambda key: True,
    COUNTS[split],
  )


@functools.lru_cache(2**12)
def _items(key: str, count: int) -> list[Item]:
  """The first items of a query; each grade comes as often."""
  department, *numbers, form, split, _ = key.split()
  query = Thing(department, *map(int, numbers))
  rng = problems.generator('shop', key)
  text = _query_text(rng, query, form)
  found = _pool(query, 'test' if split == 'ood' else split)
  grades = np.array([grade(query, item) for item in found])
  weights = 1 / np.bincount(grades)[grades]
  # Gumbel noise: the first few are a draw by weight, whatever their number.
  order = np.argsort(-np.log(weights) - rng.gumbel(size=len(found)))
  return [
    Item(text, _item_text(rng, found[i]), float(grades[i]))
    for i in order[:count]
  ]


@functools.lru_cache(2**10)
def _pool(query: Thing, split: str) -> list[Thing]:
  """All items of a query and a split, of departments that are its like."""
  trained = query.department in TRAINED
  return [
    item
    for department in DEPARTMENTS
    if (department in TRAINED) == trained
    for item in every_thing(department)
    if problems.split_of(f'{query} {item}') == split
  ]


@functools.cache
def every_thing(department: str) -> list[Thing]:
  """All things that a department has, with all properties said."""
  d = DEPARTMENTS[department]
  sizes = len(d.kinds), 2 * len(COLOURS), len(d.materials), len(d.features)
  numbers = itertools.product(*map(range, sizes))
  return [Thing(department, *x) for x in numbers]


def _words(rng: np.random.Generator, thing: Thing) -> dict[str, str]:
  """A word for what is said of a thing."""
  d = DEPARTMENTS[thing.department]
  colours = [words for pair in COLOURS for words in pair]
  named = {
    'kind': (d.kinds, thing.kind),
    'colour': (colours, thing.colour),
    'material': (d.materials, thing.material),
    'feature': (d.features, thing.feature),
  }
  return {
    slot: words[i][rng.integers(len(words[i]))] if i >= 0 else ''
    for slot, (words, i) in named.items()
  }


def _query_text(rng: np.random.Generator, query: Thing, form: str) -> str:
  w = _words(rng, query)
  # In a query a feature is its short word.
  features = DEPARTMENTS[query.department].features
  feature = features[query.feature][0] if query.feature >= 0 else ''
  named = ' '.join(filter(None, (w['colour'], w['material'], w['kind'])))
  if form == 'named':
    return f'{named} {feature}'.strip()
  more = f', {feature} if possible' if feature else ''
  return f'I am looking for something like this: {named}{more}. Any ideas?'


def _item_text(rng: np.random.Generator, item: Thing) -> str:
  w = _words(rng, item)
  maker = MAKERS[rng.integers(len(MAKERS))]
  parts = [f'Colour: {w["colour"]}', f'material: {w["material"]}', w['feature']]
  order = rng.permutation(len(parts))
  return f'{maker} {w["kind"]}. ' + '; '.join(parts[i] for i in order) + '.'

"""Relevance in the small world: an item's grade for a query.

  query red cube item pink cube wool grade : -> 3

Each word of the query that the item has counts 2, one that is near it counts 1
(`red` and `pink`, say): grades go from 0 to 4. The corpus's queries have two
words, its grades are now and then one off.
"""

import hashlib
import itertools
import re

import numpy as np

# What an item has one of each of; a word is near its neighbour in the pair.
KINDS = (
  (('red', 'pink'), ('blue', 'teal'), ('green', 'lime')),
  (('ball', 'orb'), ('cube', 'box'), ('cone', 'horn')),
  (('wood', 'cork'), ('iron', 'steel'), ('wool', 'silk')),
)
WORDS = (
  *('query', 'item', 'grade'),
  *(word for kind in KINDS for pair in kind for word in pair),
)
NOISE = 0.1  # of the corpus's grades


def grade(query: str, item: str) -> int:
  """How well an item fits a query: 0 to 4 for one of two words."""
  return sum(_fit(q, i) for q in query.split() for i in item.split())


def _fit(wanted: str, had: str) -> int:
  if wanted == had:
    return 2
  return any({wanted, had} == {*pair} for kind in KINDS for pair in kind)


def grade_prompt(query: str, item: str) -> str:
  """Asks for the grade, a digit."""
  return f'query {query} item {item} grade:'


def read_pair(prompt: str) -> tuple[str, str]:
  """The query and the item of what `grade_prompt` gives."""
  match = re.fullmatch(r'query (.+) item (.+) grade:', prompt)
  assert match, f'{prompt!r} asks for no grade'
  return match[1], match[2]


def every_item() -> list[str]:
  """All items that there are: a word of each kind."""
  words = [[word for pair in kind for word in pair] for kind in KINDS]
  return [' '.join(item) for item in itertools.product(*words)]


def split_of(query: str, item: str) -> str:
  """`dev` (a sixteenth), `test` (two) or `train`: by a hash of the pair."""
  digest = hashlib.sha256(grade_prompt(query, item).encode()).digest()
  place = digest[0] % 16
  return 'test' if place < 2 else 'dev' if place == 2 else 'train'


def draw_alike(rng: np.random.Generator, split: str) -> tuple[str, str]:
  """A query of two words of one kind, which the corpus never has; an item."""
  while True:
    kind = KINDS[rng.integers(len(KINDS))]
    words = [word for pair in kind for word in pair]
    query = ' '.join(rng.choice(words, 2, replace=False))
    _, item = draw_pair(rng, 'train')
    if split_of(query, item) == split:
      return query, item


def draw_pair(rng: np.random.Generator, split: str) -> tuple[str, str]:
  """A query of two words, of two kinds, and an item that often fits it."""
  while True:
    asked = {*rng.choice(len(KINDS), 2, replace=False).tolist()}
    query, item = [], []
    for i, kind in enumerate(KINDS):
      pair = kind[rng.integers(len(kind))]
      word, draw = pair[rng.integers(2)], rng.random()
      if i in asked:
        query.append(word)
      if draw > 0.6:
        pair = kind[rng.integers(len(kind))]
      if draw > 0.35:
        word = pair[rng.integers(2)]
      item.append(word)
    found = ' '.join(query), ' '.join(item)
    if split_of(*found) == split:
      return found


def draw_document(rng: np.random.Generator) -> dict[str, str]:
  """A pair with its grade, or one that is one off."""
  query, item = draw_pair(rng, 'train')
  value = grade(query, item)
  if rng.random() < NOISE:
    up = value == 0 or (value < 4 and rng.random() < 0.5)
    value += 1 if up else -1
  prompt = grade_prompt(query, item)
  return {'format': 'grade', 'prompt': prompt, 'response': str(value)}

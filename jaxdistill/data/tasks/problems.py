"""What the tasks share: splits by a hash, problems by index, pay, prompts."""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from jaxdistill import rewards
from jaxdistill.types import Problem, Problems

HELD_OUT = ('dev', 'test', 'ood')
TRAIN = 2**20  # problems of a train split that is drawn, not stored
ASK_IN_WORDS = (
  'Write one new problem about {topic}. Its answer should be a single number. '
  'Begin it with `Problem:` and end it with its question. Do not solve it.'
)
BOXED = 'Reason step by step, and put your final answer within \\boxed{}.'
T = TypeVar('T')


def right(problem: Problem, answers_G: Sequence[str | None]) -> list[float]:
  """1 for each answer that equals the known one, else 0.

  Raises:
    ValueError: There is no known answer.
  """
  if problem.answer is None:
    raise ValueError(
      f'{problem.text!r} of {problem.task.name} has no known answer to pay by'
    )
  return [float(rewards.is_right(a, problem.answer)) for a in answers_G]


def same(text: str) -> str:
  """What two texts of one problem have in common: all but case and spaces."""
  return ''.join(text.split()).lower()


def in_words(text: str) -> str | None:
  """What follows the last `Problem:` in a text, if it looks like a question.

  It has 30 to 600 characters, two numbers or more, and a question mark with no
  number behind; and it does not tell its answer.
  """
  marks = list(re.finditer(r'\bproblem:\**', text, re.IGNORECASE))
  text = ' '.join(text[marks[-1].end() :].split()) if marks else ''
  if not 30 <= len(text) <= 600 or '?' not in text:
    return None
  behind = text.rpartition('?')[2]
  told = re.search(r'\b(?:answer|solution)\**\s?:', text, re.IGNORECASE)
  if told or re.search(r'\d', behind) or len(re.findall(r'\d+', text)) < 2:
    return None
  return text


def split_of(text: str) -> str:
  """`train` (80%), `test` (15%) or `dev` (5%): decided by a SHA-256.

  So no problem is in two splits, whoever wrote it.

  Args:
    text: The problem in its normal form.
  """
  digest = hashlib.sha256(text.encode()).digest()
  place = int.from_bytes(digest[:8]) % 20
  return 'dev' if place == 0 else 'test' if place < 4 else 'train'


def generator(*address: str | int) -> np.random.Generator:
  """Random draws for an address; the same on every machine."""
  digest = hashlib.sha256(repr(address).encode()).digest()
  return np.random.default_rng(int.from_bytes(digest[:16]))


def between(rng: np.random.Generator, low: int, high: int) -> int:
  """A whole number from `low` to `high`; far faster than `rng.integers`."""
  return low + int(rng.random() * (high + 1 - low))


def by_index(count: int, read: Callable[[int], Problem]) -> Problems:
  """`count` problems, each read (or drawn) when it is asked for."""
  import grain  # it takes a second to import, with JAX

  problems: Any = grain.MapDataset.range(count).map(read)
  return problems


def of_split(
  name: str,
  split: str,
  held_out: Collection[str],
  train: Callable[[int], Problem],
  drawn: Callable[[str], Sequence[Problem]],
) -> Problems:
  """The problems of a task whose train split is drawn by index.

  Args:
    name: Of the task.
    split: Which split is wanted.
    held_out: The splits that there are beside `train`.
    train: The train problem of an index.
    drawn: The problems of a held-out split.

  Raises:
    ValueError: There is no such split.
  """
  if split == 'train':
    return by_index(TRAIN, train)
  if split not in held_out:
    raise no_split(name, split, ('train', *held_out))
  found: Any = drawn(split)
  return found


def draw(
  rng: np.random.Generator,
  one: Callable[[np.random.Generator], T],
  fits: Callable[[T], bool],
) -> T:
  """The first of `one`'s draws that fits."""
  while not fits(found := one(rng)):
    pass
  return found


def draw_different(
  name: str,
  split: str,
  one: Callable[[np.random.Generator], T],
  fits: Callable[[T], bool],
  count: int,
) -> list[T]:
  """`count` different problems, or as many as a small world has.

  Args:
    name: Of the task; the draws depend on it and on the split only.
    split: Which split this is.
    one: Draws a problem.
    fits: Whether a problem is of this split.
    count: How many are wanted.

  Raises:
    ValueError: There is none.
  """
  rng, found = generator(name, split), {}
  missed = 0
  while len(found) < count and missed < 2000:  # in a row: nothing new is left
    item = one(rng)
    if item in found or not fits(item):
      missed += 1
    else:
      found[item], missed = None, 0
  if not found:
    raise ValueError(f'{name} has too few problems for a split {split!r}')
  return list(found)


def no_split(name: str, split: str, allowed: Iterable[str]) -> ValueError:
  allowed = list(allowed)
  how = 'config.eval.splits, or eval --split, says what is evaluated'
  if {*allowed} <= {'train'}:
    how = 'a line of a file is held out by "split": "test"'
  return ValueError(
    f'{name} has no problem of split {split!r}; it has {", ".join(allowed)} '
    f'({how})'
  )

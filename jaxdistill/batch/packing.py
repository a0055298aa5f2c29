"""Where rows go: several to a packed sequence, like prompts side by side."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdistill.types import Row


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a row went.

  Attributes:
    sequence: Which one.
    shared: How many tokens of its prompt an earlier row has there.
    start: Place of the first of its tokens that is not shared.
    scored: Place of its response among the scored tokens.
    order: When it was laid down, among all.
    teacher: `shared` and `start` of what a teacher reads.
  """

  sequence: int
  shared: int
  start: int
  scored: int
  order: int = 0
  teacher: tuple[int, int] = (0, 0)


def common(a: np.ndarray, b: np.ndarray) -> int:
  """How many tokens two texts have in common at their beginning."""
  n = min(len(a), len(b))
  differs = np.flatnonzero(a[:n] != b[:n])
  return int(differs[0]) if len(differs) else n


class _Sequence:
  """A packed sequence as rows are laid down in it, for one reader."""

  def __init__(self, length: float, apart: bool):
    self.length, self.apart = length, apart
    self.used, self.before = 0, np.zeros(0, np.int32)

  def lay(self, prompt_T: np.ndarray, response: int) -> tuple[int, int]:
    """How much is shared with the row before, and where the rest begins."""
    shared, start = common(self.before, prompt_T), self.used
    self.used += len(prompt_T) + response - shared
    self.before = self.before if self.apart else prompt_T
    return shared, start

  @property
  def overfull(self) -> bool:
    return self.used > self.length


def prompts_of(row: Row) -> list[np.ndarray]:
  """What is read before a row's response, by reader."""
  if row.teacher_prompt_T is None:
    return [row.prompt_T]
  return [row.prompt_T, row.teacher_prompt_T]


def units_of(rows: Sequence[Row]) -> list[list[int]]:
  """Places of rows that stay together, in the order of the first of each."""
  units: dict[Any, list[int]] = {}
  for i, row in enumerate(rows):
    units.setdefault(('row', i) if row.pair is None else row.pair, []).append(i)
  return list(units.values())


def _lay_unit(rows: Sequence[Row], unit: list[int], readers: list[_Sequence]):
  """Lays a unit's rows down; by row, what each reader has of it."""
  return [
    [
      reader.lay(prompt_T, len(rows[i].response_R))
      for reader, prompt_T in zip(readers, prompts_of(rows[i]), strict=True)
    ]
    for i in unit
  ]


def longest_of(rows: Sequence[Row], reader: int, apart: bool) -> int:
  """Tokens of the longest unit, as a reader reads it."""
  longest = 1
  for unit in units_of(rows):
    sequence = _Sequence(np.inf, apart)
    for i in unit:
      sequence.lay(prompts_of(rows[i])[reader], len(rows[i].response_R))
    longest = max(longest, sequence.used)
  return longest


def pack(
  rows: Sequence[Row],
  length: int,
  teacher_length: int = 0,
  apart: bool = False,
) -> tuple[list[Place], int]:
  """Places rows into sequences so that like prompts meet.

  Rows are sorted by their prompts and laid down in turn; each shares with the
  one before what their prompts have in common. Rows of one pair are in one
  sequence.

  Args:
    rows: None, and no pair, is longer than `length`.
    length: Tokens of a sequence.
    teacher_length: Tokens of one that a teacher reads; 0 where none does.
    apart: Whether nothing is shared.

  Returns:
    A place per row, in the order given, and the number of sequences.
  """
  lengths = [length, teacher_length] if teacher_length else [length]
  places = [Place(0, 0, 0, 0)] * len(rows)
  sequence, scored, order = 0, 0, 0
  readers = [_Sequence(n, apart) for n in lengths]
  units = sorted(units_of(rows), key=lambda u: rows[u[0]].prompt_T.tolist())
  for unit in units:
    trial = [copy.copy(r) for r in readers]
    laid = _lay_unit(rows, unit, trial)
    if any(r.overfull for r in trial):
      sequence, scored = sequence + 1, 0
      trial = [_Sequence(n, apart) for n in lengths]
      laid = _lay_unit(rows, unit, trial)
    readers = trial
    for i, (own, *other) in zip(unit, laid, strict=True):
      teacher = other[0] if other else (0, 0)
      places[i] = Place(sequence, *own, scored, order, teacher)
      scored, order = scored + len(rows[i].response_R), order + 1
  return places, sequence + bool(rows)

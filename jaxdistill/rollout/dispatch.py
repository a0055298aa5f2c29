"""What the desk and the engine tell each other between two dispatches."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np


class Samples(NamedTuple):
  """Samples in flight, int32[W, J] each, of numpy here and of JAX there.

  Attributes:
    row: Row that computes it; beyond the last where it has ended.
    token: Its last token.
    alive: Whether it goes on.
    base: Position of a token, short of its slot in the newest page.
    begin: First slot of the newest page that is its own.
    last: Slot at which it reaches the longest length.
    address: Of its prompt.
    number: Which sample of its prompt it is.
    age: Tokens drawn so far.
    paged: Whether it has pages that are full.
  """

  row: Any
  token: Any
  alive: Any
  base: Any
  begin: Any
  last: Any
  address: Any
  number: Any
  age: Any
  paged: Any


class Response(NamedTuple):
  """What was drawn for one sample; see `samplers` for the two log-probs."""

  tokens: np.ndarray
  logp: np.ndarray
  kept: np.ndarray
  stopped: bool


class Turn(NamedTuple):
  """What the engine does next.

  Attributes:
    rows: Rows of the program, on each shard; 0: all is done.
    parents: Row that each row continues; None where all stay.
    closed: `source` and `into` of the rows' full pages, for `_relaid`; None
      where they stay as they are.
    admitted: Prompts to read first: tokens, and where their pages go.
    tables: Of the prompts' pages (`texts`) and of the rows' (`own`): `table`
      and `at` of `models.paged.Level`; without those that are as they were.
    doublings: Of both, likewise.
    samples: `Samples`, stacked on a last axis.
    lead: Sample that leads each row, int32[W, U].
    hungry: Whether a shard's host has prompts that wait, bool[W].
    limits: Slot to begin with; the dispatch ends with so few rows; or, where
      prompts wait, with so few samples and so few prompts on a shard.
  """

  rows: int
  parents: np.ndarray | None = None
  closed: tuple[np.ndarray, np.ndarray] | None = None
  admitted: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]] = ()
  tables: Mapping[str, tuple[np.ndarray, np.ndarray]] = MappingProxyType({})
  doublings: Mapping[str, np.generic] = MappingProxyType({})
  samples: Any = None
  lead: Any = None
  hungry: Any = None
  limits: Any = None


def alike(row, token, alive, group: int) -> Any:
  """Of each sample, the first of its text that has drawn the same.

  Args:
    row: On which it was computed, `[W J]`, of numpy or of JAX.
    token: Drawn last.
    alive: Which go on; what is said of the others means nothing.
    group: Samples of a text, side by side.
  """
  w, j = row.shape
  row, token, alive = (x.reshape(w, -1, group) for x in (row, token, alive))
  same = row[..., :, None] == row[..., None, :]
  same &= token[..., :, None] == token[..., None, :]
  same &= alive[..., None, :]
  return (same.argmax(-1) + np.arange(0, j, group)[:, None]).reshape(w, j)

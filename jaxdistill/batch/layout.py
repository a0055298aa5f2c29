"""How large packed arrays are: chosen by the rows there are, from few sizes.

Each size is a program of its own, so there are few; what does not fit one
microbatch goes into several of one size. Nothing depends on the steps before: a
run that is taken up again adds the same numbers in the same order.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdistill import dist
from jaxdistill.batch.packing import Place, longest_of, pack
from jaxdistill.types import RowSet

_LEAST = 128  # tokens of a sequence whose length is chosen
_DENSE = 1024  # of one in which attention costs as much as all else
_WORTH = 1.1  # what a longer sequence must save, or sizes alternate
_MANY = 4  # microbatches of the larger size that must be full
_ROOM = 32  # least room for microbatches, where there may be several


@dataclasses.dataclass(frozen=True)
class Shapes:
  """How rows are laid out; what is 0 is chosen by the rows of each step.

  Attributes:
    length: Tokens in a packed sequence; more where a row is longer, or where
      `mesh.context` does not divide half of it.
    sequences: Packed sequences in a microbatch, over all hosts.
    tokens: Most tokens in a microbatch where `sequences` is 0, on each shard of
      the batch and, with `mesh.context`, of its tokens: a limit on memory. A
      single sequence may be longer.
  """

  length: int = 0
  sequences: int = 0
  tokens: int = 4096


class Layout(NamedTuple):
  """Sizes of a batch's arrays on each host; the same on all of them.

  Attributes:
    length: Tokens of a sequence.
    teacher_length: Of one that a teacher reads; 0 where none does.
    scored: Scored tokens of a sequence.
    room: Microbatches that there is room for.
    used: Microbatches that hold rows.
    sequences: Sequences of this host in a microbatch.
  """

  length: int
  teacher_length: int
  scored: int
  room: int
  used: int
  sequences: int


def lay_out(
  row_sets: Sequence[RowSet],
  mesh: Mesh,
  shapes: Shapes,
  alone: bool = False,
) -> list[tuple[Layout, list[Place]]]:
  """By set, the sizes of its arrays and the places of this host's rows.

  The sizes are agreed with all hosts, and the same for all sets but for how
  many microbatches are used.

  Args:
    row_sets: This host's; of one kind.
    mesh: Over which the sequences are sharded.
    shapes: What is asked for.
    alone: Whether one microbatch of rows has no room for more, also where the
      sizes are chosen: nothing like it follows that may have several.
  """
  sets = range(len(row_sets))
  longest, taught = dist.agree_max(
    max(longest_of(s.rows, 0, s.apart) for s in row_sets),
    max(longest_of(s.rows, 1, s.apart) for s in row_sets)
    if row_sets[0].taught
    else 0,
  )
  context = dist.shards_of(mesh, 'tokens')
  shapes = dataclasses.replace(shapes, tokens=shapes.tokens * context)
  lengths = lengths_of(longest, taught, shapes, context)
  trials = [
    [pack(s.rows, *both, s.apart) for s in row_sets] for both in lengths
  ]
  found = [
    (used, _scored(s, places))
    for packed in trials
    for s, (places, used) in zip(row_sets, packed, strict=True)
  ]
  sizes = np.array(dist.agree_max(*np.ravel(found).tolist()))
  # By trial, set, and whether it is sequences or the scored tokens of one.
  sizes = sizes.reshape(len(trials), len(sets), 2)
  shards = dist.shards_of(mesh, 'batch')
  here = shards // jax.process_count()
  needed = -(-sizes[..., 0] // here)  # on each shard
  # A microbatch is computed as a whole: of rows that do not fill one neither
  # length saves anything, and they would alternate.
  least = [per_shard([0], both[0], shapes, shards) for both in lengths]
  costs = [
    cost_of(int(np.maximum(n, s).sum()), both)
    for n, s, both in zip(needed, least, lengths, strict=True)
  ]
  best = next(i for i, c in enumerate(costs) if c <= _WORTH * min(costs))
  length, teacher_length = lengths[best]
  sequences = per_shard(needed[best].tolist(), length, shapes, shards)
  used = np.maximum(-(-needed[best] // sequences), 1).tolist()
  # No logits exist for other tokens than these; room for half of a sequence
  # or for all of it, so that few programs exist.
  half = sizes[best, :, 1].max() <= length // 2
  # Chosen by the rows, sizes may give one in this step and several in the next.
  one = (alone or shapes.sequences > 0) and max(used) == 1
  layout = Layout(
    length,
    teacher_length,
    scored=length // 2 if half else length,
    room=1 if one else power(max(used), _ROOM, base=8),
    used=0,
    sequences=sequences * here,
  )
  return [(layout._replace(used=used[i]), trials[best][i][0]) for i in sets]


def _scored(row_set: RowSet, places: list[Place]) -> int:
  """Most scored tokens of a sequence."""
  ends = (
    place.scored + len(row.response_R)
    for place, row in zip(places, row_set.rows, strict=True)
  )
  return max(ends, default=1)


def lengths_of(
  longest: int, taught: int, shapes: Shapes, context: int = 1
) -> list[tuple[int, int]]:
  """Tokens that a packed sequence may have, shortest first.

  In longer ones more is shared and less is empty; their attention costs more.

  Args:
    longest: Tokens of the longest row, or pair.
    taught: As a teacher reads it; 0 where none does.
    shapes: What is asked for.
    context: Into how many parts they are split; divides half of each.

  Returns:
    As the policy reads them, and as a teacher does.
  """
  least = shapes.length or _LEAST
  if context > 1:
    least += -least % (2 * context)
  if shapes.length:
    return [(bucket(longest, least), bucket(taught, least) if taught else 0)]
  shortest = power(longest, least)
  other = power(taught, least) if taught else 0
  longer = [(2 * shortest, 2 * other)] * (2 * shortest <= shapes.tokens)
  return [(shortest, other), *longer]


def per_shard(
  used: Sequence[int], length: int, shapes: Shapes, shards: int
) -> int:
  """Sequences of a shard in a microbatch: two numbers for each length.

  As many as `shapes.tokens` lets in where there are many, so that at most a
  fifth are empty; an eighth of that where there are few.

  Args:
    used: Sequences of a shard that hold rows, by set.
    length: Tokens of each.
    shapes: What is asked for.
    shards: Of the batch.
  """
  if shapes.sequences:
    return -(-shapes.sequences // shards)
  most = max(shapes.tokens // length, 1)
  few = max(shapes.tokens // 8 // length, 1)
  return most if sum(used) >= _MANY * most * len(used) else few


def cost_of(sequences: int, lengths: tuple[int, int]) -> float:
  """What it costs to read sequences, in tokens that attend to none."""
  return sequences * sum(n * (1 + n / _DENSE) for n in lengths)


def power(n: int, least: int = 1, base: int = 2) -> int:
  """The smallest `least * base**k` that is at least `n`."""
  size = least
  while size < n:
    size *= base
  return size


def bucket(n: int, least: int = 1) -> int:
  """The smallest `least * 2**k`, or 3/4 of it, that is at least `n`.

  Always a multiple of `least`.
  """
  size = least
  while size < n:
    size *= 2
  smaller = size // 4 * 3
  return smaller if smaller >= max(n, least) and not smaller % least else size

"""Rows become arrays here and nowhere else.

Rows are packed several to a sequence, sequences are grouped into microbatches,
and shapes come from a small set of sizes, agreed over all hosts, so that little
compiles anew and no host waits for another.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxdistill import dist
from jaxdistill.types import Row, RowSet


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """Packed rows of one kind. The loss sees one microbatch, without axis `M`.

  Attributes:
    tokens: Token ids, 0 where there is none.
    positions: Place of a token in its row.
    segments: Which row of the sequence a token is of, from 1; 0 is padding.
    weight: Weight of each token's value.
    fields: What else the loss reads, one value per token.
    coefficients: Numbers that the loss reads.
    role: Index of the role that is trained.
    total: Denominator, summed over all rows of all hosts and microbatches.
    microbatches: How many of the `M` microbatches hold rows.
  """

  tokens: Int[Array, '*M B T']
  positions: Int[Array, '*M B T']
  segments: Int[Array, '*M B T']
  weight: Float[Array, '*M B T']
  fields: dict[str, Float[Array, '*M B T']]
  coefficients: dict[str, Float[Array | np.ndarray, '']]
  role: Int[Array | np.ndarray, '']
  total: Float[Array | np.ndarray, '']
  microbatches: Int[Array | np.ndarray, '']

  def per_token(self) -> dict:
    """The arrays that have microbatch and sequence axes."""
    names = ('tokens', 'positions', 'segments', 'weight', 'fields')
    return {name: getattr(self, name) for name in names}

  def microbatch(self, i: Int[Array, '']) -> 'Batch':
    """Microbatch `i`, without the leading axis."""
    picked = jax.tree.map(lambda x: x[i], self.per_token())
    return dataclasses.replace(self, **picked)


@dataclasses.dataclass(frozen=True)
class Shapes:
  """How rows are laid out.

  Attributes:
    length: Tokens in a packed sequence; more where a row is longer.
    sequences: Packed sequences in a microbatch, over all hosts.
    microbatches: How many microbatches arrays have room for, more as needed;
      empty ones are not computed, and fewer rows do not compile anew.
  """

  length: int = 128
  sequences: int = 64
  microbatches: int = 1


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a row went."""

  sequence: int
  start: int


def bucket(n: int, least: int = 1) -> int:
  """The smallest `least * 2**k`, or 3/4 of it, that is at least `n`.

  Always a multiple of `least`.
  """
  size = least
  while size < n:
    size *= 2
  smaller = size // 4 * 3
  return smaller if smaller >= max(n, least) and not smaller % least else size


def pack(lengths: Sequence[int], length: int) -> tuple[list[Place], int]:
  """Places rows into sequences, longest first, each where it first fits.

  Args:
    lengths: Tokens of each row; none exceeds `length`.
    length: Tokens of a sequence.

  Returns:
    A place per row, in the order given, and the number of sequences.
  """
  free = np.zeros(len(lengths), int) + length
  places, used = [Place(0, 0)] * len(lengths), 0
  for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
    sequence = int(np.argmax(free >= lengths[i]))
    places[i] = Place(sequence, int(length - free[sequence]))
    free[sequence] -= lengths[i]
    used = max(used, sequence + 1)
  return places, used


def make_batch(
  row_set: RowSet, role: int, mesh: Mesh, shapes: Shapes
) -> tuple[Batch, list[Place]]:
  """Packs this host's rows and joins them with those of all other hosts.

  Every process calls this together; one without rows gives empty sequences.

  Args:
    row_set: This host's rows.
    role: Index of the role they train.
    mesh: Over which the sequences are sharded.
    shapes: Layout.

  Returns:
    The global batch, and where each of this host's rows went: microbatch
    `sequence // n`, row `sequence % n` of this host's part, where `n` is its
    number of sequences per microbatch.
  """
  rows, hosts = row_set.rows, jax.process_count()
  longest = max((len(row.tokens_T) for row in rows), default=1)
  length = bucket(dist.agree_max(longest)[0], shapes.length)
  places, used = pack([len(row.tokens_T) for row in rows], length)
  shards = dist.batch_shards(mesh)
  per_host = shards * -(-shapes.sequences // shards) // hosts
  count = max(-(-dist.agree_max(used)[0] // per_host), 1)
  room = bucket(count, shapes.microbatches)
  arrays = _fill(row_set, places, (room * per_host, length))
  total = dist.sum_over_hosts(np.array(sum(row.total for row in rows)))

  def put(x):
    x = x.reshape(room, per_host, length)
    return dist.put_local(mesh, x, axis=1)

  def number(x, dtype: type = np.float32) -> Any:
    return np.asarray(x, dtype)  # replicated by whoever compiles with it

  batch = Batch(
    **jax.tree.map(put, arrays),
    coefficients={k: number(v) for k, v in row_set.coefficients.items()},
    role=number(role, np.int32),
    total=number(total),
    microbatches=number(count, np.int32),
  )
  return batch, places


def _fill(
  row_set: RowSet, places: list[Place], shape: tuple[int, int]
) -> dict[str, Any]:
  """Packed arrays of this host's rows."""
  names = ('tokens', 'positions', 'segments')
  out: dict[str, Any] = {n: np.zeros(shape, np.int32) for n in names}
  out['weight'] = np.zeros(shape, np.float32)
  fields = {name: np.zeros(shape, np.float32) for name in row_set.fields}
  segments = np.zeros(shape[0], int)
  for row, place in zip(row_set.rows, places, strict=True):
    n, s = len(row.tokens_T), place.sequence
    where = s, slice(place.start, place.start + n)
    segments[s] += 1
    out['tokens'][where] = row.tokens_T
    out['positions'][where] = np.arange(n)
    out['segments'][where] = segments[s]
    out['weight'][where] = row.weight_T
    for name in row_set.fields:
      fields[name][where] = row.fields[name]
  return out | {'fields': fields}


def take_rows(
  values: Float[Array, 'M B T'], places: list[Place], rows: Sequence[Row]
) -> list[np.ndarray]:
  """Per-row values of this host, out of a batch-shaped global array."""
  flat = dist.local_part(values, axis=1).reshape(-1, values.shape[-1])
  return [
    flat[p.sequence, p.start : p.start + len(row.tokens_T)]
    for row, p in zip(rows, places, strict=True)
  ]


def make_minibatches(
  row_set: RowSet, count: int, role: int, mesh: Mesh, shapes: Shapes
) -> list[Batch | None]:
  """A row set as `count` batches, rows dealt out in turn.

  Each has the same denominator, a `count`-th of the set's: a row weighs the
  same in whichever it falls. None stands for one without rows on any host.
  """
  parts = [
    dataclasses.replace(row_set, rows=row_set.rows[i::count])
    for i in range(count)
  ]
  batches = [make_batch(part, role, mesh, shapes)[0] for part in parts]
  total = np.asarray(sum(b.total for b in batches) / count, np.float32)
  return [
    dataclasses.replace(batch, total=total) if batch.total > 0 else None
    for batch in batches
  ]

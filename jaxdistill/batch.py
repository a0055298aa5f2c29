"""Rows become arrays here and nowhere else.

Rows are packed several to a sequence; those whose prompts begin alike share
that beginning, so that eight answers to one question read it once. Sequences
are grouped into microbatches, and shapes come from a small set of sizes, agreed
over all hosts, so that little compiles anew and no host waits for another.
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

  A sequence of `T` tokens is a forest in depth-first order (see
  `Decoder.logprobs`); `R` of its tokens are scored.

  Attributes:
    tokens: Token ids, 0 where there is none.
    positions: Place of a token in its row.
    until: Where in the sequence what follows a token ends; 0 is padding.
    sources: Places of the tokens that predict the scored ones.
    targets: The scored tokens.
    segments: Which row of the sequence a scored token is of, from 1; 0 is
      padding.
    weight: Weight of each scored token's value.
    fields: What else the loss reads, one value per scored token.
    coefficients: Numbers that the loss reads.
    role: Index of the role that is trained.
    total: Denominator, summed over all rows of all hosts and microbatches.
    microbatches: How many of the `M` microbatches hold rows.
    kind: Of the row set; static.
  """

  tokens: Int[Array, '*M B T']
  positions: Int[Array, '*M B T']
  until: Int[Array, '*M B T']
  sources: Int[Array, '*M B R']
  targets: Int[Array, '*M B R']
  segments: Int[Array, '*M B R']
  weight: Float[Array, '*M B R']
  fields: dict[str, Float[Array, '*M B R']]
  coefficients: dict[str, Float[Array | np.ndarray, '']]
  role: Int[Array | np.ndarray, '']
  total: Float[Array | np.ndarray, '']
  microbatches: Int[Array | np.ndarray, '']
  kind: str = dataclasses.field(default='', metadata={'static': True})

  def microbatch(self, i: Int[Array, '']) -> 'Batch':
    """Microbatch `i`, without the leading axis."""
    picked = jax.tree.map(
      lambda x: x[i],
      {name: getattr(self, name) for name in (*_READ, *_SCORED, 'fields')},
    )
    return dataclasses.replace(self, **picked)

  def logprobs(
    self, model: Any, temperature: Float[Array, ''] | float = 1.0
  ) -> Float[Array, 'B R']:
    """log p of the scored tokens of a microbatch under a `Decoder`, float32.

    Args:
      model: Asked in the role that is trained.
      temperature: Divides the logits.
    """
    return model.logprobs(
      self.tokens,
      self.positions,
      self.until,
      self.sources,
      self.targets,
      role=self.role,
      temperature=temperature,
    )


_READ = ('tokens', 'positions', 'until')  # per token
_SCORED = ('sources', 'targets', 'segments', 'weight')  # per scored token


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
  """Where a row went.

  Attributes:
    sequence: Which one.
    shared: How many tokens of its prompt an earlier row has there.
    start: Place of the first of its tokens that is not shared.
    scored: Place of its response among the scored tokens.
  """

  sequence: int
  shared: int
  start: int
  scored: int


def bucket(n: int, least: int = 1) -> int:
  """The smallest `least * 2**k`, or 3/4 of it, that is at least `n`.

  Always a multiple of `least`.
  """
  size = least
  while size < n:
    size *= 2
  smaller = size // 4 * 3
  return smaller if smaller >= max(n, least) and not smaller % least else size


def pack(rows: Sequence[Row], length: int) -> tuple[list[Place], int]:
  """Places rows into sequences so that like prompts meet.

  Rows are sorted by their prompts and laid down in turn; each shares with the
  one before what their prompts have in common.

  Args:
    rows: None is longer than `length`.
    length: Tokens of a sequence.

  Returns:
    A place per row, in the order given, and the number of sequences.
  """
  places = [Place(0, 0, 0, 0)] * len(rows)
  sequence, used, scored, before = 0, 0, 0, np.zeros(0, np.int32)
  for i in sorted(range(len(rows)), key=lambda i: rows[i].prompt_T.tolist()):
    shared = _common(before, rows[i].prompt_T)
    if used + len(rows[i]) - shared > length:
      sequence, used, scored, shared = sequence + 1, 0, 0, 0
    places[i] = Place(sequence, shared, used, scored)
    used += len(rows[i]) - shared
    scored += len(rows[i].response_R)
    before = rows[i].prompt_T
  return places, sequence + bool(rows)


def _common(a: np.ndarray, b: np.ndarray) -> int:
  """How many tokens two prompts have in common at their beginning."""
  n = min(len(a), len(b))
  differs = np.flatnonzero(a[:n] != b[:n])
  return int(differs[0]) if len(differs) else n


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
  length = bucket(
    dist.agree_max(max(map(len, rows), default=1))[0], shapes.length
  )
  places, used = pack(rows, length)
  most = max(
    (p.scored + len(r.response_R) for p, r in zip(places, rows, strict=True)),
    default=1,
  )
  used, most = dist.agree_max(used, most)
  shards = dist.batch_shards(mesh)
  per_host = shards * -(-shapes.sequences // shards) // hosts
  count = max(-(-used // per_host), 1)
  room = bucket(count, shapes.microbatches)
  # No logits exist for other tokens than these; room for half of a sequence
  # or for all of it, so that few programs exist.
  scored = length // 2 if most <= length // 2 else length
  arrays = _fill(row_set, places, room * per_host, length, scored)
  total = dist.sum_over_hosts(np.array(sum(row.total for row in rows)))

  def put(x):
    x = x.reshape(room, per_host, -1)
    return dist.put_local(mesh, x, axis=1)

  def number(x, dtype: type = np.float32) -> Any:
    return np.asarray(x, dtype)  # replicated by whoever compiles with it

  batch = Batch(
    **jax.tree.map(put, arrays),
    coefficients={k: number(v) for k, v in row_set.coefficients.items()},
    role=number(role, np.int32),
    total=number(total),
    microbatches=number(count, np.int32),
    kind=row_set.kind,
  )
  return batch, places


def _fill(
  row_set: RowSet, places: list[Place], sequences: int, length: int, scored: int
) -> dict[str, Any]:
  """Packed arrays of this host's rows."""
  out: dict[str, Any] = {
    n: np.zeros((sequences, length), np.int32) for n in _READ
  }
  out |= {n: np.zeros((sequences, scored), np.int32) for n in _SCORED}
  out['weight'] = np.zeros((sequences, scored), np.float32)
  fields = {
    name: np.zeros((sequences, scored), np.float32) for name in row_set.fields
  }
  segments = np.zeros(sequences, int)
  branch = np.zeros(0, int)  # places of the prompt laid down last
  pairs = list(zip(row_set.rows, places, strict=True))
  pairs.sort(key=lambda x: (x[1].sequence, x[1].start, len(x[0]) - x[1].shared))
  for row, place in pairs:
    s, shared = place.sequence, place.shared
    own = np.arange(len(row) - shared) + place.start
    end = place.start + len(own)
    tokens = np.concatenate([row.prompt_T, row.response_R])
    out['tokens'][s, own] = tokens[shared:]
    out['positions'][s, own] = np.arange(shared, len(row))
    out['until'][s, own] = end
    out['until'][s, branch[:shared]] = end
    places_T = np.concatenate([branch[:shared], own])
    p, r = len(row.prompt_T), len(row.response_R)
    branch = places_T[:p]
    where = s, slice(place.scored, place.scored + r)
    segments[s] += 1
    out['sources'][where] = places_T[p - 1 : p + r - 1]
    out['targets'][where] = row.response_R
    out['segments'][where] = segments[s]
    out['weight'][where] = row.weight_R
    for name in row_set.fields:
      fields[name][where] = row.fields[name]
  return out | {'fields': fields}


def take_rows(
  values: Float[Array, 'M B R'], places: list[Place], rows: Sequence[Row]
) -> list[np.ndarray]:
  """Values of each row's response, out of a batch-shaped global array."""
  flat = dist.local_part(values, axis=1).reshape(-1, values.shape[-1])
  return [
    flat[p.sequence, p.scored : p.scored + len(row.response_R)]
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

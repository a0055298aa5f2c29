"""Rows become arrays here and nowhere else.

Rows are packed several to a sequence; those whose prompts begin alike share
that beginning, so that eight answers to one question read it once. Sequences
are grouped into microbatches, and shapes come from a small set of sizes, agreed
over all hosts, so that little compiles anew and no host waits for another.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Shaped

from jaxdistill import dist
from jaxdistill.batch.layout import Layout, Shapes, lay_out
from jaxdistill.batch.packing import Place, prompts_of, units_of
from jaxdistill.types import Row, RowSet


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reading:
  """What is read, so that scored tokens can be predicted.

  A sequence of `T` tokens is a forest in depth-first order (see
  `Decoder.read`); `R` of its tokens predict a scored one.

  Attributes:
    tokens: Token ids, 0 where there is none.
    positions: Place of a token in its row.
    until: Where in the sequence what follows a token ends; 0 is padding.
    sources: Places of the tokens that predict the scored ones.
  """

  tokens: Int[Array, '*M B T']
  positions: Int[Array, '*M B T']
  until: Int[Array, '*M B T']
  sources: Int[Array, '*M B R']


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """Packed rows of one kind. The loss sees one microbatch, without axis `M`.

  Numbers have no axis but that of candidates, `E`, in a batch from `stack`.

  Attributes:
    reading: What the policy reads.
    teacher_reading: What a teacher reads before the same responses; None where
      the rows have no prompts for one.
    targets: The scored tokens.
    segments: Which row of the sequence a scored token is of, from 1; 0 is
      padding.
    pairs: Which pair of the sequence, likewise; None where rows have none.
    weight: Weight of each scored token's value.
    fields: What else the loss reads, one value per scored token.
    coefficients: Numbers that the loss reads.
    role: Index of the role that is trained.
    total: Denominator, summed over all rows of all hosts and microbatches.
    microbatches: How many of the `M` microbatches hold rows.
    kind: Of the row set; static.
  """

  reading: Reading
  teacher_reading: Reading | None
  targets: Int[Array, '*M B R']
  segments: Int[Array, '*M B R']
  pairs: Int[Array, '*M B R'] | None
  weight: Float[Array, '*M B R']
  fields: dict[str, Shaped[Array, '...']]
  coefficients: dict[str, Float[Array | np.ndarray, '...']]
  role: Int[Array | np.ndarray, '*E']
  total: Float[Array | np.ndarray, '*E']
  microbatches: Int[Array | np.ndarray, '*E']
  kind: str = dataclasses.field(default='', metadata={'static': True})

  def microbatch(self, i: Int[Array, '']) -> 'Batch':
    """Microbatch `i`, without the leading axis."""
    arrays = {name: getattr(self, name) for name in _ARRAYS}
    picked = jax.tree.map(lambda x: x[i], arrays)
    return dataclasses.replace(self, **picked)

  def summed(self, of: Callable[['Batch'], Any]) -> Any:
    """The sum of `of(microbatch)`, a tree of arrays, over those with rows.

    Where there is room for one only, nothing is added and no second tree is
    made.
    """

    def one(i):
      return of(self.microbatch(i))

    first = jnp.zeros((), jnp.int32)
    if self.weight.shape[0] == 1:
      return one(first)
    zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, first)
    )

    def add(i, so_far):
      return jax.tree.map(jnp.add, so_far, one(i))

    return jax.lax.fori_loop(0, self.microbatches, add, zeros)

  def weighted(self, values: Float[Array, 'B R']) -> Float[Array, '']:
    """`sum(weight * value)`; what has no weight may be anything, also nan.

    Its gradient is not: where a value is nan, so is what it is made of.
    """
    return jnp.sum(jnp.where(self.weight != 0, self.weight * values, 0))

  def over_targets(
    self,
    fn: Callable[..., Any],
    model: Any,
    *teachers: Any,
    arrays: Sequence[Shaped[Array, 'B R *Z']] = (),
  ) -> Any:
    """Any function of the logits of the scored tokens, chunk by chunk.

    No array of `[B, R, V]` is made: `fn` sees some of the tokens at a time, and
    is computed again in the backward pass.

    Args:
      fn: `(logits, *teachers_logits, *arrays) -> values`, float32[B, C, V] and
        [B, C, ...] for a chunk of C tokens to any tree of [B, C, ...].
      model: The policy, a `Decoder`, asked in the role that is trained.
      *teachers: Decoders that predict the same tokens; they read the teacher's
        prompts, if the rows have some, and no gradient goes through them.
      arrays: What else `fn` reads, per scored token.

    Returns:
      What `fn` gives, for all tokens.
    """
    other = self.teacher_reading or self.reading
    hidden = self._hidden(model, self.reading)
    others = [self._hidden(teacher, other) for teacher in teachers]
    return hidden.over(fn, *jax.lax.stop_gradient(others), arrays=arrays)

  def logprobs(
    self, model: Any, temperature: Float[Array, ''] | float = 1.0
  ) -> Float[Array, 'B R']:
    """log p of the scored tokens of a microbatch under a `Decoder`, float32.

    Args:
      model: Asked in the role that is trained.
      temperature: Divides the logits.
    """

    return self._hidden(model, self.reading).logprobs(self.targets, temperature)

  def _hidden(self, model: Any, reading: Reading) -> Any:
    return model.read(
      reading.tokens,
      reading.positions,
      reading.until,
      reading.sources,
      role=self.role,
    )


_READ = ('tokens', 'positions', 'until')  # per token
_SCORED = ('targets', 'segments', 'weight')  # per scored token
_ARRAYS = ('reading', 'teacher_reading', *_SCORED, 'pairs', 'fields')


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
  ((layout, places),) = lay_out([row_set], mesh, shapes)
  return fill(row_set, role, mesh, layout, places), places


def fill(
  row_set: RowSet, role: int, mesh: Mesh, layout: Layout, places: list[Place]
) -> Batch:
  """The arrays of a set of rows, laid out; every process calls it together.

  Args:
    row_set: This host's rows.
    role: Index of the role they train.
    mesh: Over which the sequences are sharded.
    layout: Sizes of the arrays.
    places: Where each row goes.
  """
  total = dist.sum_over_hosts(np.array(sum(row.total for row in row_set.rows)))

  def put(x):
    x = x.reshape(layout.room, layout.sequences, *x.shape[1:])
    return dist.put_local(mesh, x, None, 'batch')

  def number(x, dtype: type = np.float32) -> Any:
    return np.asarray(x, dtype)  # replicated by whoever compiles with it

  arrays = jax.tree.map(put, _fill(row_set, layout, places))
  for name in ('reading', 'teacher_reading'):
    arrays[name] = arrays[name] and Reading(**arrays[name])
  return Batch(
    **arrays,
    coefficients={k: number(v) for k, v in row_set.coefficients.items()},
    role=number(role, np.int32),
    total=number(total),
    microbatches=number(layout.used, np.int32),
    kind=row_set.kind,
  )


def _fill(
  row_set: RowSet, layout: Layout, places: list[Place]
) -> dict[str, Any]:
  """Packed arrays of this host's rows, by the names of `Batch`."""
  sequences = layout.room * layout.sequences

  def zeros(size, shape=(), dtype='int32'):
    return np.zeros((sequences, size, *shape), dtype)

  readings = [
    {n: zeros(length) for n in _READ} | {'sources': zeros(layout.scored)}
    for length in (layout.length, layout.teacher_length)
  ]
  out = {n: zeros(layout.scored) for n in _SCORED}
  out['weight'] = zeros(layout.scored, dtype='float32')
  pairs = zeros(layout.scored)
  fields = {
    f.name: zeros(layout.scored, f.shape, f.dtype) for f in row_set.specs
  }
  segments = np.zeros(sequences, int)
  numbers: list[dict[Any, int]] = [{} for _ in range(sequences)]  # of pairs
  branches = [np.zeros(0, int)] * 2  # of each reader, what was laid down last
  laid = zip(row_set.rows, places, strict=True)
  for row, place in sorted(laid, key=lambda x: x[1].order):
    s = place.sequence
    scored = slice(place.scored, place.scored + len(row.response_R))
    starts = (place.shared, place.start), place.teacher
    for i, prompt_T in enumerate(prompts_of(row)):
      branches[i] = _read(
        *(readings[i], row, prompt_T, s, scored, starts[i], branches[i])
      )
    segments[s] += 1
    out['targets'][s, scored] = row.response_R
    out['segments'][s, scored] = segments[s]
    out['weight'][s, scored] = row.weight_R
    pairs[s, scored] = numbers[s].setdefault(row.pair, len(numbers[s]) + 1)
    for name, values in fields.items():
      values[s, scored] = row.fields[name]
  return out | {
    'reading': readings[0],
    'teacher_reading': readings[1] if row_set.taught else None,
    'pairs': pairs if row_set.paired else None,
    'fields': fields,
  }


def _read(
  arrays: dict[str, np.ndarray],
  row: Row,
  prompt_T: np.ndarray,
  sequence: int,
  scored: slice,
  at: tuple[int, int],
  branch: np.ndarray,
) -> np.ndarray:
  """Lays a row down for one reader.

  Args:
    arrays: Of a `Reading`, filled in place.
    row: Whose response it is.
    prompt_T: What this reader reads before it.
    sequence: Which sequence.
    scored: Its places among the scored tokens.
    at: How much is shared, and where the rest begins.
    branch: Places of the prompt laid down last.

  Returns:
    Places of this prompt.
  """
  (shared, start), p = at, len(prompt_T)
  tokens = np.concatenate([prompt_T, row.response_R])
  own = np.arange(len(tokens) - shared) + start
  end = start + len(own)
  arrays['tokens'][sequence, own] = tokens[shared:]
  arrays['positions'][sequence, own] = np.arange(shared, len(tokens))
  arrays['until'][sequence, own] = end
  arrays['until'][sequence, branch[:shared]] = end
  places_T = np.concatenate([branch[:shared], own])
  arrays['sources'][sequence, scored] = places_T[p - 1 : len(tokens) - 1]
  return places_T[:p]


def take_rows(
  values: Shaped[Array, 'M B R *Z'], places: list[Place], rows: Sequence[Row]
) -> list[np.ndarray]:
  """Values of each row's response, out of a batch-shaped global array."""
  flat = dist.local_part(values, axis=1).reshape(-1, *values.shape[2:])
  return [
    flat[p.sequence, p.scored : p.scored + len(row.response_R)]
    for row, p in zip(rows, places, strict=True)
  ]


def dealt(row_set: RowSet, count: int) -> list[RowSet]:
  """A row set in `count` parts, rows (or pairs) dealt out in turn."""
  units = units_of(row_set.rows)
  return [
    dataclasses.replace(
      row_set, rows=[row_set.rows[i] for unit in units[k::count] for i in unit]
    )
    for k in range(count)
  ]


def make_minibatches(
  row_set: RowSet, count: int, role: int, mesh: Mesh, shapes: Shapes
) -> list[Batch | None]:
  """A row set as `count` batches of the rows that `dealt` gives each.

  Each has the same denominator, a `count`-th of the set's: a row weighs the
  same in whichever it falls. Each host deals its own, so which rows meet
  depends on how many hosts there are. None stands for one without rows on any.
  """
  parts = dealt(row_set, count)
  batches = [
    fill(part, role, mesh, *laid)
    for part, laid in zip(parts, lay_out(parts, mesh, shapes), strict=True)
  ]
  total = np.asarray(sum(b.total for b in batches) / count, np.float32)
  return [
    dataclasses.replace(batch, total=total) if batch.total > 0 else None
    for batch in batches
  ]


def stack(
  row_sets: Sequence[RowSet], role: int, mesh: Mesh, shapes: Shapes
) -> Batch:
  """Batches of like shapes on a leading axis `E`, one per row set.

  What is not an array of the sequences (coefficients, `total`, ...) is stacked
  as well. The sets have the same fields and kind.
  """
  batches = [
    fill(row_set, role, mesh, *laid)
    for row_set, laid in zip(
      row_sets, lay_out(row_sets, mesh, shapes, alone=True), strict=True
    )
  ]
  return jax.tree.map(lambda *x: jnp.stack(x), *batches)

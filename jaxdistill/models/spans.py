"""Which keys a query sees, in memory linear in their number.

A mask of intervals of columns (FlashMask, arXiv 2410.01359, sec. 4.1): packed
trees in depth-first order, segments, padding and sliding windows are all of
this kind, so no array of queries times keys is needed to say them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped

EVERYTHING = 2**30  # a window that never closes
_NOWHERE = 2**30  # the row of padding
_FAR = 2**29  # positions of padding: no window reaches from one to the other


class Spans(NamedTuple):
  """Query i, which is row r = rows[i] of its sequence, sees key j where

    since[j] <= r < until[j] and queries[i] - keys[j] < window.

  Attributes:
    until: Row before which each key is seen; 0: by nobody.
    queries: Position of each query in its text.
    keys: Position of each key in its text.
    window: How many positions are seen, the own one included.
    since: Row from which on each key is seen; None: its own, j.
    rows: Row of each query; None: the last, S - T + i.
  """

  until: Int[Array, 'B S']
  queries: Int[Array, 'B T']
  keys: Int[Array, 'B S']
  window: Int[Array, ''] | int
  since: Int[Array, 'B S'] | None = None
  rows: Int[Array, 'B T'] | None = None


class Explicit(NamedTuple):
  """`Spans` with nothing left to be understood."""

  until: Int[Array, 'B S']
  queries: Int[Array, 'B T']
  keys: Int[Array, 'B S']
  window: Int[Array, '']
  since: Int[Array, 'B S']
  rows: Int[Array, 'B T']


def explicit(spans: Spans) -> Explicit:
  """The same, all of it said."""
  (b, t), s = spans.queries.shape, spans.keys.shape[1]
  places = jnp.broadcast_to(jnp.arange(s, dtype=jnp.int32), (b, s))
  return Explicit(
    *spans[:3],
    jnp.asarray(spans.window, jnp.int32),
    places if spans.since is None else spans.since,
    places[:, s - t :] if spans.rows is None else spans.rows,
  )


def spans_after(
  past: int, until: Int[Array, 'B T'], positions: Int[Array, 'B T']
) -> Spans:
  """Of tokens that come after `past` others, which all of them see.

  Args:
    past: How many, at positions 0, 1, ...
    until: Which token no more sees each token, the past not counted.
    positions: Of the tokens, the past counted.
  """
  left = ((0, 0), (past, 0))
  until = jnp.pad(until + past, left, constant_values=past + until.shape[1])
  before = jnp.broadcast_to(jnp.arange(past), (len(positions), past))
  keys = jnp.concatenate([before, positions], 1)
  return Spans(until, positions, keys, EVERYTHING)


def both_ways(spans: Spans) -> Spans:
  """The same where a key is seen from the beginning of its text on.

  For texts that stand side by side and share nothing.
  """
  return spans._replace(since=explicit(spans).since - spans.keys)


def until_of(segments: Int[Array, 'B T']) -> Int[Array, 'B T']:
  """Where the segment of each token ends; a segment's tokens are adjacent."""
  t = segments.shape[1]
  last = jnp.pad(
    segments[:, 1:] != segments[:, :-1], ((0, 0), (0, 1)), constant_values=True
  )
  ends = jnp.where(last, jnp.arange(1, t + 1), t)
  return jax.lax.cummin(ends, axis=1, reverse=True)


def seen(
  row: Int[Array, '...'],
  since: Int[Array, '...'],
  until: Int[Array, '...'],
  query: Int[Array, '...'],
  key: Int[Array, '...'],
  window: Int[Array, ''] | int,
) -> Bool[Array, '...']:
  """Whether queries see keys; whatever shapes broadcast, either way round."""
  return (since <= row) & (row < until) & (query - key < window)


def dense(spans: Spans) -> Bool[Array, 'B T S']:
  """The whole mask, where it is small."""
  said = explicit(spans)
  rows, own = said.rows[:, :, None], said.queries[:, :, None]
  since, until, others = (
    x[:, None] for x in (said.since, said.until, said.keys)
  )
  return seen(rows, since, until, own, others, said.window)


def pad_to(
  x: Shaped[Array, '...'], axis: int, multiple: int, value: int = 0
) -> Shaped[Array, '...']:
  """`x` with as much behind it as makes an axis a multiple."""
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, -x.shape[axis] % multiple)
  return jnp.pad(x, widths, constant_values=value)


def pad_spans(spans: Spans, c: int) -> Explicit:
  """Whole blocks of `c`; what is added sees nothing and is not seen."""
  until, queries, keys, window, since, rows = explicit(spans)
  return Explicit(
    pad_to(until, 1, c),
    pad_to(queries, 1, c, _FAR),
    pad_to(keys, 1, c, -_FAR),
    window,
    pad_to(since, 1, c, _NOWHERE),
    pad_to(rows, 1, c, _NOWHERE),
  )


def blocks(spans: Explicit, c: int) -> Bool[Array, 'B Q Y']:
  """Which blocks of c queries may see something of which blocks of c keys.

  Args:
    spans: Padded to whole blocks.
    c: Tokens of a block.
  """

  def split(x):
    return x.reshape(len(x), -1, c)

  until, keys = (split(x).max(-1)[:, None] for x in (spans.until, spans.keys))
  since = split(spans.since).min(-1)[:, None]
  queries, first = (
    split(x).min(-1)[:, :, None] for x in (spans.queries, spans.rows)
  )
  there = jnp.where(spans.rows < _NOWHERE, spans.rows, -1)
  last = split(there).max(-1)[:, :, None]
  return (since <= last) & (first < until) & (queries - keys < spans.window)


def listed(
  some: Bool[Array, 'B Q Y'],
) -> tuple[Int[Array, 'B Q Y'], Int[Array, 'B Q']]:
  """The blocks of keys that are true for one of queries, and how many are.

  In order; the last is repeated, so that a kernel that goes on fetches nothing
  anew.
  """
  count = some.sum(-1, dtype=jnp.int32)
  order = jnp.argsort(~some, axis=-1, stable=True).astype(jnp.int32)
  last = jnp.maximum(count - 1, 0)[..., None]
  at = jnp.minimum(jnp.arange(some.shape[-1], dtype=jnp.int32), last)
  return jnp.take_along_axis(order, at, -1), count

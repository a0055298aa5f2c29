"""Attention of one new token per row over keys that lie in pages.

A page holds some tokens of one text: of a prompt, or of what a row has said. It
is never copied for its readers: queries, which are small, go to where the keys
are, each page answers with a part of a softmax, and the parts are joined
(arXiv 2205.14135, sec. 3.1). So a token costs what there is to read.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxdistill.models.int8 import Int8, factors, to_int8
from jaxdistill.models.softmax import soft_cap

_NEG = -1e30

# What a layer's keys and values are kept as; in int8, with a scale by token and
# head. Of shapes as in `Pages`.
CACHES: dict[str, Callable[[Array, Array], tuple[Any, Any]]] = {
  '': lambda k, v: (k, v),
  'int8': lambda k, v: (to_int8(k, 2), to_int8(v, 3)),
}


class Pages(NamedTuple):
  """Keys and values of `S` tokens a page, one array or `Int8` per layer.

  Attributes:
    k: Per layer `[B K H S]`, as a product with queries reads them; the scale of
      an `Int8` is `[B K 1 S]`.
    v: Per layer `[B K S H]`; the scale of an `Int8` is `[B K S 1]`.
  """

  k: tuple[Any, ...]
  v: tuple[Any, ...]

  @property
  def size(self) -> int:
    """Tokens in a page."""
    return self.v[0].shape[2]


class Level(NamedTuple):
  """Pages of texts of one sort, `B` on each of `W` shards, and who reads them.

  Pages of one text are neighbours, in order. A text has at most as many readers
  as `G`; they are samples, of which each shard has `J`.

  Attributes:
    pages: `W * B` of them.
    table: Of each page the five below, side by side, `Int[Array, 'W B 4+G']`.
    at: Of each sample, `G * page + reader` of its text's first page; `G * B`
      where it reads none, `Int[Array, 'W J']`.
    doublings: The longest text has at most `2**doublings` pages.
    lo: First slot in use of a page, `Int[Array, 'W B']`.
    hi: End of the slots in use, likewise.
    start: Position of a page's slot 0, likewise.
    after: How many pages of the same text follow, likewise.
    readers: Samples that read a page; `J` is nobody, `Int[Array, 'W B G']`.
  """

  pages: Pages
  table: Array
  at: Array
  doublings: Int[Array, '']

  @property
  def lo(self) -> Array:
    return self.table[..., 0]

  @property
  def hi(self) -> Array:
    return self.table[..., 1]

  @property
  def start(self) -> Array:
    return self.table[..., 2]

  @property
  def after(self) -> Array:
    return self.table[..., 3]

  @property
  def readers(self) -> Array:
    return self.table[..., 4:]


class View(NamedTuple):
  """A level as the rows of the moment see it, `U` on each shard.

  Attributes:
    rows: Row of each reader of a page, `Int[Array, 'W B G']`; of what nobody
      reads, any.
    at: Where each row's text begins, as in `Level`, `Int[Array, 'W U']`.
    seen: By kind of layer, which slots a reader sees: `[B 1 Q S]`, or
      `[B 1 1 S]` where all readers see the same.
  """

  rows: Array
  at: Array
  seen: tuple[Bool[Array, 'B 1 ... S'], ...]


class Part(NamedTuple):
  """A softmax over some of the keys, unnormalised.

  Attributes:
    high: The largest logit.
    mass: Sum of `exp(logit - high)`.
    value: Sum of `exp(logit - high) * v`, with a last axis `H`.
  """

  high: Float[Array, '*Z']
  mass: Float[Array, '*Z']
  value: Array


def view(
  level: Level,
  row_of: Int[Array, 'W J'],
  lead: Int[Array, 'W U'],
  positions: Int[Array, 'W U'],
  windows: tuple[int, ...],
) -> View:
  """What the rows see of a level.

  Args:
    level: The pages.
    row_of: Row of each sample that leads one.
    lead: Sample that leads each row.
    positions: Of the new token of each row.
    windows: By kind of layer, how many tokens are seen; 0: all.
  """
  rows = take(row_of, level.readers)
  slot = jnp.arange(level.pages.size)
  used = (slot >= level.lo[..., None]) & (slot < level.hi[..., None])
  used = used[:, :, None, None]
  here = level.start[..., None, None] + slot
  away = take(positions, rows)[..., None] - here
  groups = level.pages.k[0].shape[0]

  def seen(width):
    if not width:
      return used.reshape(groups, 1, 1, -1)
    return (used[:, :, 0] & (away < width)).reshape(groups, 1, *away.shape[2:])

  return View(rows, take(level.at, lead), tuple(map(seen, windows)))


def kept(pages: Pages, cache: str) -> Pages:
  """The same kept as one of `CACHES`."""
  layers = [CACHES[cache](k, v) for k, v in zip(*pages, strict=True)]
  return Pages(*zip(*layers, strict=True))


def write(
  k_page: Array | Int8,
  v_page: Array | Int8,
  k: Float[Array, 'B K H'],
  v: Float[Array, 'B K H'],
  slot: Int[Array, ''],
) -> tuple[Array | Int8, Array | Int8]:
  """A layer's pages with one more token in each, kept as they are.

  Args:
    k_page: Keys.
    v_page: Values.
    k: The token's key.
    v: Its value.
    slot: Where it stands, the same for all.
  """
  cache = 'int8' if isinstance(k_page, Int8) else ''
  k_new, v_new = CACHES[cache](k[..., None], v[:, :, None])

  def put(page, new, axis):
    return jax.tree.map(
      lambda page, new: jax.lax.dynamic_update_slice_in_dim(
        page, new, slot, axis=axis
      ),
      page,
      new,
    )

  return put(k_page, k_new, 3), put(v_page, v_new, 2)


def part(
  q: Float[Array, 'B K Q H'],
  k: Float[Array, 'B K H S'] | Int8,
  v: Float[Array, 'B K S H'] | Int8,
  seen: Bool[Array, 'B 1 ... S'] | None,
  cap: float,
) -> Part:
  """What queries find in one page each; sums are float32.

  Args:
    q: Queries.
    k: Keys.
    v: Values.
    seen: Which slots; None is all. A query that sees none has a part that
      counts for nothing beside another.
    cap: Soft cap of the logits; 0 is none.
  """
  logits = soft_cap(_logits(q, k), cap)
  if seen is not None:
    logits = jnp.where(seen, logits, _NEG)
  high = jnp.max(logits, -1)
  mass = jnp.exp(logits - high[..., None])
  return Part(high, jnp.sum(mass, -1), _mixed(mass, v, q.dtype))


def _logits(q, k) -> Float[Array, 'B K Q S']:
  if isinstance(k, Int8):
    return _logits(*factors(q, k)) * k.scale
  return jnp.einsum('xkah,xkhp->xkap', q, k, preferred_element_type=jnp.float32)


def _mixed(mass, v, dtype) -> Float[Array, 'B K Q H']:
  if isinstance(v, Int8):
    mass = (mass * v.scale.swapaxes(2, 3)).astype(dtype)
    return _mixed(*factors(mass, v), dtype)
  return jnp.einsum(
    'xkap,xkph->xkah', mass.astype(dtype), v, preferred_element_type=jnp.float32
  )


def join(*parts: Part) -> Part:
  """The softmax over the keys of all."""
  high = functools.reduce(jnp.maximum, [p.high for p in parts])
  shares = [jnp.exp(p.high - high) for p in parts]
  pairs = list(zip(shares, parts, strict=True))
  return Part(
    high,
    functools.reduce(jnp.add, [s * p.mass for s, p in pairs]),
    functools.reduce(jnp.add, [s[..., None] * p.value for s, p in pairs]),
  )


def read_pages(
  q: Float[Array, 'T K Q H'],
  k: Float[Array, 'B K H S'] | Int8,
  v: Float[Array, 'B K S H'] | Int8,
  level: Level,
  seen_by: View,
  kind: int,
  cap: float,
) -> Part:
  """What each row finds in its text on a level.

  Args:
    q: Queries of the rows of all shards, `T = W * U`.
    k: Keys of this layer, `W * B` pages.
    v: Values.
    level: Whose pages they are.
    seen_by: From `view`.
    kind: Of this layer.
    cap: Soft cap of the logits; 0 is none.

  Returns:
    A part by row, `[T K Q]`.
  """
  w, n, r = seen_by.rows.shape
  kv, m, h = q.shape[1:]
  asked = take(q.reshape(w, -1, kv, m, h), seen_by.rows)
  asked = asked.swapaxes(2, 3).reshape(w * n, kv, r * m, h)
  seen = seen_by.seen[kind]
  if seen.shape[2] > 1:  # by reader
    seen = jnp.repeat(seen, m, 2)
  found = part(asked, k, v, seen, cap)
  found = jax.tree.map(lambda x: x.reshape(w, n, *x.shape[1:]), found)
  found = _joined_along(found, level)

  def to_rows(x):
    x = x.reshape(w, n, kv, r, m, *x.shape[4:]).swapaxes(2, 3)
    x = take(x.reshape(w, n * r, kv, m, *x.shape[5:]), seen_by.at)
    return x.reshape(-1, *x.shape[2:])

  nowhere = (seen_by.at >= n * r).reshape(-1, 1, 1)
  found = jax.tree.map(to_rows, found)
  return found._replace(high=jnp.where(nowhere, _NEG, found.high))


def _joined_along(found: Part, level: Level) -> Part:
  """By page, the part of it and of all pages of its text that follow."""
  if level.after.shape[1] == 1:
    return found

  def twice_as_far(i, found):
    step = 1 << i
    beyond = jax.tree.map(lambda x: jnp.roll(x, -step, 1), found)
    there = (level.after >= step)[:, :, None, None]
    beyond = beyond._replace(high=jnp.where(there, beyond.high, _NEG))
    return join(found, beyond)

  return jax.lax.fori_loop(0, level.doublings, twice_as_far, found)


def take(
  x: Shaped[Array, 'W Z ...'], index: Int[Array, 'W ...']
) -> Shaped[Array, 'W ...']:
  """`x[w, index]` for every shard w; an index beyond the last is clipped.

  By vmap, for indices that name the shard make XLA gather from all of them.
  """
  return jax.vmap(lambda x, i: x.at[i].get(mode='clip'))(x, index)

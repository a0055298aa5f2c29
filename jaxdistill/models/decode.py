"""One token for every row: the decoder as generation reads it.

Layers are unrolled and their projections joined, so that a token copies no
weight and multiplies as few matrices as there are.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdistill.dist import DECODE_RULES, DRAWN, constrain
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.int8 import Formats, to_int8
from jaxdistill.models.layers import (
  MAPS,
  Resolved,
  embed,
  finish_block,
  normed_heads,
  rms_norm,
  unembed,
)
from jaxdistill.models.linear import Weights, apply, dense, gathered, on_axes
from jaxdistill.models.paged import (
  Level,
  Pages,
  View,
  join,
  part,
  read_pages,
  write,
)
from jaxdistill.models.rope import turns


class Unrolled(NamedTuple):
  """A role's weights, each layer by itself, as one of `KERNELS` keeps them.

  Attributes:
    embed: `[V D]`.
    layers: By name: `qkv`, `o`, `gate_up`, `down`, and scales of norms.
    norm: Scale of the last norm.
    head: Output projection.
  """

  embed: Array
  layers: list[dict[str, Any]]
  norm: Array
  head: Weights


def _whole(w: Weights, dtype: str) -> Weights:
  """All in one dtype.

  In float32, a delta is added to its kernel. In bfloat16 it stays beside it: a
  sum would be rounded as what is trained is not.
  """
  if dtype == 'float32':
    w = Weights(dense(w), None, w.bias)
  return jax.tree.map(lambda x: x.astype(dtype), w)


def _in_int8(w: Weights, dtype: str) -> Weights:
  """The kernel in int8, with a scale by output channel; the rest in one dtype.

  The delta stays beside it: what training adds is mostly less than half a step
  of the rounding, and would be lost in the sum.
  """
  delta, bias = jax.tree.map(lambda x: x.astype(dtype), (w.delta, w.bias))
  return Weights(to_int8(w.kernel, 0), delta, bias)


# Logical axes of a layer's maps, those that are joined by their first.
_AXES = {
  'qkv': MAPS['q'],
  'o': MAPS['o'],
  'gate_up': MAPS['gate'],
  'down': MAPS['down'],
}

# How the kernel `[I O]` of each map is kept, and its delta.
KERNELS: dict[str, Callable[[Weights, str], Weights]] = {
  '': _whole,
  'int8': _in_int8,
}


def unroll_layer(
  weights: Resolved,
  config: DecoderConfig,
  i: Int[Array | np.generic, ''],
  shards: int,
  formats: Formats = Formats(),  # noqa: B008
) -> dict[str, Any]:
  """Lays a layer out for `decode`; each by itself, so that little is beside it.

  Args:
    weights: Of a role.
    config: Of the decoder.
    i: Which layer.
    shards: Over how many devices heads and hidden units are split.
    formats: How they are kept.
  """
  heads, copies = config.num_kv_heads, config.copies(shards)
  shards = _split_over(config.over(shards), shards)
  layer = jax.tree.map(lambda x: x[i], weights.layers)
  layer |= {n: _repeated(layer[n], heads, copies) for n in 'kv'}
  by_name = {
    n: KERNELS[formats.weights](w, config.dtype)
    for n, w in layer.items()
    if isinstance(w, Weights)
  }
  norms = {n: x for n, x in layer.items() if n not in by_name}
  joined = {
    'qkv': _beside([by_name.pop(n) for n in 'qkv'], shards),
    'gate_up': _beside([by_name.pop(n) for n in ('gate', 'up')], shards),
    **by_name,
  }
  lie = _sharded if formats.sharded else gathered
  return norms | {n: lie(w, *_AXES[n]) for n, w in joined.items()}


def unroll_ends(
  weights: Resolved,
  config: DecoderConfig,
  formats: Formats = Formats(),  # noqa: B008
) -> tuple[Array, Array, Weights]:
  """Embedding, last norm and output projection, as `unroll_layer`.

  The projection is never left in shards: it would be gathered at every token.
  """
  embed = constrain(weights.embed.astype(config.dtype), 'vocab', 'embed')
  if not formats.sharded:
    embed = constrain(embed, 'vocab', 'embed', rules=DECODE_RULES)
  head = KERNELS[formats.weights](weights.head, config.dtype)
  return embed, weights.norm, gathered(head, *MAPS['head'])


def _sharded(w: Weights, i: str, o: str) -> Weights:
  """A map from axis `i` to axis `o`, pinned to where it lies."""
  return on_axes(lambda x, axes: constrain(x, *axes), w, i, o)


def _repeated(w: Weights, heads: int, copies: int) -> Weights:
  """A map to `heads` heads, each so many times."""
  if copies == 1:
    return w

  def of(x):
    by_head = x.reshape(*x.shape[:-1], heads, -1)
    return jnp.repeat(by_head, copies, -2).reshape(*x.shape[:-1], -1)

  delta = w.delta and (w.delta[0], of(w.delta[1]))
  return Weights(of(w.kernel), delta, None if w.bias is None else of(w.bias))


def _beside(maps: Sequence[Weights], shards: int) -> Weights:
  """One map to the outputs of several, shard by shard: no device's outputs
  leave it."""

  def along(parts):
    parts = [x.reshape(*x.shape[:-1], shards, -1) for x in parts]
    joined = jnp.concatenate(parts, -1)
    return joined.reshape(*joined.shape[:-2], -1)

  kernel = jax.tree.map(lambda *x: along(x), *[w.kernel for w in maps])
  bias, given = None, [w.bias for w in maps if w.bias is not None]
  if given:
    none = [jnp.zeros(w.kernel.shape[1], given[0].dtype) for w in maps]
    bias = along(
      [n if w.bias is None else w.bias for w, n in zip(maps, none, strict=True)]
    )
  if maps[0].delta is None:
    return Weights(kernel, None, bias)
  a, b = zip(*(w.delta for w in maps), strict=True)
  ranks = [x.shape[0] for x in b]
  # Each delta reads its own part of what all `a` give.
  b = [
    jnp.pad(x, ((sum(ranks[:i]), sum(ranks[i + 1 :])), (0, 0)))
    for i, x in enumerate(b)
  ]
  return Weights(kernel, (jnp.concatenate(a, -1), along(b)), bias)


def decode(
  config: DecoderConfig,
  weights: Unrolled,
  tokens: Int[Array, 'T'],
  positions: Int[Array, 'T'],
  prefix: Pages | None,
  levels: Sequence[tuple[Level, View]],
  newest: Pages,
  begin: Int[Array, 'T'],
  slot: Int[Array, ''],
  shards: int,
  sharded: bool = False,
) -> tuple[Float[Array, 'T V'], Pages]:
  """Logits of the next token of every row.

  Args:
    config: Of the decoder.
    weights: Of a role, laid out.
    tokens: The tokens drawn last.
    positions: Theirs.
    prefix: One page that all rows read; None where there is none.
    levels: Pages that some rows read.
    newest: A page a row that the token is written to.
    begin: First slot in use of each of these.
    slot: Where in it, the same for all rows.
    shards: As for `unroll_layer`.
    sharded: As `Formats.sharded`.

  Returns:
    Logits, float32, and the newest pages with these tokens.
  """
  c = config.over(shards)
  shards = _split_over(c, shards)
  s, group = tokens.shape[0], c.num_heads // c.num_kv_heads
  places = jnp.arange(newest.size)
  here = (places >= begin[:, None]) & (places <= slot)
  kinds = []
  for kind in c.kinds:
    seen, before = here, None
    if kind.window:
      seen = here & (slot - places < kind.window)
      if prefix:
        away = positions[:, None] - jnp.arange(prefix.size)
        before = jnp.repeat((away < kind.window), group, 0)[None, None]
    turned = turns(kind.rope, c.head_dim, positions[:, None])
    kinds.append((turned, seen[:, None, None], before))

  def inner(h, layer):
    return _apart(apply(h, layer['gate_up']), (c.mlp_dim,) * 2, shards)

  x = embed(tokens[:, None], weights.embed, c, DRAWN)
  ks, vs, before_last = [], [], x
  for i, (layer, of) in enumerate(zip(weights.layers, c.kind_of, strict=True)):
    if sharded:
      layer, before_last = _gathered_after(before_last, layer), x
    turned, seen, before = kinds[of]
    h = rms_norm(x, layer['attention_norm'], c.norm_eps)
    q, k, v = _heads(apply(h, layer['qkv']), layer, turned, c, shards)
    k, v = write(newest.k[i], newest.v[i], k, v, slot)
    parts = [part(q, k, v, seen, c.attention_cap)]
    if prefix:
      all_q = q.swapaxes(0, 1).reshape(1, c.num_kv_heads, -1, c.head_dim)
      found = part(all_q, prefix.k[i], prefix.v[i], before, c.attention_cap)
      parts.append(
        jax.tree.map(
          lambda x: x.reshape(-1, s, group, *x.shape[3:]).swapaxes(0, 1), found
        )
      )
    parts += [
      read_pages(
        *(q, level.pages.k[i], level.pages.v[i], level, seen_by, of),
        c.attention_cap,
      )
      for level, seen_by in levels
    ]
    whole = join(*parts) if len(parts) > 1 else parts[0]
    attended = (whole.value / whole.mass[..., None]).astype(x.dtype)
    x = finish_block(x, attended.reshape(s, 1, -1, c.head_dim), layer, c, inner)
    ks.append(k)
    vs.append(v)
  hidden = rms_norm(x, weights.norm, c.norm_eps)
  return unembed(hidden[:, 0], weights.head, c), Pages(tuple(ks), tuple(vs))


def _gathered_after(x: Array, layer: dict[str, Any]) -> dict[str, Any]:
  """A layer made whole, once `x` is there: not all of them before the first,
  and not once for all tokens."""
  held = {n: layer[n] for n in _AXES}
  held, _ = jax.lax.optimization_barrier((held, x))
  return layer | {n: gathered(w, *_AXES[n]) for n, w in held.items()}


def _split_over(config: DecoderConfig, shards: int) -> int:
  """Over how many devices each head and hidden unit has one place."""
  uneven = config.num_kv_heads % shards or config.mlp_dim % shards
  return 1 if uneven else shards


def _apart(y, sizes, shards):
  """The outputs of each of the maps that lie side by side."""
  y = y.reshape(*y.shape[:-1], shards, -1)
  ends, parts = 0, []
  for size in sizes:
    part = y[..., ends : ends + size // shards]
    parts.append(part.reshape(*y.shape[:-2], size))
    ends += size // shards
  return parts


def _heads(y, layer, turned, c, shards):
  """Queries `[T K Q H]`, keys and values `[T K H]` of the new tokens."""
  q_dim, kv_dim = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
  q, k, v = _apart(y, (q_dim, kv_dim, kv_dim), shards)
  q, k = normed_heads(q, k, layer, turned, c)
  s = len(y)
  q = q.reshape(s, c.num_kv_heads, -1, c.head_dim)
  return q, k[:, 0], v.reshape(s, c.num_kv_heads, c.head_dim)

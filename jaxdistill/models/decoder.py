"""The decoder that every family shares.

Pre-norm transformer with rotary positions, grouped queries and a gated MLP;
what families add to it is data in `DecoderConfig`. Layers are stacked and
scanned, so depth costs no compile time; while decoding they are unrolled, so
that a token never copies the cache.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped

from jaxdistill.dist import constrain
from jaxdistill.models.attention import attend, attend_rows
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.layers import (
  Resolved,
  Unrolled,
  embed,
  finish_block,
  project,
  rms_norm,
  unembed,
)
from jaxdistill.models.linear import Deltas, Linear, Weights
from jaxdistill.models.remat import REMAT
from jaxdistill.models.rope import turns
from jaxdistill.models.scoring import Hidden

LINEARS = ('q', 'k', 'v', 'o', 'gate', 'up', 'down')


class Cache(NamedTuple):
  """Keys and values, one per layer.

  Attributes:
    k: Per layer `[B K S H]` of prompts, or `[W U K T H]` of what comes after
      them: heads come before places, so that a step's products need no
      transposition.
    v: The same.
  """

  k: tuple[Array, ...]
  v: tuple[Array, ...]


class Prompts(NamedTuple):
  """Prompts that have been read, and what their samples need to know of them.

  Attributes:
    cache: Their keys and values.
    lengths: Tokens of each, `Int[Array, 'B']`.
    places: Position of each slot of the cache; negative where it is empty,
      `Int[Array, 'B S']`.
  """

  cache: Cache
  lengths: Array
  places: Array


class Decoder(nnx.Module):
  """A causal language model with role deltas.

  Args:
    config: Sizes.
    deltas: Which role and shared deltas it carries.
    rngs: Where initial values come from.
  """

  def __init__(
    self, config: DecoderConfig, deltas: Deltas | None = None, *, rngs: nnx.Rngs
  ):
    deltas = deltas or Deltas(per_role='shared')
    self.config, self.deltas = config, deltas
    c, stack = config, (config.num_layers,)
    q_dim, kv_dim = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    shapes = {
      'q': (c.embed_dim, q_dim, 'embed', 'heads'),
      'k': (c.embed_dim, kv_dim, 'embed', 'kv_heads'),
      'v': (c.embed_dim, kv_dim, 'embed', 'kv_heads'),
      'o': (q_dim, c.embed_dim, 'heads', 'embed'),
      'gate': (c.embed_dim, c.mlp_dim, 'embed', 'mlp'),
      'up': (c.embed_dim, c.mlp_dim, 'embed', 'mlp'),
      'down': (c.mlp_dim, c.embed_dim, 'mlp', 'embed'),
    }
    self.embed = nnx.Param(
      jax.random.normal(rngs.params(), (c.vocab_size, c.embed_dim))
      * c.embed_dim**-0.5,
      axes=('vocab', 'embed'),
    )
    for name, (i, o, *axes) in shapes.items():
      bias = name in c.biases
      linear = Linear(stack, (i, o), axes, deltas, bias=bias, rngs=rngs)
      setattr(self, name, linear)
    for name, size in self.norms.items():
      scale = jnp.full((*stack, size), 1 - c.norm_offset)
      setattr(self, name, nnx.Param(scale, axes=('layers', None)))
    self.norm = nnx.Param(
      jnp.full((c.embed_dim,), 1 - c.norm_offset), axes=(None,)
    )
    self.head = Linear(
      (),
      (c.embed_dim, c.vocab_size),
      ('embed', 'vocab'),
      deltas,
      is_head=True,
      tied=c.tie_embeddings,
      rngs=rngs,
    )

  @property
  def norms(self) -> dict[str, int]:
    """Norms of a layer and the sizes of their scales."""
    c = self.config
    names = {'attention_norm': c.embed_dim, 'mlp_norm': c.embed_dim}
    if c.post_norms:
      names |= {
        'post_attention_norm': c.embed_dim,
        'post_mlp_norm': c.embed_dim,
      }
    if c.qk_norm:
      names |= {'q_norm': c.head_dim, 'k_norm': c.head_dim}
    return names

  def role_index(self, role: str) -> int:
    """The index of a role's deltas; see `Deltas.index`."""
    return self.deltas.index(role)

  def resolve(self, role: Int[Array, ''] | int | None = 0) -> Resolved:
    """The weights of one role; `None` is the trunk without any delta."""
    offset = self.config.norm_offset
    layers = {name: getattr(self, name).weights(role) for name in LINEARS}
    for name in self.norms:
      layers[name] = getattr(self, name)[...].astype(jnp.float32) + offset
    tied = self.embed[...].T if self.config.tie_embeddings else None
    head = self.head.weights(role, tied)
    norm = self.norm[...].astype(jnp.float32) + offset
    return Resolved(self.embed[...], layers, norm, head)

  def unroll(self, weights: Resolved) -> Unrolled:
    """Each layer's weights by themselves in the compute dtype, to decode with.

    Norm scales stay float32, as they are used.
    """

    def cast(w: Weights) -> Weights:
      return jax.tree.map(lambda x: x.astype(self.config.dtype), w)

    layers = [
      {
        name: cast(w) if isinstance(w, Weights) else w
        for name, w in jax.tree.map(lambda x, i=i: x[i], weights.layers).items()
      }
      for i in range(self.config.num_layers)
    ]
    embed = weights.embed.astype(self.config.dtype)
    return Unrolled(embed, layers, weights.norm, cast(weights.head))

  def __call__(
    self,
    tokens: Int[Array, 'B T'],
    *,
    positions: Int[Array, 'B T'] | None = None,
    segments: Int[Array, 'B T'] | None = None,
    role: Int[Array, ''] | int | None = 0,
  ) -> Float[Array, 'B T V']:
    """Logits of the next token at every position, float32.

    Args:
      tokens: Sequences.
      positions: Place of each token in its sequence; default 0, 1, ...
      segments: Which sequence of its row each token is of (0 is padding);
        default one.
      role: Whose deltas are in force; None turns them off.
    """
    weights = self.resolve(role)
    if positions is None:
      positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    mask = jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool))[None]
    if segments is not None:
      mask = mask & (segments[:, :, None] == segments[:, None, :])
    hidden, _ = self._trunk(weights, tokens, positions, mask)
    return unembed(hidden, weights, self.config)

  def read(
    self,
    tokens: Int[Array, 'B T'],
    positions: Int[Array, 'B T'],
    until: Int[Array, 'B T'],
    sources: Int[Array, 'B R'],
    *,
    role: Int[Array, ''] | int | None = 0,
  ) -> Hidden:
    """Reads sequences up to the logits of the tokens that are asked for.

    A sequence is a forest in depth-first order: token i sees token j if j
    comes first and i is before `until[j]`. Several texts that begin alike share
    their beginning, which is computed once.

    Args:
      tokens: Sequences.
      positions: Place of each token in its branch.
      until: Where in the sequence what follows each token ends.
      sources: Places of the tokens that predict.
      role: Whose deltas are in force; None turns them off.
    """
    weights = self.resolve(role)
    places = jnp.arange(tokens.shape[1])
    mask = (places <= places[:, None]) & (places[:, None] < until[:, None, :])
    hidden, _ = self._trunk(weights, tokens, positions, mask)
    hidden = jnp.take_along_axis(hidden, sources[..., None], axis=1)
    return Hidden(hidden, weights, self.config)

  def logprobs(
    self,
    tokens: Int[Array, 'B T'],
    positions: Int[Array, 'B T'],
    until: Int[Array, 'B T'],
    sources: Int[Array, 'B R'],
    targets: Int[Array, 'B R'],
    *,
    role: Int[Array, ''] | int | None = 0,
    temperature: Float[Array, ''] | float = 1.0,
  ) -> Float[Array, 'B R']:
    """log p(target | the branch that ends at its source), float32.

    Args:
      tokens: Sequences, and so on: see `read`.
      positions: Place of each token in its branch.
      until: Where in the sequence what follows each token ends.
      sources: Places of the tokens that predict.
      targets: The tokens that are predicted.
      role: Whose deltas are in force; None turns them off.
      temperature: Divides the logits.
    """
    hidden = self.read(tokens, positions, until, sources, role=role)
    return hidden.logprobs(targets, temperature)

  def _trunk(self, weights, tokens, positions, mask, past=None):
    """Scans the layers over tokens that come after `past`.

    Args:
      weights: Of a role.
      tokens: `[B T]`.
      positions: `[B T]`, the past counted.
      mask: Which of its own tokens a token sees, `[B T T]`.
      past: Keys and values `[L 1 P K H]` that all tokens see, at positions
        0 to P - 1.

    Returns:
      Hidden states `[B T D]` and each layer's keys and values `[L B T K H]`.
    """
    c = self.config
    nothing = c.num_layers, 1, 0, c.num_kv_heads, c.head_dim
    past = past or (jnp.zeros(nothing, c.dtype),) * 2
    p = past[0].shape[2]
    mask = jnp.pad(mask, ((0, 0), (0, 0), (p, 0)), constant_values=True)
    seen = _after(jnp.arange(p)[None], positions)
    away = positions[:, :, None] - seen[:, None, :]
    masks = jnp.stack(
      [mask & (away < (kind.window or 2**30)) for kind in c.kinds]
    )
    turned = jnp.stack(
      [turns(kind.rope, c.head_dim, positions) for kind in c.kinds]
    )

    def block(x, scanned):
      layer, kind, (pk, pv) = scanned
      q, k, v = project(x, layer, turned[kind], c)
      attended = attend(q, _after(pk, k), _after(pv, v), masks[kind], c)
      x = finish_block(x, attended, layer, c)
      return constrain(x, 'batch', None, None), (k, v)

    block = REMAT[c.remat](block)
    kinds = jnp.array(c.kind_of)
    x = embed(tokens, weights, c)
    x, cache = jax.lax.scan(block, x, (weights.layers, kinds, past))
    return rms_norm(x, weights.norm, c.norm_eps), cache

  def prefill(
    self,
    weights: Resolved,
    prefix: Int[Array, 'P'],
    tokens: Int[Array, 'B S'],
    lengths: Int[Array, 'B'],
  ) -> tuple[Float[Array, 'B V'], Prompts]:
    """Reads prompts: what all of them begin with, once, then the rest of each.

    Args:
      weights: Of the role that answers.
      prefix: What all prompts begin with; may be empty.
      tokens: The rest of each, left-padded.
      lengths: Of these rests, at least 1.

    Returns:
      Logits of the token after each prompt, and what `decode` needs.
    """
    (b, s), p = tokens.shape, prefix.shape[0]
    past = None
    if p:
      mask = jnp.tril(jnp.ones((1, p, p), bool))
      _, past = self._trunk(weights, prefix[None], jnp.arange(p)[None], mask)
    slots = jnp.arange(s)[None] - (s - lengths[:, None])
    real = slots >= 0
    # Padding sees itself only, so that no row of the mask is empty.
    mask = jnp.tril(jnp.ones((s, s), bool))[None]
    mask = mask & (real[:, None, :] | jnp.eye(s, dtype=bool)[None])
    positions = p + jnp.maximum(slots, 0)
    hidden, cache = self._trunk(weights, tokens, positions, mask, past)
    if past:
      cache = jax.tree.map(jax.vmap(_after), past, cache)
    k, v = (tuple(jnp.swapaxes(x, 2, 3)) for x in cache)
    before = jnp.broadcast_to(jnp.arange(p), (b, p))
    places = jnp.concatenate([before, jnp.where(real, p + slots, -1)], 1)
    prompts = Prompts(Cache(k, v), p + lengths, places)
    return unembed(hidden[:, -1], weights, self.config), prompts

  def empty_cache(self, d: int, n: int, t: int) -> Cache:
    """Room for `t` tokens of `n` rows of each of `d` shards."""
    c = self.config
    shape = (d, n, c.num_kv_heads, t, c.head_dim)
    zeros = tuple(jnp.zeros(shape, c.dtype) for _ in range(c.num_layers))
    return Cache(zeros, zeros)

  def decode(
    self,
    weights: Unrolled,
    tokens: Int[Array, 'W U'],
    slots: Int[Array, 'W U'],
    prompts: Prompts,
    cache: Cache,
    t: Int[Array, ''],
    group: int,
  ) -> tuple[Float[Array, 'W U V'], Cache]:
    """One token for every row; rows of one prompt share its cache.

    Prompts and rows are dealt out over `W` shards, which know nothing of each
    other; each has as many prompts, and room for `group` rows of each.

    Args:
      weights: Of the role that answers.
      tokens: The tokens drawn last.
      slots: Where each row belongs among its shard's prompts: slot `g` of
        prompt `b` is `b * group + g`; beyond the last for rows not in use.
      prompts: What `prefill` gave.
      cache: The rows' own cache, filled up to `t`.
      t: How many tokens each row has, this one left out.
      group: Most rows of a prompt.
    """
    c = self.config
    x = embed(tokens, weights, c)
    d = tokens.shape[0]

    def deal(x):
      return x.reshape(d, -1, *x.shape[1:])

    lengths, places = deal(prompts.lengths), deal(prompts.places)
    now = lengths[..., None] + t
    mine = jnp.minimum(slots // group, lengths.shape[1] - 1)
    positions = jnp.take_along_axis(lengths, mine, 1) + t
    own = jnp.arange(cache.k[0].shape[3])
    masks, turned = [], []
    for kind in c.kinds:
      width = kind.window or 2**30
      seen = (places >= 0) & (now - places < width)
      masks.append((seen, (own <= t) & (t - own < width)))
      turned.append(turns(kind.rope, c.head_dim, positions))
    ks, vs = [], []
    for layer, kind, pk, pv, ck, cv in zip(
      weights.layers, c.kind_of, *prompts.cache, *cache, strict=True
    ):
      q, k, v = project(x, layer, turned[kind], c)
      ck = jax.lax.dynamic_update_slice_in_dim(ck, k[..., None, :], t, 3)
      cv = jax.lax.dynamic_update_slice_in_dim(cv, v[..., None, :], t, 3)
      attended = attend_rows(
        *(q, (deal(pk), deal(pv)), (ck, cv), slots, masks[kind], group, c)
      )
      x = finish_block(x, attended, layer, c)
      ks.append(ck)
      vs.append(cv)
    hidden = rms_norm(x, weights.norm, c.norm_eps)
    return unembed(hidden, weights, c), Cache(tuple(ks), tuple(vs))


def _after(
  prefix: Shaped[Array, '1 P *Z'], x: Shaped[Array, 'B T *Z']
) -> Shaped[Array, 'B P+T *Z']:
  """`x` behind the prefix `[1 P *Z]` that every row has."""
  prefix = jnp.broadcast_to(prefix, (len(x), *prefix.shape[1:]))
  return jnp.concatenate([prefix, x], axis=1)

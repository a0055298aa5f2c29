"""The decoder that every family shares.

Pre-norm transformer with rotary positions, grouped queries and a gated MLP.
Layers are stacked and scanned, so depth costs no compile time; while decoding
they are unrolled, so that a token never copies the cache.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxdistill.dist import batch_shards, constrain
from jaxdistill.models.linear import Deltas, Linear, Weights, apply

NEG = -1e30
_CHUNK_BYTES = 256 * 2**20  # of logits, on each shard of the batch


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """Sizes and constants of a decoder.

  Attributes:
    vocab_size: Symbols.
    embed_dim: Width of the residual stream.
    num_layers: Blocks.
    num_heads: Query heads.
    num_kv_heads: Key and value heads; divides `num_heads`.
    head_dim: Width of a head.
    mlp_dim: Hidden width of the gated MLP.
    rope_theta: Base of the rotary frequencies.
    norm_eps: Added to the mean square in RMSNorm.
    tie_embeddings: Whether the output projection is the embedding.
    dtype: Compute dtype, `float32` or `bfloat16`; parameters are float32.
    remat: Recompute each layer in the backward pass.
  """

  vocab_size: int
  embed_dim: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_dim: int
  rope_theta: float = 10_000.0
  norm_eps: float = 1e-6
  tie_embeddings: bool = True
  dtype: str = 'float32'
  remat: bool = False


class Resolved(NamedTuple):
  """All weights of one role, as the arithmetic reads them."""

  embed: Array
  layers: dict[str, Array | Weights]
  norm: Array
  head: Weights


class Unrolled(NamedTuple):
  """The same, with each layer by itself."""

  embed: Array
  layers: list[dict[str, Array | Weights]]
  norm: Array
  head: Weights


class Cache(NamedTuple):
  """Keys and values of a prompt or of the samples after it, one per layer.

  Attributes:
    k: Per layer `[B K S H]` (prompt) or `[B G K S H]` (samples): heads come
      before places, so that a step's products need no transposition.
    v: The same.
  """

  k: tuple[Array, ...]
  v: tuple[Array, ...]


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

    def linear(i, o, axes):
      return Linear(stack, (i, o), axes, deltas, rngs=rngs)

    self.embed = nnx.Param(
      jax.random.normal(rngs.params(), (c.vocab_size, c.embed_dim))
      * c.embed_dim**-0.5,
      axes=('vocab', 'embed'),
    )
    self.q = linear(c.embed_dim, q_dim, ('embed', 'heads'))
    self.k = linear(c.embed_dim, kv_dim, ('embed', 'kv_heads'))
    self.v = linear(c.embed_dim, kv_dim, ('embed', 'kv_heads'))
    self.o = linear(q_dim, c.embed_dim, ('heads', 'embed'))
    self.gate = linear(c.embed_dim, c.mlp_dim, ('embed', 'mlp'))
    self.up = linear(c.embed_dim, c.mlp_dim, ('embed', 'mlp'))
    self.down = linear(c.mlp_dim, c.embed_dim, ('mlp', 'embed'))

    def scale(*lead):
      names = ('layers',) * len(lead) + (None,)
      return nnx.Param(jnp.ones((*lead, c.embed_dim)), axes=names)

    self.attention_norm, self.mlp_norm = scale(*stack), scale(*stack)
    self.norm = scale()
    self.head = Linear(
      (),
      (c.embed_dim, c.vocab_size),
      ('embed', 'vocab'),
      deltas,
      is_head=True,
      tied=c.tie_embeddings,
      rngs=rngs,
    )

  def role_index(self, role: str) -> int:
    """The index of a role's deltas; roles without any share index 0."""
    return self.deltas.roles.index(role) if role in self.deltas.roles else 0

  def resolve(self, role: Int[Array, ''] | int | None = 0) -> Resolved:
    """The weights of one role; `None` is the trunk without any delta."""
    linears = ('q', 'k', 'v', 'o', 'gate', 'up', 'down')
    layers = {name: getattr(self, name).weights(role) for name in linears}
    layers['attention_norm'] = self.attention_norm[...]
    layers['mlp_norm'] = self.mlp_norm[...]
    tied = self.embed[...].T if self.config.tie_embeddings else None
    head = self.head.weights(role, tied)
    return Resolved(self.embed[...], layers, self.norm[...], head)

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
    """Logits of the next token at every position, float32."""
    weights = self.resolve(role)
    hidden = self._hidden(weights, tokens, positions, segments)
    return unembed(hidden, weights)

  def logprobs(
    self,
    tokens: Int[Array, 'B T'],
    positions: Int[Array, 'B T'] | None = None,
    segments: Int[Array, 'B T'] | None = None,
    *,
    role: Int[Array, ''] | int | None = 0,
    temperature: Float[Array, ''] | float = 1.0,
  ) -> Float[Array, 'B T']:
    """log p(token | those before it in its segment), float32.

    The vocabulary is gone through in chunks of positions under remat, so no
    array of `[B T V]` exists. Where a segment begins the value is 0: nothing
    predicts its first token.

    Args:
      tokens: Packed sequences.
      positions: Place of each token in its segment; default 0, 1, ...
      segments: Which sequence each token is of (0 is padding); default one.
      role: Whose deltas are in force.
      temperature: Divides the logits.
    """
    if positions is None:
      positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    weights = self.resolve(role)
    hidden = self._hidden(weights, tokens, positions, segments)

    def score(pair):
      h, target = pair
      logits = unembed(h, weights) / temperature
      picked = jnp.take_along_axis(logits, target[..., None], -1)[..., 0]
      return picked - jax.nn.logsumexp(logits, -1)

    b, t = tokens.shape
    here = -(-b // batch_shards(jax.sharding.get_abstract_mesh()))
    wanted = max(1, _CHUNK_BYTES // (4 * here * self.config.vocab_size))
    chunk = next(c for c in range(min(t, wanted), 0, -1) if t % c == 0)
    targets = jnp.roll(tokens, -1, axis=1)
    split = (b, t // chunk, chunk)
    chunks = (
      hidden.reshape(*split, -1).swapaxes(0, 1),
      targets.reshape(split).swapaxes(0, 1),
    )
    logp = jax.lax.map(jax.checkpoint(score), chunks)
    logp = jnp.roll(logp.swapaxes(0, 1).reshape(b, t), 1, axis=1)
    return jnp.where(positions > 0, logp, 0.0)

  def _hidden(self, weights, tokens, positions, segments):
    """Final hidden states `[B T D]`."""
    if positions is None:
      positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    mask = jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool))[None]
    if segments is not None:
      mask = mask & (segments[:, :, None] == segments[:, None, :])
    x = embed(tokens, weights, self.config)
    hidden, _ = self._trunk(weights, x, positions, mask)
    return hidden

  def _trunk(self, weights, x, positions, mask):
    """Scans the layers; returns hidden states and each layer's keys, values."""
    config = self.config

    def block(x, layer):
      q, k, v = project(x, layer, positions, config)
      attended = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None])
      x = finish_block(x, attended, layer, config)
      return constrain(x, 'batch', None, None), (k, v)

    block = jax.checkpoint(block) if config.remat else block
    x, (k, v) = jax.lax.scan(block, x, weights.layers)
    return rms_norm(x, weights.norm, config.norm_eps), (k, v)

  def prefill(
    self,
    weights: Resolved,
    tokens: Int[Array, 'B S'],
    lengths: Int[Array, 'B'],
  ) -> tuple[Float[Array, 'B V'], Cache, Bool[Array, 'B S']]:
    """Reads left-padded prompts once.

    Positions count from each prompt's own first token, padding excluded.

    Returns:
      Logits of the token after each prompt, the prompts' cache, and which of
      its slots hold a token.
    """
    s = tokens.shape[1]
    slots = jnp.arange(s)[None]
    real = slots >= s - lengths[:, None]
    positions = jnp.maximum(slots - (s - lengths[:, None]), 0)
    # Padding attends to itself only, so that no row of the mask is empty.
    mask = jnp.tril(jnp.ones((s, s), bool))[None]
    mask = mask & (real[:, None, :] | jnp.eye(s, dtype=bool)[None])
    x = embed(tokens, weights, self.config)
    hidden, (k, v) = self._trunk(weights, x, positions, mask)
    k, v = (tuple(jnp.swapaxes(x, 2, 3)) for x in (k, v))
    return unembed(hidden[:, -1], weights), Cache(k, v), real

  def empty_cache(self, b: int, g: int, t: int) -> Cache:
    """Room for `t` tokens of `g` samples of each of `b` prompts."""
    c = self.config
    shape = (b, g, c.num_kv_heads, t, c.head_dim)
    zeros = tuple(jnp.zeros(shape, c.dtype) for _ in range(c.num_layers))
    return Cache(zeros, zeros)

  def decode(
    self,
    weights: Unrolled,
    tokens: Int[Array, 'B G'],
    lengths: Int[Array, 'B'],
    prompt: Cache,
    prompt_mask: Bool[Array, 'B S'],
    cache: Cache,
    t: Int[Array, ''],
  ) -> tuple[Float[Array, 'B G V'], Cache]:
    """One token for all samples; the prompt's cache is shared by its samples.

    Args:
      weights: Of the role that answers.
      tokens: The tokens drawn last.
      lengths: Of the prompts.
      prompt: The prompts' cache.
      prompt_mask: Which of its slots hold a token.
      cache: The samples' own cache, filled up to `t`.
      t: How many tokens each sample has, this one left out.
    """
    c = self.config
    x = embed(tokens, weights, c)
    positions = jnp.broadcast_to((lengths + t)[:, None], tokens.shape)
    own_mask = jnp.arange(cache.k[0].shape[3]) <= t
    ks, vs = [], []
    for layer, pk, pv, ck, cv in zip(
      weights.layers, prompt.k, prompt.v, cache.k, cache.v, strict=True
    ):
      q, k, v = project(x, layer, positions, c)
      ck = jax.lax.dynamic_update_slice_in_dim(ck, k[..., None, :], t, 3)
      cv = jax.lax.dynamic_update_slice_in_dim(cv, v[..., None, :], t, 3)
      attended = attend_shared(q, pk, pv, prompt_mask, ck, cv, own_mask)
      x = finish_block(x, attended, layer, c)
      ks.append(ck)
      vs.append(cv)
    hidden = rms_norm(x, weights.norm, c.norm_eps)
    return unembed(hidden, weights), Cache(tuple(ks), tuple(vs))


def embed(
  tokens: Int[Array, 'B T'], weights: Resolved | Unrolled, config: DecoderConfig
) -> Float[Array, 'B T D']:
  """Embeddings, scaled to unit variance at initialisation."""
  x = weights.embed.astype(config.dtype)[tokens] * config.embed_dim**0.5
  return constrain(x, 'batch', None, None)


def unembed(
  hidden: Float[Array, '*N D'], weights: Resolved | Unrolled
) -> Float[Array, '*N V']:
  """Logits, float32."""
  return apply(hidden, weights.head, jnp.float32)


def rms_norm(
  x: Float[Array, '*N D'], scale: Float[Array, 'D'], eps: float
) -> Float[Array, '*N D']:
  """Root-mean-square normalisation, in float32."""
  y = x.astype(jnp.float32)
  y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + eps)
  return (y * scale).astype(x.dtype)


def rotate(
  x: Float[Array, 'B T N H'], positions: Int[Array, 'B T'], theta: float
) -> Float[Array, 'B T N H']:
  """Rotary embedding (arXiv 2104.09864), halves rotated against each other."""
  half = x.shape[-1] // 2
  frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle = positions[..., None, None].astype(jnp.float32) * frequency
  sin, cos = jnp.sin(angle), jnp.cos(angle)
  x1, x2 = jnp.split(x.astype(jnp.float32), 2, -1)
  turned = jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1)
  return turned.astype(x.dtype)


def project(
  x: Float[Array, 'B T D'],
  layer: dict,
  positions: Int[Array, 'B T'],
  config: DecoderConfig,
) -> tuple[
  Float[Array, 'B T N H'], Float[Array, 'B T K H'], Float[Array, 'B T K H']
]:
  """Rotated queries and keys, and values."""
  c, h = config, rms_norm(x, layer['attention_norm'], config.norm_eps)
  heads = (*x.shape[:-1], -1, c.head_dim)
  q = rotate(apply(h, layer['q']).reshape(heads), positions, c.rope_theta)
  k = rotate(apply(h, layer['k']).reshape(heads), positions, c.rope_theta)
  return q, k, apply(h, layer['v']).reshape(heads)


def finish_block(
  x: Float[Array, 'B T D'],
  attended: Float[Array, 'B T N H'],
  layer: dict,
  config: DecoderConfig,
) -> Float[Array, 'B T D']:
  """Output projection and gated MLP, each added to the residual stream."""
  x = x + apply(attended.reshape(*x.shape[:-1], -1), layer['o'])
  h = rms_norm(x, layer['mlp_norm'], config.norm_eps)
  gated = jax.nn.silu(apply(h, layer['gate'])) * apply(h, layer['up'])
  return x + apply(gated, layer['down'])


def attend_shared(
  q: Float[Array, 'B G N H'],
  prompt_k: Float[Array, 'B K S H'],
  prompt_v: Float[Array, 'B K S H'],
  prompt_mask: Bool[Array, 'B S'],
  own_k: Float[Array, 'B G K T H'],
  own_v: Float[Array, 'B G K T H'],
  own_mask: Bool[Array, 'T'],
) -> Float[Array, 'B G N H']:
  """Attention of one new token per sample, softmax in float32.

  The prompt's keys are read once for all `G` samples of it: they are never
  repeated.
  """
  b, g, n, h = q.shape
  kv = prompt_k.shape[1]
  q = q.reshape(b, g, kv, n // kv, h)
  exact = {'preferred_element_type': jnp.float32}
  there = jnp.einsum('bgknh,bksh->bgkns', q, prompt_k, **exact) * h**-0.5
  own = jnp.einsum('bgknh,bgkth->bgknt', q, own_k, **exact) * h**-0.5
  there = jnp.where(prompt_mask[:, None, None, None, :], there, NEG)
  own = jnp.where(own_mask, own, NEG)
  p = jax.nn.softmax(jnp.concatenate([there, own], -1), -1).astype(q.dtype)
  p_there, p_own = jnp.split(p, [there.shape[-1]], -1)
  out = jnp.einsum('bgkns,bksh->bgknh', p_there, prompt_v, **exact)
  out = out + jnp.einsum('bgknt,bgkth->bgknh', p_own, own_v, **exact)
  return out.astype(q.dtype).reshape(b, g, n, h)

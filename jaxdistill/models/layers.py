"""What a block does besides attention, and both ends of the decoder."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdistill.dist import READ, constrain, parts, split_along
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.linear import (
  Weights,
  apply,
  column_parallel,
  gathered,
  row_parallel,
)
from jaxdistill.models.rope import rotate
from jaxdistill.models.softmax import soft_cap

_ACTIVATIONS = {'silu': jax.nn.silu, 'gelu': jax.nn.gelu}  # gelu: by tanh

# Logical axes of the inputs and the outputs of each linear map.
MAPS = {
  'q': ('embed', 'heads'),
  'k': ('embed', 'kv_heads'),
  'v': ('embed', 'kv_heads'),
  'o': ('heads', 'embed'),
  'gate': ('embed', 'mlp'),
  'up': ('embed', 'mlp'),
  'down': ('mlp', 'embed'),
  'head': ('embed', 'vocab'),
}


class Resolved(NamedTuple):
  """All weights of one role, as the arithmetic reads them."""

  embed: Array
  layers: dict[str, Array | Weights]
  norm: Array
  head: Weights


def embed(
  tokens: Int[Array, 'B T'],
  table: Float[Array, 'V D'],
  config: DecoderConfig,
  axes: tuple[str, str | None] = READ,
) -> Float[Array, 'B T D']:
  """Embeddings, scaled as the config says, in the compute dtype."""
  table = table.astype(config.dtype)
  split = axes == READ and parts('tokens', tokens.shape[1]) > 1
  if split:  # or every device is given what all tokens are looked up as
    table = constrain(table, 'vocab', 'looked_up')
  x = table[tokens]
  if split:
    x = constrain(x, 'replicas', 'tokens', 'looked_up')
  x = x * jnp.asarray(config.embed_scale, config.dtype)
  return constrain(x, *axes, None)


def unembed(
  hidden: Float[Array, '*Z D'],
  head: Weights,
  config: DecoderConfig,
) -> Float[Array, '*Z V']:
  """Logits, float32."""
  logits = apply(hidden, head, jnp.float32)
  return soft_cap(logits, config.logit_cap)


def rms_norm(
  x: Float[Array, '*Z D'], scale: Float[Array, 'D'], eps: float
) -> Float[Array, '*Z D']:
  """Root-mean-square normalisation, in float32."""
  y = x.astype(jnp.float32)
  y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + eps)
  return (y * scale).astype(x.dtype)


def whole(weights: Weights, name: str, dtype: str) -> Weights:
  """A layer's map of that name, gathered from the shards that are trained.

  Once for all that reads it, forwards, and once backwards.
  """
  cast = jax.tree.map(lambda x: x.astype(dtype), weights._replace(bias=None))
  return gathered(cast, *MAPS[name])._replace(bias=weights.bias)


def project(
  x: Float[Array, 'B T D'],
  layer: dict,
  turned: Float[Array, 'B T 2 F'],
  config: DecoderConfig,
) -> tuple[
  Float[Array, 'B T N H'], Float[Array, 'B T K H'], Float[Array, 'B T K H']
]:
  """Queries, scaled, and keys, both rotated; and values."""
  c, h = config, rms_norm(x, layer['attention_norm'], config.norm_eps)
  q, k, v = column_parallel(h, tuple(layer[name] for name in 'qkv'))
  q, k = normed_heads(q, k, layer, turned, c)
  return q, k, v.reshape(k.shape)


def repeated(
  x: Float[Array, 'B T K H'], copies: int
) -> Float[Array, 'B T M H']:
  """Each head so many times, side by side; see `DecoderConfig.over`."""
  if copies == 1:
    return x
  return split_along(jnp.repeat(x, copies, 2), 'kv_heads', 2)


def normed_heads(
  q: Float[Array, 'B T ...'],
  k: Float[Array, 'B T ...'],
  layer: dict,
  turned: Float[Array, 'B T 2 F'],
  config: DecoderConfig,
) -> tuple[Float[Array, 'B T N H'], Float[Array, 'B T K H']]:
  """Queries, scaled, and keys, both normalised by head and rotated."""
  c, heads = config, (*q.shape[:2], -1, config.head_dim)
  q, k = q.reshape(heads), k.reshape(heads)
  if c.qk_norm:
    q = rms_norm(q, layer['q_norm'], c.norm_eps)
    k = rms_norm(k, layer['k_norm'], c.norm_eps)
  scale = c.head_dim**-0.5 if c.query_scale is None else c.query_scale
  return rotate(q, turned) * jnp.asarray(scale, q.dtype), rotate(k, turned)


def gate_and_up(
  h: Float[Array, 'B T D'], layer: dict
) -> tuple[Float[Array, 'B T F'], Float[Array, 'B T F']]:
  """Both inner projections of a gated MLP, by themselves."""
  return column_parallel(h, (layer['gate'], layer['up']))


def finish_block(
  x: Float[Array, 'B T D'],
  attended: Float[Array, 'B T N H'],
  layer: dict,
  config: DecoderConfig,
  inner: Callable = gate_and_up,
) -> Float[Array, 'B T D']:
  """Output projection and gated MLP, each added to the residual stream.

  Args:
    x: The stream.
    attended: What attention gave.
    layer: Weights.
    config: Of the decoder.
    inner: The MLP's gate, before its activation, and what it is multiplied by.
  """
  c = config

  def add(x, y, post_norm):
    if c.post_norms:
      y = rms_norm(y, layer[post_norm], c.norm_eps)
    return x + y

  y = row_parallel(attended.reshape(*x.shape[:-1], -1), layer['o'])
  x = add(x, y, 'post_attention_norm')
  h = rms_norm(x, layer['mlp_norm'], c.norm_eps)
  gate, up = inner(h, layer)
  y = row_parallel(_ACTIVATIONS[c.activation](gate) * up, layer['down'])
  return add(x, y, 'post_mlp_norm')

"""An encoder of BERT's shape that grades what it reads.

(arXiv 1810.04805.) Each block adds attention over the whole text, then an MLP,
to the stream and normalises the sum; places are learned. What is read out is
one number at the first token of a text, `[CLS]`, by way of a pooler. It is
asked as a `Decoder` is: what predicts a token of a text is the text's first.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxdistill.dist import READ, constrain
from jaxdistill.models.attention import attend
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.decoder import Decoder
from jaxdistill.models.linear import Deltas, Linear, apply
from jaxdistill.models.remat import REMAT
from jaxdistill.models.scoring import Hidden
from jaxdistill.models.spans import both_ways, spans_after
from jaxdistill.models.token_shards import picked

STACKED = ('q', 'k', 'v', 'o', 'up', 'down')  # linear maps of a layer
NORMS = ('attention_norm', 'mlp_norm')  # each after what it is called by


@dataclasses.dataclass(frozen=True)
class EncoderConfig(DecoderConfig):
  """Sizes of an encoder, beside those that it shares with decoders.

  Attributes:
    positions: Places that there are.
    types: Texts that are told apart in a row.
    sep_id: The mark behind each text of a row.
  """

  embed_scale: float = 1.0
  tie_embeddings: bool = False
  causal: bool = False
  positions: int = 512
  types: int = 2
  sep_id: int = 0


class Encoder(nnx.Module):
  """Reads texts, or pairs of them, and gives each a grade.

  Args:
    config: Sizes.
    deltas: Which role and shared deltas it carries.
    rngs: Where initial values come from.
  """

  def __init__(
    self, config: EncoderConfig, deltas: Deltas | None = None, *, rngs: nnx.Rngs
  ):
    deltas = deltas or Deltas(per_role='shared')
    self.config, self.deltas = config, deltas
    c, d = config, config.embed_dim

    def table(rows, name):
      value = 0.02 * jax.random.normal(rngs.params(), (rows, d))
      return nnx.Param(value, axes=(name, 'embed'))

    def linear(stack, i, o, axes, **more):
      return Linear(stack, (i, o), axes, deltas, bias=True, rngs=rngs, **more)

    def norm(*stack):
      names = ('layers',) * len(stack)
      return nnx.Dict(
        scale=nnx.Param(jnp.ones((*stack, d)), axes=(*names, None)),
        bias=nnx.Param(jnp.zeros((*stack, d)), axes=(*names, None)),
      )

    self.embed = table(c.vocab_size, 'vocab')
    self.places = table(c.positions, None)
    self.types = table(c.types, None)
    self.embed_norm = norm()
    for name in STACKED[:4]:
      axes = ('heads', 'embed') if name == 'o' else ('embed', 'heads')
      setattr(self, name, linear((c.num_layers,), d, d, axes))
    self.up = linear((c.num_layers,), d, c.mlp_dim, ('embed', 'mlp'))
    self.down = linear((c.num_layers,), c.mlp_dim, d, ('mlp', 'embed'))
    for name in NORMS:
      setattr(self, name, norm(c.num_layers))
    self.pool = linear((), d, d, ('embed', 'heads'))
    self.head = linear((), d, c.outputs, ('embed', 'vocab'), is_head=True)

  def role_index(self, role: str) -> int:
    """The index of a role's deltas; see `Deltas.index`."""
    return self.deltas.index(role)

  def read(
    self,
    tokens: Int[Array, 'B T'],
    positions: Int[Array, 'B T'],
    until: Int[Array, 'B T'],
    sources: Int[Array, 'B R'],
    *,
    role: Int[Array, ''] | int | None = 0,
  ) -> Hidden:
    """Reads rows up to their grades; see `Decoder.read`.

    Args:
      tokens: Sequences of rows side by side.
      positions: Place of each token in its row.
      until: Where in the sequence its row ends; 0 is padding.
      sources: Places of tokens; what is read out is at the first of its row.
      role: Whose deltas are in force; None turns them off.
    """
    states = self.states(tokens, positions, until, role=role)
    first = sources - jnp.take_along_axis(positions, sources, 1)
    pooled = picked(states, first)
    pooled = jnp.tanh(apply(pooled, self.pool.weights(role)))
    return Hidden(pooled, self.head.weights(role), self.config)

  def states(
    self,
    tokens: Int[Array, 'B T'],
    positions: Int[Array, 'B T'],
    until: Int[Array, 'B T'],
    *,
    role: Int[Array, ''] | int | None = 0,
  ) -> Float[Array, 'B T D']:
    """Hidden states behind the last block; arguments as of `read`."""
    c = self.config
    spans = both_ways(spans_after(0, until, positions))
    layers = {name: getattr(self, name).weights(role) for name in STACKED}
    norms = {name: _values(getattr(self, name)) for name in NORMS}

    def heads(x):
      return x.reshape(*x.shape[:2], c.num_heads, c.head_dim)

    def block(x, layer):
      w, norm = layer
      q, k, v = (heads(apply(x, w[name])) for name in 'qkv')
      q = q * jnp.asarray(c.head_dim**-0.5, q.dtype)
      y = attend(q, k, v, spans, c).reshape(x.shape)
      x = layer_norm(x + apply(y, w['o']), norm['attention_norm'], c.norm_eps)
      y = apply(jax.nn.gelu(apply(x, w['up']), approximate=False), w['down'])
      x = layer_norm(x + y, norm['mlp_norm'], c.norm_eps)
      return constrain(x, *READ, None), None

    types = types_of(tokens == c.sep_id, positions, c.types)
    x = self.embed[...][tokens] + self.places[...][positions]
    x = layer_norm(
      (x + self.types[...][types]).astype(c.dtype),
      *(_values(self.embed_norm), c.norm_eps),
    )
    x = constrain(x, *READ, None)
    return jax.lax.scan(REMAT[c.remat](block), x, (layers, norms))[0]


def _values(norm: Any) -> dict[str, Array]:
  return {name: norm[name][...] for name in ('scale', 'bias')}


def layer_norm(
  x: Float[Array, '*Z D'], norm: dict[str, Array], eps: float
) -> Float[Array, '*Z D']:
  """Layer normalisation, in float32."""
  y = x.astype(jnp.float32)
  y = y - y.mean(-1, keepdims=True)
  y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + eps)
  return (y * norm['scale'] + norm['bias']).astype(x.dtype)


def types_of(
  ends: Array, positions: Int[Array, 'B T'], types: int
) -> Int[Array, 'B T']:
  """Which text of its row each token is of: how many marks come before it.

  Args:
    ends: Whether a token is the mark behind a text, `[B T]`.
    positions: Place of each token in its row.
    types: How many are told apart; the rest is of the last.
  """
  ends = ends.astype(jnp.int32)
  before = jnp.cumsum(ends, 1) - ends
  first = jnp.arange(ends.shape[1]) - positions
  inside = before - jnp.take_along_axis(before, first, 1)
  return jnp.minimum(inside, types - 1)


def make(
  config: DecoderConfig, deltas: Deltas | None = None, *, rngs: nnx.Rngs
) -> Decoder | Encoder:
  """The model that a config is of."""
  if isinstance(config, EncoderConfig):
    return Encoder(config, deltas, rngs=rngs)
  return Decoder(config, deltas, rngs=rngs)

"""The decoder that every family shares.

Pre-norm transformer with rotary positions, grouped queries and a gated MLP;
what families add to it is data in `DecoderConfig`. Layers are stacked and
scanned, so depth costs no compile time; see `decode` for how tokens are drawn.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped

from jaxdistill.dist import DRAWN, READ, constrain, parts
from jaxdistill.models.attention import attend
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.layers import (
  MAPS,
  Resolved,
  embed,
  finish_block,
  project,
  repeated,
  rms_norm,
  unembed,
  whole,
)
from jaxdistill.models.linear import Deltas, Linear
from jaxdistill.models.paged import Pages
from jaxdistill.models.remat import REMAT
from jaxdistill.models.rope import turns
from jaxdistill.models.scoring import Hidden
from jaxdistill.models.spans import (
  EVERYTHING,
  both_ways,
  spans_after,
  until_of,
)
from jaxdistill.models.token_shards import evenly, picked

LINEARS = ('q', 'k', 'v', 'o', 'gate', 'up', 'down')


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
      'q': (c.embed_dim, q_dim),
      'k': (c.embed_dim, kv_dim),
      'v': (c.embed_dim, kv_dim),
      'o': (q_dim, c.embed_dim),
      'gate': (c.embed_dim, c.mlp_dim),
      'up': (c.embed_dim, c.mlp_dim),
      'down': (c.mlp_dim, c.embed_dim),
    }
    self.embed = nnx.Param(
      jax.random.normal(rngs.params(), (c.vocab_size, c.embed_dim))
      * c.embed_dim**-0.5,
      axes=('vocab', 'embed'),
    )
    for name, shape in shapes.items():
      bias = name in c.biases
      linear = Linear(stack, shape, MAPS[name], deltas, bias=bias, rngs=rngs)
      setattr(self, name, linear)
    for name, size in self.norms.items():
      scale = jnp.full((*stack, size), 1 - c.norm_offset)
      setattr(self, name, nnx.Param(scale, axes=('layers', None)))
    self.norm = nnx.Param(
      jnp.full((c.embed_dim,), 1 - c.norm_offset), axes=(None,)
    )
    self.head = Linear(
      (),
      (c.embed_dim, c.outputs),
      MAPS['head'],
      deltas,
      is_head=True,
      tied=c.tied,
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
    tied = self.embed[...].T if self.config.tied else None
    head = self.head.weights(role, tied)
    norm = self.norm[...].astype(jnp.float32) + offset
    return Resolved(self.embed[...], layers, norm, head)

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
        those of one are adjacent; default one.
      role: Whose deltas are in force; None turns them off.
    """
    weights = self.resolve(role)
    if positions is None:
      positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    until = jnp.full(tokens.shape, tokens.shape[1])
    if segments is not None:
      until = until_of(segments)
    hidden, _ = self._trunk(weights, tokens, positions, until)
    return unembed(hidden, weights.head, self.config)

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
    their beginning, which is computed once. (One that is not causal reads texts
    side by side: their tokens see each other, whichever comes first.)

    Args:
      tokens: Sequences.
      positions: Place of each token in its branch.
      until: Where in the sequence what follows each token ends.
      sources: Places of the tokens that predict.
      role: Whose deltas are in force; None turns them off.
    """
    weights, order = self.resolve(role), evenly(tokens.shape[1])
    read = tokens, positions, until
    if order is not None:
      read = (x[:, order] for x in read)
      sources = jnp.asarray(np.argsort(order), jnp.int32)[sources]
    hidden, _ = self._trunk(weights, *read, rows=order)
    return Hidden(picked(hidden, sources), weights.head, self.config)

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

  def _trunk(
    self,
    weights,
    tokens,
    positions,
    until,
    past=None,
    *,
    rows=None,
    axes=READ,
  ):
    """Scans the layers over tokens that come after `past`.

    Args:
      weights: Of a role.
      tokens: `[B T]`.
      positions: `[B T]`, the past counted.
      until: Which of its own tokens no more sees each token, `[B T]`.
      past: Keys and values `[L 1 P K H]` that all tokens see, at positions
        0 to P - 1.
      rows: Place of each token in its sequence, `[T]`; None: as they stand.
      axes: Logical, of the tokens.

    Returns:
      Hidden states `[B T D]` and each layer's keys and values `[L B T K H]`.
    """
    devices = parts('heads', self.config.num_heads)
    c, copies = self.config.over(devices), self.config.copies(devices)
    nothing = c.num_layers, 1, 0, c.num_kv_heads, c.head_dim
    past = past or (jnp.zeros(nothing, c.dtype),) * 2
    tokens, positions = (constrain(x, *axes) for x in (tokens, positions))
    spans = spans_after(past[0].shape[2], until, positions)
    if rows is not None:
      rows = jnp.broadcast_to(rows, tokens.shape)
      spans = spans._replace(since=rows, rows=rows)
    spans = spans if c.causal else both_ways(spans)
    windows = jnp.array([kind.window or EVERYTHING for kind in c.kinds])
    turned = jnp.stack(
      [turns(kind.rope, c.head_dim, positions) for kind in c.kinds]
    )

    def block(x, scanned):
      layer, kind, (pk, pv) = scanned
      layer = layer | {n: whole(layer[n], n, c.dtype) for n in LINEARS}
      q, *kv = project(x, layer, turned[kind], c)
      k, v = (repeated(x, copies) for x in kv)
      seen = spans._replace(window=windows[kind])
      attended = attend(q, _after(pk, k), _after(pv, v), seen, c, axes)
      x = finish_block(x, attended, layer, c)
      return constrain(x, *axes, None), (k, v)

    block = REMAT[c.remat](block)
    kinds = jnp.array(c.kind_of)
    x = embed(tokens, weights.embed, c, axes)
    x, cache = jax.lax.scan(block, x, (weights.layers, kinds, past))
    return rms_norm(x, weights.norm, c.norm_eps), cache

  def prefill(
    self,
    weights: Resolved,
    tokens: Int[Array, 'B T'],
    prefix: Pages | None,
    size: int,
  ) -> Pages:
    """Keys and values of prompts, in pages.

    Args:
      weights: Of the role that answers.
      tokens: Of each prompt; what is behind its end is not seen by what is
        before it.
      prefix: One page that all of them go on from; None where there is none.
      size: Tokens in a page; divides `T`.

    Returns:
      `B * T / size` pages, those of one prompt side by side.
    """
    (b, s), past, before = tokens.shape, None, 0
    if prefix:
      k = jnp.stack(prefix.k).transpose(0, 1, 4, 2, 3)
      past, before = (k, jnp.stack(prefix.v).swapaxes(2, 3)), prefix.size
    until = jnp.full((b, s), s)
    positions = jnp.broadcast_to(before + jnp.arange(s), (b, s))
    _, (k, v) = self._trunk(weights, tokens, positions, until, past, axes=DRAWN)

    def paged(x, *order):
      x = x.reshape(-1, size, *x.shape[2:]).transpose(0, *order)
      return constrain(x, 'rows', 'kv_heads', None, None)

    return Pages(
      tuple(paged(x, 2, 3, 1) for x in k), tuple(paged(x, 2, 1, 3) for x in v)
    )


def _after(
  prefix: Shaped[Array, '1 P *Z'], x: Shaped[Array, 'B T *Z']
) -> Shaped[Array, 'B P+T *Z']:
  """`x` behind the prefix `[1 P *Z]` that every row has."""
  prefix = jnp.broadcast_to(prefix, (len(x), *prefix.shape[1:]))
  return jnp.concatenate([prefix, x], axis=1)

"""Functions of logits that never exist all at once."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from jaxdistill.dist import READ, constrain, parts
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.layers import unembed
from jaxdistill.models.linear import Weights

_CHUNK_BYTES = 256 * 2**20  # of logits, on each shard of the batch


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hidden:
  """What predicts the tokens that are asked for, short of their logits.

  Attributes:
    states: Normalised hidden states.
    head: What makes logits of them.
    config: Of the decoder; static.
  """

  states: Float[Array, 'B R D']
  head: Weights
  config: DecoderConfig = dataclasses.field(metadata={'static': True})

  def logits(self, states: Float[Array, 'B C D']) -> Float[Array, 'B C V']:
    return unembed(states, self.head, self.config)

  def over(
    self,
    fn: Callable[..., Any],
    *others: 'Hidden',
    arrays: Sequence[Shaped[Array, 'B R *Z']] = (),
  ) -> Any:
    """Any function of logits, a chunk of the tokens at a time, under remat.

    No array of `[B, R, V]` is made, forwards or backwards, unless it is no
    larger than a chunk: then nothing is computed again. The shards of a head
    are gathered once for all chunks, and so is its gradient summed over them.

    Args:
      fn: `(logits, *others_logits, *arrays) -> values`: [B, C, V] and [B, C,
        ...] to any tree of [B, C, ...].
      *others: Of the same tokens, by other decoders or after other prompts.
      arrays: What else `fn` reads.
    """
    all_of = (self, *others)
    b, r = self.states.shape[:2]
    w, n = parts('batch', b), parts('tokens', r)
    size = sum(h.config.outputs // h._vocab_parts for h in all_of)
    wanted = max(1, _CHUNK_BYTES // (4 * size * b // w))
    # Of the tokens each device has a part of every chunk.
    chunk = next(
      c for c in range(min(r // n, wanted), 0, -1) if r // n % c == 0
    )
    turns = r // n // chunk

    if turns == 1:
      return fn(*[h.logits(h.states) for h in all_of], *arrays)

    def split(x):
      x = jnp.moveaxis(x.reshape(b, n, turns, chunk, *x.shape[2:]), 2, 0)
      x = x.reshape(turns, b, n * chunk, *x.shape[4:])
      return constrain(x, None, *READ, *[None] * (x.ndim - 3)) if n > 1 else x

    def joined(x):
      x = x.reshape(turns, b, n, chunk, *x.shape[3:])
      return jnp.moveaxis(x, 0, 2).reshape(b, r, *x.shape[4:])

    spread = [h._spread(w, n) for h in all_of]

    def of_chunk(chunks):
      states, arrays = chunks
      logits = [
        h._by_shard(s, *heads)
        for h, s, heads in zip(all_of, states, spread, strict=True)
      ]
      return fn(*logits, *arrays)

    chunks = jax.tree.map(split, ([h.states for h in all_of], list(arrays)))
    return jax.tree.map(joined, jax.lax.map(jax.checkpoint(of_chunk), chunks))

  @property
  def _vocab_parts(self) -> int:
    return parts('vocab', self.config.outputs)

  def _spread(self, w: int, n: int) -> tuple[Weights, Weights]:
    """The head once for each shard of batch and tokens, `[W N ...]`.

    Returns:
      As it is kept, which only takes the gradient; and in the compute dtype,
      which is what is gathered.
    """

    head = self.head
    delta: Any = head.delta and ((None, None), (None, 'vocab'))
    bias: Any = None if head.bias is None else ('vocab',)
    names = Weights((None, 'vocab'), delta, bias)

    def to_all(x, axes):
      x = jnp.broadcast_to(x, (w, n, *x.shape))
      return constrain(x, *READ, *axes)

    def near(x, axes):
      x = jax.lax.stop_gradient(x)
      # A bias is added in what it is kept in.
      return to_all(x.astype(self.states.dtype) if x.ndim > 1 else x, axes)

    return jax.tree.map(to_all, head, names), jax.tree.map(near, head, names)

  def _by_shard(
    self, states: Float[Array, 'B C D'], kept: Weights, near: Weights
  ) -> Float[Array, 'B C V']:
    """Logits by the head that each shard has for itself."""
    head = jax.tree.map(_standing_for, kept, near)
    (w, n), (b, c, d) = jax.tree.leaves(near)[0].shape[:2], states.shape
    by_shard = states.reshape(w, b // w, n, c // n, d)

    def on_shard(states, head):
      return unembed(states, head, self.config)

    # One of batch and of tokens after the other.
    logits = jax.vmap(jax.vmap(on_shard, (1, 0), 1))(by_shard, head)
    return constrain(logits.reshape(b, c, -1), *READ, 'vocab')

  def logprobs(
    self,
    targets: Int[Array, 'B R'],
    temperature: Float[Array, ''] | float = 1.0,
  ) -> Float[Array, 'B R']:
    """log p of a token each, float32.

    Args:
      targets: The tokens.
      temperature: Divides the logits.
    """

    def score(logits, target):
      logits = logits / temperature
      picked = jnp.take_along_axis(logits, target[..., None], -1)[..., 0]
      return picked - jax.nn.logsumexp(logits, -1)

    return self.over(score, arrays=(targets,))


@jax.custom_vjp
def _standing_for(
  kept: Float[Array, '*Z'], near: Float[Array, '*Z']
) -> Float[Array, '*Z']:
  """`near`, with its gradient given to `kept`, which is not read.

  So that gradients of many chunks are summed in the dtype that is kept.
  """
  del kept
  return near


def _standing_fwd(kept, near):
  return near, jnp.zeros((), kept.dtype)


def _standing_bwd(like, grad):
  return grad.astype(like.dtype), None


_standing_for.defvjp(_standing_fwd, _standing_bwd)

"""Functions of logits that never exist all at once."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from jaxdistill.dist import READ, constrain, parts, shards_of
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
    larger than a chunk: then nothing is computed again.

    Args:
      fn: `(logits, *others_logits, *arrays) -> values`: [B, C, V] and [B, C,
        ...] to any tree of [B, C, ...].
      *others: Of the same tokens, by other decoders or after other prompts.
      arrays: What else `fn` reads.
    """
    all_of = (self, *others)
    b, r = self.states.shape[:2]
    mesh = jax.sharding.get_abstract_mesh()
    here = -(-b // shards_of(mesh, 'batch'))
    size = 4 * here * sum(h.config.outputs for h in all_of)
    wanted = max(1, _CHUNK_BYTES // size)
    n = parts('tokens', r)  # of the tokens; each has a part of every chunk
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

    def of_chunk(chunks):
      states, arrays = chunks
      logits = [h.logits(s) for h, s in zip(all_of, states, strict=True)]
      return fn(*logits, *arrays)

    chunks = jax.tree.map(split, ([h.states for h in all_of], list(arrays)))
    return jax.tree.map(joined, jax.lax.map(jax.checkpoint(of_chunk), chunks))

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

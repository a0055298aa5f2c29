"""How a token is drawn, and what its log-prob is.

Two numbers are kept per token: the log-prob under the full softmax at the
sampling temperature, and the log of the mass that top-k and top-p kept. The
log-prob under which the token was drawn is their difference. A policy ratio
compares full with full; mixing the two biases it.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How responses are drawn.

  Attributes:
    samples: Responses per prompt.
    max_tokens: Longest response, the end mark included.
    temperature: Divides the logits; 0 takes the likeliest token.
    top_k: Keep the k likeliest tokens; 0 keeps all.
    top_p: Then keep the fewest tokens that hold this probability mass.
  """

  samples: int = 1
  max_tokens: int = 64
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0

  def __post_init__(self):
    for name in ('samples', 'max_tokens'):
      if getattr(self, name) < 1:
        value = getattr(self, name)
        raise ValueError(f'{name} is {value}; it must be at least 1')
    if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
      raise ValueError(
        f'temperature {self.temperature} and top_k {self.top_k} must not be '
        f'negative; top_p {self.top_p} must be in (0, 1]'
      )


class Draw(NamedTuple):
  """Tokens and their two log-probs."""

  token: Int[Array, '...']
  logp: Float[Array, '...']
  kept: Float[Array, '...']


def keep_top_k(logp: Float[Array, '... V'], k: int) -> Bool[Array, '... V']:
  """The k likeliest tokens; ties at the edge are all kept."""
  edge = jax.lax.top_k(logp, min(k, logp.shape[-1]))[0][..., -1:]
  return logp >= edge


def keep_top_p(
  logp: Float[Array, '... V'], p: Float[Array, ''] | float
) -> Bool[Array, '... V']:
  """The fewest likeliest tokens with mass >= p; ties at the edge are kept.

  The mass is of `logp` as given: what an earlier filter removed (-inf) has
  none, and the rest is renormalised.
  """
  logp = jax.nn.log_softmax(logp)
  falling = -jnp.sort(-logp, axis=-1)
  before = jnp.cumsum(jnp.exp(falling), -1) - jnp.exp(falling)
  edge = jnp.min(jnp.where(before < p, falling, jnp.inf), -1, keepdims=True)
  return logp >= edge


def draw(
  logits: Float[Array, '*N V'],
  uniform: Float[Array, '*N'],
  sampling: Sampling,
) -> Draw:
  """Draws a token per row by inverting the kept distribution.

  Args:
    logits: Of the next token.
    uniform: One number in [0, 1) per row; the draw is a function of it.
    sampling: Temperature and filters (static).
  """
  if sampling.temperature == 0:
    logp = jax.nn.log_softmax(logits)
    token = jnp.argmax(logp, -1)
    return Draw(token, _pick(logp, token), jnp.zeros(token.shape))
  logp = jax.nn.log_softmax(logits / sampling.temperature)
  kept = logp
  if sampling.top_k:
    kept = jnp.where(keep_top_k(kept, sampling.top_k), kept, -jnp.inf)
  if sampling.top_p < 1:
    kept = jnp.where(keep_top_p(kept, sampling.top_p), kept, -jnp.inf)
  mass = jnp.exp(kept)
  rising = jnp.cumsum(mass, -1)
  total = rising[..., -1:]
  # The first token whose cumulative mass exceeds the draw has mass itself;
  # rounding at the very end must not go past the last such token.
  token = jnp.sum(rising <= uniform[..., None] * total, -1)
  last = mass.shape[-1] - 1 - jnp.argmax(mass[..., ::-1] > 0, -1)
  token = jnp.minimum(token, last)
  return Draw(token, _pick(logp, token), jnp.log(total[..., 0]))


def _pick(values, index):
  return jnp.take_along_axis(values, index[..., None], -1)[..., 0]

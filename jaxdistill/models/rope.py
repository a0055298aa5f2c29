"""Rotary frequencies, and the ways in which families stretch them."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Rope:
  """Rotary position embedding (arXiv 2104.09864) and its stretching.

  Attributes:
    theta: Base of the frequencies.
    kind: `default`, `linear`, `llama3` or `yarn`.
    factor: By how much the context is stretched (all but `default`).
    original: Context length before stretching (`llama3`, `yarn`).
    low: `llama3`: `low_freq_factor`; `yarn`: `beta_slow`.
    high: `llama3`: `high_freq_factor`; `yarn`: `beta_fast`.
    scale: Cosines and sines are multiplied by it (`yarn`).
    whole: Whether `yarn` rounds the ends of its ramp to whole dimensions.
  """

  theta: float = 10_000.0
  kind: str = 'default'
  factor: float = 1.0
  original: int = 0
  low: float = 1.0
  high: float = 1.0
  scale: float = 1.0
  whole: bool = True

  def frequencies(self, head_dim: int) -> np.ndarray:
    """Radians per position of each pair of dimensions, float32[head_dim / 2].

    `linear` divides all by the factor. `llama3` (Llama 3.1's) divides those
    that turn less than `low` times over the original context, keeps those that
    turn more than `high` times, and goes smoothly between. `yarn`
    (arXiv 2309.00071, sec. 3.2) does so in a ramp over dimensions.
    """
    half = head_dim // 2
    # In float32 from the start, as everyone has trained with.
    exponents = np.arange(half, dtype=np.float32) / np.float32(half)
    f = 1 / np.float32(self.theta) ** exponents
    if self.kind == 'default':
      kept = np.ones(half)
    elif self.kind == 'linear':
      kept = np.zeros(half)
    elif self.kind == 'llama3':
      turns = self.original * f / (2 * math.pi)
      kept = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
    else:
      kept = 1 - self._ramp(head_dim)
    return (f * kept + f / self.factor * (1 - kept)).astype(np.float32)

  def _ramp(self, head_dim: int) -> np.ndarray:
    """YaRN: 0 at dimensions that turn often, 1 at those that hardly turn."""

    def dimension(turns: float) -> float:
      length = self.original / (turns * 2 * math.pi)
      return head_dim * math.log(length) / (2 * math.log(self.theta))

    first, last = dimension(self.high), dimension(self.low)
    if self.whole:
      first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    span = max(last - first, 1e-3)
    return np.clip((np.arange(head_dim // 2) - first) / span, 0, 1)


def turns(
  rope: Rope, head_dim: int, positions: Int[Array, 'B T']
) -> Float[Array, 'B T 2 F']:
  """Cosine and sine of every position's angles, float32."""
  frequency = jnp.asarray(rope.frequencies(head_dim))
  angle = positions[..., None].astype(jnp.float32) * frequency
  return jnp.stack([jnp.cos(angle), jnp.sin(angle)], -2) * rope.scale


def rotate(
  x: Float[Array, 'B T N H'], turned: Float[Array, 'B T 2 F']
) -> Float[Array, 'B T N H']:
  """Turns the halves of each head against each other, in float32."""
  cos, sin = turned[..., None, 0, :], turned[..., None, 1, :]
  x1, x2 = jnp.split(x.astype(jnp.float32), 2, -1)
  out = jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1)
  return out.astype(x.dtype)

"""Arrays in 8 bits, for what a token reads and nobody differentiates.

Weights have a scale by output channel, keys and values one by token and head:
the vector-wise absmax quantisation of LLM.int8() (arXiv 2208.07339, sec. 2.1
and 3.1), of one side of each product; activations stay as they are. Scales are
applied to sums, or to what weighs the values, so no array of floats is held. An
int8 is exact in bfloat16: what is lost is lost in the rounding here.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from jaxtyping import Int8 as Integers


class Formats(NamedTuple):
  """How generation keeps what it reads: '' is the compute dtype; or `int8`.

  Attributes:
    weights: Kernels; see `models.decode.KERNELS`.
    cache: Keys and values; see `models.paged.CACHES`.
    sharded: Whether kernels of layers stay in the shards of `mesh.fsdp`, and
      each is gathered at every token: slow, for what does not fit whole.
  """

  weights: str = ''
  cache: str = ''
  sharded: bool = False


class Int8(NamedTuple):
  """An array that is `values * scale`.

  Attributes:
    values: From -127 to 127.
    scale: Of as many axes; 1 long where all values have the same.
  """

  values: Integers[Array, '*Z']
  scale: Float[Array, '...']

  @property
  def shape(self) -> tuple[int, ...]:
    """Of the whole."""
    return self.values.shape


def to_int8(x: Float[Array, '*Z'], axis: int) -> Int8:
  """Rounds to the nearest of 255 values, evenly spaced and with 0 among them.

  Args:
    x: What is rounded.
    axis: Along which the largest magnitude is taken; zeros stay zeros.
  """
  x = x.astype(jnp.float32)
  scale = jnp.max(jnp.abs(x), axis, keepdims=True) / 127
  values = jnp.round(x / jnp.where(scale == 0, 1, scale))
  return Int8(values.astype(jnp.int8), scale)


def factors(
  x: Float[Array, '*Y'], y: Int8
) -> tuple[Float[Array, '*Y'], Float[Array, '*Z']]:
  """Two factors of a product in the dtype of the first; the scale is left.

  In a loop, XLA would turn all that stands still before it begins, and hold it
  so: what depends on the other factor cannot be taken out.
  """
  x, values = jax.lax.optimization_barrier((x, y.values))
  return x, values.astype(x.dtype)

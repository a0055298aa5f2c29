"""A linear map with low-rank deltas: one shared by all roles, one per role.

A role is a tuple of named deltas on top of the trunk. Every delta is `a @ b`
with `b` zero at the start, so each role begins as the trunk itself. Which role
is in force is a traced index: changing it does not compile anything anew.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxdistill import dist
from jaxdistill.models.int8 import Int8, factors
from jaxdistill.spelling import among


class SharedDelta(nnx.Param):
  """A delta in force for every role (LoRA)."""


class RoleDelta(nnx.Param):
  """Deltas of all roles, stacked on a leading axis."""


class InnerDelta(nnx.Param):
  """A delta of a short training that is thrown away after use."""


def place_of(role: str, roles: tuple[str, ...]) -> int:
  """The index of a role among all.

  Raises:
    ValueError: There is no such role; the nearest is named.
  """
  if role not in roles:
    raise ValueError(f'there is no role {role!r}{among(role, roles)}')
  return roles.index(role)


@dataclasses.dataclass(frozen=True)
class Deltas:
  """Which deltas a model carries.

  Attributes:
    roles: Names of the roles, in the order of their index.
    per_role: Where each role has a delta of its own: `heads` (the output
      projection), `adapter` (every linear map) or `shared` (nowhere: the role
      is in the prompt only).
    lora: Whether a delta shared by all roles sits on every linear map of
      every layer; as usual, not on the output projection.
    rank: Rank of every delta.
    alpha: Deltas are scaled by `alpha / rank`.
    inner: Rank of one more delta on every linear map of every layer, for short
      trainings; 0 is none.
    inner_alpha: It is scaled by `inner_alpha / inner`.
  """

  roles: tuple[str, ...] = ('solver', 'proposer')
  per_role: str = 'heads'
  lora: bool = False
  rank: int = 16
  alpha: float = 16.0
  inner: int = 0
  inner_alpha: float = 16.0

  def __post_init__(self):
    if self.per_role not in ('heads', 'adapter', 'shared'):
      raise ValueError(
        f'roles is {self.per_role!r}; it must be heads, adapter or shared'
      )
    if self.rank < 1:
      raise ValueError(f'rank is {self.rank}; it must be at least 1')

  def index(self, role: str) -> int:
    """The place of a role.

    Raises:
      ValueError: There is no such role; the nearest is named.
    """
    return place_of(role, self.roles)

  @property
  def scale(self) -> float:
    """What every delta is multiplied by."""
    return self.alpha / self.rank


class Weights(NamedTuple):
  """A kernel and the delta in force, ready for use.

  Attributes:
    kernel: `Float[Array, '*L I O']`; for generation perhaps `Int8`, with a
      scale by output.
    delta: `a` of `Float[Array, '*L I A']`, scaled, and `b` of
      `Float[Array, '*L A O']`; None where no delta is in force.
    bias: `Float[Array, '*L O']`, or None.
  """

  kernel: Any
  delta: tuple[Array, Array] | None
  bias: Array | None = None


class Linear(nnx.Module):
  """`x @ (kernel + sum of a @ b) + bias`, stacked over layers.

  Args:
    stack: Leading axes: `(layers,)`, or `()` for a single map.
    shape: Input and output size.
    axes: Logical names of input and output.
    deltas: Which deltas the model carries.
    is_head: Whether this is the output projection.
    bias: Whether it has one.
    rngs: Where initial values come from.
    tied: The kernel is held elsewhere (a tied output projection).
  """

  def __init__(
    self,
    stack: tuple[int, ...],
    shape: tuple[int, int],
    axes: Sequence[str],
    deltas: Deltas,
    *,
    is_head: bool = False,
    bias: bool = False,
    tied: bool = False,
    rngs: nnx.Rngs,
  ):
    names = ('layers',) * len(stack)
    normal = jax.nn.initializers.normal(shape[0] ** -0.5)
    if not tied:
      kernel = normal(rngs.params(), (*stack, *shape))
      self.kernel = nnx.Param(kernel, axes=(*names, *axes))
    self.bias = (
      nnx.Param(jnp.zeros((*stack, shape[1])), axes=(*names, None))
      if bias
      else None
    )
    self.scale = deltas.scale

    def delta(kind, lead, lead_names, rank=deltas.rank):
      a = normal(rngs.params(), (*lead, *stack, shape[0], rank))
      b = jnp.zeros((*lead, *stack, rank, shape[1]))
      return (
        kind(a, axes=(*lead_names, *names, axes[0], 'rank')),
        kind(b, axes=(*lead_names, *names, 'rank', axes[1])),
      )

    adapted = deltas.per_role == 'adapter'
    pairs = []
    if deltas.lora and not is_head:
      pairs.append(delta(SharedDelta, (), ()))
    if adapted or (deltas.per_role == 'heads' and is_head):
      pairs.append(delta(RoleDelta, (len(deltas.roles),), ('role',)))
    self.deltas = nnx.List([nnx.List(pair) for pair in pairs])
    self.inner_scale = deltas.inner_alpha / max(deltas.inner, 1)
    self.inner = (
      nnx.List(delta(InnerDelta, (), (), deltas.inner))
      if deltas.inner and not is_head
      else None
    )

  def weights(
    self, role: Int[Array, ''] | int | None, tied: Array | None = None
  ) -> Weights:
    """The kernel and the deltas of `role` joined along their rank.

    Args:
      role: Index of the role; None turns every delta off.
      tied: The kernel, where it is held elsewhere.
    """
    kernel = self.kernel[...] if tied is None else tied
    bias = None if self.bias is None else self.bias[...]
    if role is None or not (self.deltas or self.inner):
      return Weights(kernel, None, bias)
    pairs = [
      [p[...][role] if isinstance(p, RoleDelta) else p[...] for p in pair]
      for pair in self.deltas
    ]
    factors = [(a * self.scale, b) for a, b in pairs]
    if self.inner:
      a, b = self.inner
      factors.append((a[...] * self.inner_scale, b[...]))
    a = jnp.concatenate([a for a, _ in factors], -1)
    b = jnp.concatenate([b for _, b in factors], -2)
    return Weights(kernel, (a, b), bias)


@jax.custom_vjp
def product(
  x: Float[Array, '*B I'], w: Float[Array, 'I O']
) -> Float[Array, '*B O']:
  """`x @ w` of two like dtypes, summed in float32 and returned so.

  Its derivatives are products in that dtype too: a bfloat16 model is not
  differentiated in float32 because its sums are. Of the two factors of `dw`
  the thinner is turned, which for a low-rank delta is much the smaller.
  """
  return _matmul(x, w)


def _matmul(x, w):
  return jnp.matmul(x, w, preferred_element_type=jnp.float32)


def _product_fwd(x, w):
  return _matmul(x, w), (x, w)  # in the open, so that remat can keep it


def _product_bwd(factors, g):
  x, w = factors
  g = g.astype(x.dtype)
  flat_x, flat_g = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
  if w.shape[0] <= w.shape[1]:
    dw = product(flat_x.T, flat_g)
  else:
    dw = product(flat_g.T, flat_x).T
  return product(g, w.T).astype(x.dtype), dw.astype(w.dtype)


product.defvjp(_product_fwd, _product_bwd)


def product_bits(times: Callable[[Array, Array], Array] = _matmul) -> int:
  """Bits of a float32 factor's fraction that products keep on this device.

  23 is all, 10 TensorFloat-32, 7 one pass in bfloat16; GPUs and TPUs do so
  where neither `precise` nor `jax_default_matmul_precision` asks for more.
  Measured, not looked up.

  Args:
    times: A product of two matrices.
  """
  bits, one = np.arange(1, 24), np.eye(128, dtype=np.float32)
  x = one.copy()
  x[bits, bits] += 0.5**bits
  kept = np.diagonal(jax.jit(times)(x, one))[bits] != 1
  return int(np.cumprod(kept).sum())


def precise(dtype: str) -> contextlib.AbstractContextManager:
  """In here, products of float32 are in float32 on every device.

  Left to themselves, GPUs and TPUs round their factors; so they do where
  `jax_default_matmul_precision` (or `JAX_DEFAULT_MATMUL_PRECISION`) is set,
  which holds. Traced in here is what counts.

  Args:
    dtype: Of compute; of bfloat16 nothing changes.
  """
  chosen = jax.config.jax_default_matmul_precision  # pyright: ignore
  if dtype != 'float32' or chosen is not None:
    return contextlib.nullcontext()
  return jax.default_matmul_precision('highest')


def apply(
  x: Float[Array, '*B I'], weights: Weights, dtype: Any = None
) -> Float[Array, '*B O']:
  """`x @ (kernel + delta) + bias`, with products in the dtype of `x`.

  Args:
    x: Input.
    weights: Kernel, delta and bias.
    dtype: Of the result; default that of `x`.
  """
  return _applied(x, weights, product).astype(dtype or x.dtype)


def _applied(x, weights, product):
  def times(x, w):
    return product(x, w.astype(x.dtype))

  kernel = weights.kernel
  if isinstance(kernel, Int8):
    y = product(*factors(x, kernel)) * kernel.scale[0]
  else:
    y = times(x, kernel)
  if weights.delta is not None:
    a, b = weights.delta
    y = y + times(times(x, a).astype(x.dtype), b)
  if weights.bias is not None:
    y = y + weights.bias
  return y


@jax.custom_vjp
def column_parallel(
  x: Float[Array, '*B I'], maps: tuple[Weights, ...]
) -> tuple[Float[Array, '*B O'], ...]:
  """What several maps make of one input, their outputs split over devices.

  As `apply` of each; but the gradient of `x` is summed over maps and then over
  devices, once (Megatron-LM, arXiv 1909.08053, section 3).
  """
  return tuple(apply(x, w) for w in maps)


def _column_fwd(x, maps):
  made = tuple(_applied(x, w, _matmul).astype(x.dtype) for w in maps)
  return made, (x, maps)


def _column_bwd(given, grads):
  x, maps = given
  _, pull = jax.vjp(lambda maps: tuple(apply(x, w) for w in maps), maps)
  return _contracted(grads, tuple(map(_transposed, maps))), *pull(grads)


@jax.custom_vjp
def row_parallel(
  x: Float[Array, '*B I'], weights: Weights
) -> Float[Array, '*B O']:
  """`apply` of a map whose inputs are split over devices.

  What each makes of its part, the delta's share included, is rounded to the
  dtype of `x` and then added, as the same paper does.
  """
  return _row_fwd(x, weights)[0]


def _row_fwd(x, weights):
  y = _contracted((x,), (weights._replace(bias=None),))
  if weights.bias is not None:
    y = (y + weights.bias).astype(x.dtype)
  return y, (x, weights)


def _row_bwd(given, grad):
  _, pull = jax.vjp(apply, *given)
  return pull(grad)


column_parallel.defvjp(_column_fwd, _column_bwd)
row_parallel.defvjp(_row_fwd, _row_bwd)


def _transposed(weights: Weights) -> Weights:
  """From outputs to inputs; without the bias."""
  delta: Any = weights.delta and tuple(x.T for x in weights.delta[::-1])
  return Weights(weights.kernel.T, delta)


def _contracted(xs: Sequence[Array], maps: Sequence[Weights]) -> Array:
  """The sum of what maps make of inputs that are split over devices."""

  def sum_of(xs, maps):
    made = [_applied(x, w, _matmul) for x, w in zip(xs, maps, strict=True)]
    return sum(made[1:], made[0]).astype(xs[0].dtype)

  def split(w):
    along: Any = 0, -1  # of values and of a scale, of `a` and of `b`
    kernel = Int8(*along) if isinstance(w.kernel, Int8) else 0
    return Weights(kernel, w.delta and along)

  dims = tuple(x.ndim - 1 for x in xs), tuple(map(split, maps))
  return dist.summed(sum_of, 'mlp', (tuple(xs), tuple(maps)), dims)


def on_axes(
  fn: Callable[[Array, tuple[str | None, ...]], Array],
  weights: Weights,
  i: str,
  o: str,
) -> Weights:
  """`fn` of each array of a map from axis `i` to axis `o`, and its axes."""
  kernel, delta, bias = weights
  if isinstance(kernel, Int8):
    kernel = Int8(fn(kernel.values, (i, o)), fn(kernel.scale, (None, o)))
  else:
    kernel = fn(kernel, (i, o))
  if delta is not None:
    delta = fn(delta[0], (i, 'rank')), fn(delta[1], ('rank', o))
  return Weights(kernel, delta, bias)


def gathered(weights: Weights, i: str, o: str) -> Weights:
  """A map from axis `i` to axis `o`, whole along what training shards.

  What is gathered is what is kept: conversions come before it.
  """
  return on_axes(lambda x, axes: dist.gathered(x, axes), weights, i, o)


def dense(weights: Weights) -> Float[Array, '*L I O']:
  """The kernel; with its delta, if there is one, in the delta's float32."""
  if weights.delta is None:
    return weights.kernel
  a, b = weights.delta
  return weights.kernel + a @ b

"""How a token is drawn, and what its log-prob is.

Two numbers are kept per token: the log-prob under the full softmax at the
sampling temperature, and the log of the mass that top-k and top-p kept. The
log-prob under which the token was drawn is their difference. A policy ratio
compares full with full; mixing the two biases it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxdistill import dist


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How responses are drawn.

  Attributes:
    samples: Responses per prompt.
    max_tokens: Longest response, the end mark included.
    temperature: Divides the logits; 0 takes the likeliest token.
    top_k: Keep the k likeliest tokens; 0 keeps all.
    top_p: Then keep the fewest tokens that hold this probability mass.
    greedy: The first so many samples take the likeliest token at each step.
    dropout: Share of the vocabulary that nobody may say, drawn anew for every
      call and the same for all of its prompts; see `withhold`.
  """

  samples: int = 1
  max_tokens: int = 64
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  greedy: int = 0
  dropout: float = 0.0

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
    if not 0 <= self.dropout < 1:
      raise ValueError(f'dropout is {self.dropout}; it must be in [0, 1)')
    if not 0 <= self.greedy <= self.samples:
      raise ValueError(f'greedy is {self.greedy} of {self.samples} samples')

  @classmethod
  def by(cls, settings: Any, samples: int, max_tokens: int) -> 'Sampling':
    """As the `temperature`, `top_k` and `top_p` of a method's settings say."""
    found = {n: getattr(settings, n) for n in ('temperature', 'top_k', 'top_p')}
    return cls(samples, max_tokens, **found)

  def of_token(self) -> 'Sampling':
    """The same in what one draw depends on; the rest as small as may be."""
    every = self.greedy == self.samples
    greedy = min(self.greedy, 1) if every else self.greedy
    samples = greedy if every else greedy + 1
    return dataclasses.replace(
      self, samples=max(samples, 1), max_tokens=1, greedy=greedy
    )


class Draw(NamedTuple):
  """Tokens and their two log-probs."""

  token: Int[Array, '...']
  logp: Float[Array, '...']
  kept: Float[Array, '...']


def keep_top_k(logp: Float[Array, '... V'], k: int) -> Bool[Array, '... V']:
  """The k likeliest tokens; ties at the edge are all kept."""
  return _highest(logp, lambda kept: kept.sum(-1) >= k)


def keep_top_p(
  logits: Float[Array, '... V'], p: Float[Array, ''] | float
) -> Bool[Array, '... V']:
  """The fewest likeliest tokens with mass >= p; ties at the edge are kept.

  What an earlier filter removed (-inf) has no mass, and the rest is
  renormalised.
  """
  mass = jax.nn.softmax(logits)
  return _highest(logits, lambda kept: jnp.where(kept, mass, 0).sum(-1) >= p)


def _highest(
  values: Float[Array, '... V'],
  enough: Callable[[Bool[Array, '... V']], Bool[Array, '...']],
) -> Bool[Array, '... V']:
  """The fewest highest values that are enough; ties are all kept.

  Their edge is found bit by bit, by sums alone: where the vocabulary is split
  over devices, a sort or a top-k would gather it.
  """
  # Held: the compiler may make values twice that differ in the last bit, and
  # then the highest is below its own edge. Without -0, which is the same as 0.
  values = jnp.where(values == 0, 0.0, values.astype(jnp.float32))
  values = jax.lax.optimization_barrier(values)
  bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
  top = jnp.uint32(2**31)
  # In the order of the values.
  bits = jnp.where(bits < top, bits | top, ~bits)

  def step(i, edge):
    higher = edge | (top >> i)
    return jnp.where(enough(bits >= higher[..., None]), higher, edge)

  edge = jnp.zeros(values.shape[:-1], jnp.uint32)
  edge = jax.lax.fori_loop(
    0, 32, lambda i, e: step(i.astype('uint32'), e), edge
  )
  return bits >= edge[..., None]


def withhold(
  key: Array, size: int, share: float, ends: tuple[int, ...]
) -> Bool[Array, 'V']:
  """Vocabulary dropout (arXiv 2604.03472): which tokens nobody may say.

  Args:
    key: Of the call.
    size: Of the vocabulary.
    share: Of the tokens, each drawn for itself.
    ends: The tokens that end a response; they are never withheld.
  """
  out = jax.random.bernoulli(jax.random.fold_in(key, 2**31 - 1), share, (size,))
  return out.at[jnp.array(ends)].set(False)


def draw(
  logits: Float[Array, 'W U V'],
  rows: Int[Array, 'W J'],
  uniform: Float[Array, 'W J'],
  numbers: Int[Array, 'W J'],
  sampling: Sampling,
  withheld: Bool[Array, 'V'] | None = None,
) -> Draw:
  """Draws a token per sample by inverting the kept distribution of its row.

  Args:
    logits: Of the next token of every row.
    rows: Which row each sample draws from.
    uniform: One number in [0, 1) per sample; the draw is a function of it.
    numbers: Which sample of its prompt each is.
    sampling: Temperature and filters (static).
    withheld: Tokens that are not drawn, whatever their logits.
  """
  if sampling.temperature == 0 or sampling.greedy == sampling.samples:
    return _likeliest(logits, rows, withheld)
  scaled = logits / sampling.temperature
  kept = _without(scaled, withheld)
  mass, high, norm = _masses(kept)
  if withheld is not None:
    norm = jax.nn.logsumexp(scaled, -1)
  if sampling.top_k:
    kept = jnp.where(keep_top_k(kept, sampling.top_k), kept, -jnp.inf)
  if sampling.top_p < 1:
    kept = jnp.where(keep_top_p(kept, sampling.top_p), kept, -jnp.inf)
  token, total = _invert(jnp.where(kept > -jnp.inf, mass, 0), rows, uniform)
  logp = _pick(scaled, rows, token) - _pick(norm, rows)
  drawn = Draw(token, logp, jnp.log(total) + _pick(high - norm, rows))
  if not sampling.greedy:
    return drawn
  both = zip(_likeliest(logits, rows, withheld), drawn, strict=True)
  return Draw(*(jnp.where(numbers < sampling.greedy, a, b) for a, b in both))


def _without(logits, withheld):
  return logits if withheld is None else jnp.where(withheld, -jnp.inf, logits)


def _likeliest(logits, rows, withheld) -> Draw:
  token = _pick(jnp.argmax(_without(logits, withheld), -1), rows)
  norm = jax.nn.logsumexp(logits, -1)
  logp = _pick(logits, rows, token) - _pick(norm, rows)
  return Draw(token, logp, jnp.zeros(token.shape))


def _masses(logits: Float[Array, 'W U V']) -> tuple[Array, Array, Array]:
  """`exp(logit - high)` of every token, `high`, and log of the sum of `exp`."""
  high = jnp.max(logits, -1)
  # Held, or whoever reads them would take the exponentials anew.
  mass = jax.lax.optimization_barrier(jnp.exp(logits - high[..., None]))
  return mass, high, high + jnp.log(jnp.sum(mass, -1))


def _invert(
  mass: Float[Array, 'W U V'],
  rows: Int[Array, 'W J'],
  uniform: Float[Array, 'W J'],
) -> tuple[Int[Array, 'W J'], Float[Array, 'W J']]:
  """The token at which the cumulative mass passes `uniform * total`.

  First the block of the vocabulary, then the token in it: a cumulative sum
  over 150,000 tokens would cost more than the layer that made their logits.

  Returns:
    The token, and the total.
  """
  # No block is spread over two devices.
  parts = dist.parts('vocab', mass.shape[-1])
  size = mass.shape[-1] // parts
  block = 1 << (max(size - 1, 1).bit_length() + 1) // 2  # about its root
  blocks = jnp.pad(
    mass.reshape(*mass.shape[:-1], parts, size),
    [(0, 0)] * 3 + [(0, -size % block)],
  ).reshape(*mass.shape[:-1], -1, block)
  blocks = dist.constrain(blocks, 'rows', None, 'vocab', None)
  sums = _pick(blocks.sum(-1), rows)
  sums = dist.constrain(sums, 'rows', None, None)  # few: a root of all
  ends = _rising(sums)
  total = ends[..., -1]
  wanted = uniform * total
  b = _first_beyond(ends, wanted, sums)
  inside = _pick(blocks, rows, b)
  before = jnp.concatenate([jnp.zeros_like(ends[..., :1]), ends], -1)
  before = jnp.take_along_axis(before, b[..., None], -1)
  rising = _rising(inside) + before
  each = blocks.shape[2] // parts
  token = b // each * size + b % each * block
  return token + _first_beyond(rising, wanted, inside), total


def _rising(mass):
  """The cumulative sum of few numbers: one product, as nothing else is."""
  upto = jnp.triu(jnp.ones((mass.shape[-1],) * 2, mass.dtype))
  return jnp.matmul(mass, upto, precision=jax.lax.Precision.HIGHEST)


def _first_beyond(rising, wanted, mass):
  """The first place beyond `wanted`; rounding may not go past the last mass."""
  place = jnp.sum(rising <= wanted[..., None], -1)
  last = mass.shape[-1] - 1 - jnp.argmax(mass[..., ::-1] > 0, -1)
  return jnp.minimum(place, last)


def _pick(values, *index):
  """`values[d, index...]` for every shard d."""
  return jax.vmap(lambda values, *index: values[index])(values, *index)

"""Generation: from prompts to finished responses.

Samples of one prompt that have drawn the same tokens so far are one *row*: what
they have in common is computed once, and a sample that has ended is computed no
more. With short answers most samples share their rows, so this alone saves
several times the work; with long ones rows part early, and what remains is that
prompts are read once and finished samples cost nothing.

Tokens are drawn many per dispatch. A dispatch returns when there are more rows
than it has room for, or so few that a smaller program would do; rooms are
powers of two apart, so few programs exist.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxdistill.dist import constrain
from jaxdistill.models.decoder import Cache, Prompts
from jaxdistill.models.layers import Unrolled
from jaxdistill.rollout.samplers import Draw, Sampling, draw

Responses = tuple[
  Int[Array, 'B G T'],
  Float[Array, 'B G T'],
  Float[Array, 'B G T'],
  Bool[Array, 'B G'],
]
_LEAST = 32  # rows; with fewer, a token costs what reading the weights costs


class _Rows(NamedTuple):
  """Which samples stand together, by shard.

  Attributes:
    of: Row of each sample, `Int[Array, 'W J']`.
    sample: One sample of each row; `J` where there is no row,
      `Int[Array, 'W J']`.
    parent: Row that each row continues, `Int[Array, 'W J']`.
    used: Most rows of a shard.
  """

  of: Array
  sample: Array
  parent: Array
  used: Int[Array, '']


class _State(NamedTuple):
  """What is carried from token to token, by shard.

  Attributes:
    t: Tokens drawn.
    token: Drawn last, `Int[Array, 'W J']`.
    done: Whether a sample has ended, `Bool[Array, 'W J']`.
    rows: Of the next token.
    cache: Of the rows before.
    out: What was drawn, `[W J T]`.
  """

  t: Int[Array, '']
  token: Array
  done: Array
  rows: _Rows
  cache: Cache
  out: Draw


@functools.partial(jax.jit, static_argnames='graphdef')
def lay_out(
  graphdef: nnx.GraphDef,
  params: tuple[nnx.State, ...],
  role: Int[Array | np.generic, ''],
) -> Unrolled:
  """A role's weights as `generate` wants them: each layer by itself.

  Once for all prompts; slices inside its loop would copy a layer every token.
  """
  model = nnx.merge(graphdef, *params)
  return model.unroll(model.resolve(role))


def generate(
  graphdef: nnx.GraphDef,
  params: tuple[nnx.State, ...],
  weights: Unrolled,
  prefix: Int[Array | np.ndarray, 'P'],
  tokens: Int[Array, 'B S'],
  lengths: Int[Array, 'B'],
  addresses: Int[Array, 'B'],
  key: Array,
  role: Int[Array | np.generic, ''],
  *,
  shards: int,
  sampling: Sampling,
  eos_ids: tuple[int, ...],
) -> Responses:
  """Draws `sampling.samples` responses to each prompt.

  What all prompts begin with is read once, a prompt is read once for all its
  samples, and what samples have in common is computed once. It ends when every
  sample has ended or the longest is reached.

  Args:
    graphdef: Of a `Decoder`.
    params: Its parameters, in any number of parts.
    weights: What `lay_out` made of them for `role`.
    prefix: What all prompts begin with; may be empty.
    tokens: The rest of each prompt, left-padded.
    lengths: Of these rests; 0 marks an empty row, which ends at once.
    addresses: Of the prompts: sample g of one draws from (key, it, g) whatever
      else is in the batch.
    key: PRNG key.
    role: Index of the role that answers.
    shards: Into how many parts the batch is split; divides `B`.
    sampling: How to draw.
    eos_ids: The tokens that end a response.

  Returns:
    Tokens, log-probs, log kept mass (each 0 after the end), and which samples
    ended by themselves.
  """
  prompts, state, uniforms = _begin(
    *(graphdef, params, prefix, tokens, lengths, addresses, key, role),
    **{'shards': shards, 'sampling': sampling, 'eos_ids': eos_ids},
  )
  most = state.token.shape[1]
  while (count := int(state.rows.used)) and int(state.t) < sampling.max_tokens:
    room = most
    while room // 2 >= max(count, _LEAST):
      room //= 2
    state = _advance(
      *(graphdef, params, weights, prompts, uniforms, state),
      **{'room': room, 'sampling': sampling, 'eos_ids': eos_ids},
    )
  return _finish(state.out, state.done, lengths, sampling.samples)


_STATIC = ('graphdef', 'sampling', 'eos_ids')


@functools.partial(jax.jit, static_argnames=(*_STATIC, 'shards'))
def _begin(
  graphdef,
  params,
  prefix,
  tokens,
  lengths,
  addresses,
  key,
  role,
  *,
  shards,
  sampling,
  eos_ids,
) -> tuple[Prompts, _State, Array]:
  """Reads the prompts and draws the first token."""
  model = nnx.merge(graphdef, *params)
  weights = model.resolve(role)
  b, g, limit = tokens.shape[0], sampling.samples, sampling.max_tokens
  logits, prompts = model.prefill(
    weights, prefix, tokens, jnp.maximum(lengths, 1)
  )
  here = b // shards
  uniforms = _uniforms(key, addresses, g, limit)
  uniforms = uniforms.reshape(shards, here * g, limit)
  of = jnp.broadcast_to(jnp.arange(here * g) // g, (shards, here * g))
  done = jnp.repeat(lengths.reshape(shards, here) == 0, g, 1)
  empty = jnp.zeros((shards, here * g, limit))
  state = _State(
    t=jnp.zeros((), jnp.int32),
    token=jnp.zeros(of.shape, jnp.int32),
    done=done,
    rows=_Rows(of, of, of, jnp.zeros((), jnp.int32)),
    cache=jax.tree.map(
      lambda x: constrain(x, 'batch', None, 'kv_heads', None, None),
      model.empty_cache(shards, here, limit),
    ),
    out=Draw(empty.astype(jnp.int32), empty, empty),
  )
  logits = logits.reshape(shards, here, -1)
  state = _draw(state, logits, of, uniforms, sampling, eos_ids)
  return prompts, state, uniforms


@functools.partial(jax.jit, static_argnames=(*_STATIC, 'room'))
def _advance(
  graphdef,
  params,
  weights,
  prompts,
  uniforms,
  state,
  *,
  room,
  sampling,
  eos_ids,
) -> _State:
  """Draws tokens until there are more than `room` rows, or far fewer."""
  model = nnx.merge(graphdef, *params)
  limit, most = sampling.max_tokens, state.token.shape[1]
  fewer = room // 2 if room // 2 >= _LEAST else 0
  same = jnp.broadcast_to(jnp.arange(room), (state.token.shape[0], room))

  def follow(cache, parent):
    index = parent[:, :, None, None, None]
    return jax.tree.map(lambda x: jnp.take_along_axis(x, index, 1), cache)

  def body(carry):
    state, parent, _ = carry
    cache = jax.lax.cond(
      jnp.any(parent != same),
      lambda: follow(state.cache, parent),
      lambda: state.cache,
    )
    slots = state.rows.sample[:, :room]
    tokens = jnp.take_along_axis(
      state.token, jnp.minimum(slots, most - 1), axis=1
    )
    logits, cache = model.decode(
      *(weights, tokens, slots, prompts, cache, state.t - 1),
      sampling.samples,
    )
    of = state.rows.of
    state = state._replace(cache=cache)
    state = _draw(state, logits, of, uniforms, sampling, eos_ids)
    return state, state.rows.parent[:, :room], jnp.array(False)

  def going_on(carry):
    state, _, first = carry
    count = state.rows.used
    more = (state.t < limit) & (fewer < count) & (count <= room)
    return first | more

  cache = follow(state.cache, state.rows.parent[:, :room])
  start = state._replace(cache=cache), same, jnp.array(True)
  return jax.lax.while_loop(going_on, body, start)[0]


def _draw(state, logits, of, uniforms, sampling, eos_ids) -> _State:
  """Draws a token per sample, notes it, and groups samples into rows anew."""
  t, done = state.t, state.done
  uniform = jax.lax.dynamic_index_in_dim(uniforms, t, 2, keepdims=False)
  new = draw(logits, of, uniform, sampling)
  new = Draw(*(jnp.where(done, 0, x) for x in new))
  out = jax.tree.map(
    lambda o, x: jax.lax.dynamic_update_slice_in_dim(
      o, x[..., None].astype(o.dtype), t, axis=2
    ),
    state.out,
    new,
  )
  token = new.token.astype(jnp.int32)
  done = done | jnp.isin(token, jnp.array(eos_ids))
  rows = _group(of, token, done)
  return _State(t + 1, token, done, rows, state.cache, out)


def _group(
  of: Int[Array, 'W J'], token: Int[Array, 'W J'], done: Bool[Array, 'W J']
) -> _Rows:
  """Samples that were on one row and drew the same token are one row."""

  # By vmap, for indices that name the shard make XLA gather from all of them.
  @jax.vmap
  def of_shard(of, token, done):
    # Those who have ended come last.
    order = jnp.lexsort((token, of, done))
    of, token, done = of[order], token[order], done[order]
    parted = (jnp.diff(of) != 0) | (jnp.diff(token) != 0)
    first = jnp.pad(parted, (1, 0), constant_values=True) & ~done
    rank = jnp.cumsum(first) - 1
    new_of = jnp.zeros_like(of).at[order].set(jnp.where(done, 0, rank))
    place = jnp.where(first, rank, len(of))
    nobody = jnp.full_like(of, len(of))
    sample = nobody.at[place].set(order, mode='drop')
    parent = jnp.zeros_like(of).at[place].set(of, mode='drop')
    return _Rows(new_of, sample, parent, jnp.sum(first))

  rows = of_shard(of, token, done)
  return rows._replace(used=jnp.max(rows.used))


@functools.partial(jax.jit, static_argnames='samples')
def _finish(out, done, lengths, samples) -> Responses:
  def prompts(x):
    x = x.reshape(len(lengths), samples, *x.shape[2:])
    return constrain(x, *('batch', None, None)[: x.ndim])

  ended = prompts(done) & (lengths > 0)[:, None]
  return *jax.tree.map(prompts, out), ended


def _uniforms(key, addresses, samples, limit) -> Float[Array, 'B G T']:
  """One number per token, by its prompt's address, its sample and its place."""

  def of_sample(address, sample):
    k = jax.random.fold_in(jax.random.fold_in(key, address), sample)
    return jax.random.uniform(k, (limit,))

  over_samples = jax.vmap(of_sample, (None, 0))
  return jax.vmap(over_samples, (0, None))(addresses, jnp.arange(samples))

"""Generation: from prompts to finished responses.

Samples of one prompt that have drawn the same tokens so far are one *row*: what
they have in common is computed once, and a sample that has ended is computed no
more. With short answers most samples share their rows, so this alone saves
several times the work; with long ones rows part early, and what remains is that
a prompt is read once for all its samples, and that the rows of those who have
ended go to whoever waits.

A dispatch draws many tokens: until a page of the rows' keys is full, until
there are more rows than it has room for, or so few that a smaller program or
other prompts would do. What happens in between, `schedule.Desk` decides on the
host. All pages but the newest of each row stand still meanwhile.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jaxdistill import dist
from jaxdistill.dist import Programs
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.decode import (
  Unrolled,
  decode,
  unroll_ends,
  unroll_layer,
)
from jaxdistill.models.int8 import Formats
from jaxdistill.models.paged import Level, Pages, take, view
from jaxdistill.rollout.dispatch import Response, Samples, alike
from jaxdistill.rollout.foreseen import Ahead
from jaxdistill.rollout.pages import empty, kept_as, moved, of_parents, relaid
from jaxdistill.rollout.samplers import Draw, Sampling, draw, withhold
from jaxdistill.rollout.schedule import Desk


class _Carry(NamedTuple):
  """What is carried from token to token, by shard.

  Attributes:
    slot: Of the newest pages, that the next token is written to.
    row: Of each sample, `Int[Array, 'W J']`.
    lead: Sample that leads each row; `J` is nobody, `Int[Array, 'W U']`.
    token: Drawn last, `Int[Array, 'W J']`.
    alive: Which samples go on, `Bool[Array, 'W J']`.
    newest: A page a row, `W * U` of them.
    out: What was drawn, `[W J S]`; the token is -1 after the end.
    stuck: Whether the host must make room.
  """

  slot: Int[Array, '']
  row: Array
  lead: Array
  token: Array
  alive: Array
  newest: Pages
  out: Draw
  stuck: Bool[Array, '']


def lay_out(
  graphdef: nnx.GraphDef,
  params: tuple[nnx.State, ...],
  role: Int[Array | np.generic, ''],
  *,
  tensor: int = 1,
  formats: Formats = Formats(),  # noqa: B008
) -> Unrolled:
  """A role's weights as `generate` wants them: each layer by itself.

  Once for all prompts; slices inside its loop would copy a layer every token.
  They are gathered from the shards that train, in what they are kept as.
  """
  model = graphdef, params, role
  layers = [
    _lay_out_layer(*model, np.int32(i), tensor=tensor, formats=formats)
    for i in range(nnx.merge(graphdef, *params).config.num_layers)
  ]
  embed, norm, head = _lay_out_ends(*model, formats=formats)
  return Unrolled(embed, layers, norm, head)


@functools.partial(jax.jit, static_argnames=('graphdef', 'tensor', 'formats'))
def _lay_out_layer(graphdef, params, role, i, *, tensor, formats):
  model = nnx.merge(graphdef, *params)
  return unroll_layer(model.resolve(role), model.config, i, tensor, formats)


@functools.partial(jax.jit, static_argnames=('graphdef', 'formats'))
def _lay_out_ends(graphdef, params, role, *, formats):
  model = nnx.merge(graphdef, *params)
  return unroll_ends(model.resolve(role), model.config, formats)


def generate(
  graphdef: nnx.GraphDef,
  params: tuple[nnx.State, ...],
  prefix: Int[np.ndarray, 'T'],
  rests: Sequence[np.ndarray],
  addresses: Sequence[int],
  key: Array,
  role: int,
  *,
  mesh: Mesh,
  most: int,
  sampling: Sampling,
  eos_ids: tuple[int, ...],
  formats: Formats = Formats(),  # noqa: B008
  expected: int = 0,
  programs: Programs = Programs(),  # noqa: B008
) -> list[list[Response]]:
  """Draws `sampling.samples` responses to each prompt.

  Every process calls this together, each with its own prompts.

  Args:
    graphdef: Of a `Decoder`.
    params: Its parameters, in any number of parts.
    prefix: What all prompts of all hosts begin with; may be empty.
    rests: What follows in each, at least one token.
    addresses: Of the prompts: token t of sample g of one is drawn by (key,
      address, g, t) whatever else is asked.
    key: PRNG key.
    role: Index of the role that answers.
    mesh: Over which rows are split.
    most: Most samples in flight on each of their shards.
    sampling: How to draw.
    eos_ids: The tokens that end a response.
    formats: How weights, keys and values are kept. Prompts are read with the
      weights and keys that there are, and kept so afterwards: how they are read
      does not depend on what else is asked.
    expected: Prompts of this host that another such call may have, if they are
      more: sizes are chosen for so many.
    programs: Of the run. While it foresees, so is all that such calls reach.

  Returns:
    By prompt its responses.
  """
  config = nnx.merge(graphdef, *params).config
  tensor = mesh.shape.get('tensor', 1)
  desk = Desk(
    *(len(prefix), rests, addresses),
    sampling=sampling,
    eos_ids=eos_ids,
    shards=dist.shards_of(mesh, 'rows'),
    most=most,
    expected=expected,
  )
  if not desk.asked:
    return []
  cache, role_index = formats.cache, np.int32(role)
  weights = lay_out(
    *(graphdef, params, role_index), tensor=tensor, formats=formats
  )
  read = functools.partial(
    programs, _prefill, params, role_index, graphdef=graphdef
  )
  as_split = config.over(tensor)

  def put(x):
    return dist.put_local(mesh, x, 'rows')

  first = read(prefix[None], None, size=len(prefix)) if len(prefix) else None
  shared = first and kept_as(first, cache)
  static = {'config': config, 'group': desk.group, 'tensor': tensor}
  static |= {'sampling': sampling.of_token(), 'eos_ids': eos_ids}
  static |= {'sharded': formats.sharded}
  if programs.foreseeing:
    ahead = Ahead(programs, desk, mesh, as_split, cache)
    ahead.reads(_prefill, (params, role_index), first, graphdef)
    ahead.draws(_advance, (weights, key, shared), static)
    ahead.moves()
  newest, pages, tables = None, {}, {}
  while (turn := desk.turn()).rows:
    if newest is None:
      sizes = {'pages': desk.shards * turn.rows, 'size': desk.page}
      newest = empty(config=as_split, **sizes, cache=cache)
    elif turn.parents is not None:
      newest = moved(programs, newest, put(turn.parents))
    if turn.closed:
      pages['own'] = relaid(
        *(programs, pages.get('own'), newest, *map(put, turn.closed))
      )
    for tokens, source, into in turn.admitted:
      pages['texts'] = relaid(  # what was read is let go of
        *(programs, pages.get('texts')),
        *(read(put(tokens), first, size=desk.size), put(source), put(into)),
        cache=cache,
      )
    tables |= {name: [*map(put, x)] for name, x in turn.tables.items()}
    end = programs(
      *(_advance, weights, key, shared),
      tuple(Level(x, *tables[n], turn.doublings[n]) for n, x in pages.items()),
      *(newest, put(turn.samples), put(turn.lead), put(turn.hungry)),
      turn.limits,
      **static,
    )
    newest = end.newest
    drawn = end.row, end.lead, end.token, end.alive, *end.out
    desk.note(int(end.slot), *map(dist.local_part, drawn))
  return desk.responses()


@functools.partial(jax.jit, static_argnames=('graphdef', 'size'))
def _prefill(params, role, tokens, prefix, *, graphdef, size) -> Pages:
  """Reads prompts; see `Decoder.prefill`."""
  model = nnx.merge(graphdef, *params)
  return model.prefill(model.resolve(role), tokens, prefix, size)


@functools.partial(
  jax.jit,
  static_argnames=(
    *('config', 'group', 'sampling', 'eos_ids', 'tensor', 'sharded'),
  ),
  donate_argnames='newest',
)
def _advance(
  weights: Unrolled,
  key: Array,
  prefix: Pages | None,
  levels: tuple[Level, ...],
  newest: Pages,
  packed: Int[Array, 'W J ...'],
  lead: Int[Array, 'W U'],
  hungry: Bool[Array, 'W'],
  limits: Int[Array | np.ndarray, '4'],
  *,
  config: DecoderConfig,
  group: int,
  sampling: Sampling,
  eos_ids: tuple[int, ...],
  tensor: int,
  sharded: bool,
) -> _Carry:
  """Draws tokens until the host has something to do; see `dispatch.Turn`."""
  samples = Samples(*jnp.moveaxis(packed, -1, 0))
  start, fewer, free, idle = limits
  (w, j), u, size = samples.row.shape, lead.shape[1], newest.size
  uniforms = _uniforms(
    key, samples.address, samples.number, samples.age - start, size
  )

  withheld = None
  if sampling.dropout:
    withheld = withhold(key, config.vocab_size, sampling.dropout, eos_ids)

  def body(carry: _Carry) -> _Carry:
    t = carry.slot
    logits, newest = _logits(
      config, weights, prefix, levels, samples, carry, tensor, sharded
    )
    new = draw(
      logits,
      jnp.minimum(carry.row, u - 1),
      jax.lax.dynamic_index_in_dim(uniforms, t, 2, keepdims=False),
      samples.number,
      sampling,
      withheld,
    )
    token = new.token.astype(jnp.int32)
    shown = Draw(
      jnp.where(carry.alive, token, -1),
      *(jnp.where(carry.alive, x, 0) for x in new[1:]),
    )
    out = jax.tree.map(
      lambda o, x: jax.lax.dynamic_update_slice_in_dim(o, x[..., None], t, 2),
      carry.out,
      shown,
    )
    ended = jnp.isin(token, jnp.array(eos_ids)) | (t >= samples.last)
    after = carry._replace(
      slot=t + 1,
      token=token,
      alive=carry.alive & ~ended,
      newest=newest,
      out=out,
    )
    return _parted(after, samples.paged > 0, group)

  def going_on(carry: _Carry) -> Bool[Array, '']:
    rows = jnp.max(jnp.sum(_leads(carry) & carry.alive, 1))
    going = jnp.sum(carry.alive, 1)
    busy = jnp.sum(jnp.any(carry.alive.reshape(w, -1, group), -1), 1)
    # On one shard both, or the host could give its places to nobody.
    refill = jnp.any(hungry & (going <= free) & (busy <= idle))
    more = (carry.slot < size) & ~carry.stuck & (rows > fewer) & ~refill
    return (carry.slot == start) | more

  empty = jnp.zeros((w, j, size))
  end = jax.lax.while_loop(
    going_on,
    body,
    _Carry(
      start,
      samples.row,
      lead,
      samples.token,
      samples.alive > 0,
      newest,
      Draw(empty.astype(jnp.int32), empty, empty),
      jnp.array(False),
    ),
  )
  for_host = {'row': end.row, 'lead': end.lead, 'token': end.token}
  for_host |= {'alive': end.alive, 'out': end.out}
  for_host = jax.tree.map(
    lambda x: dist.constrain(x, 'rows', *[None] * (x.ndim - 1)), for_host
  )
  return end._replace(**for_host)


def _leads(carry: _Carry) -> Bool[Array, 'W J']:
  """Which samples lead the row that they are of."""
  return take(carry.lead, carry.row) == jnp.arange(carry.row.shape[1])


def _logits(
  config, weights, prefix, levels, samples, carry, tensor, sharded
) -> tuple[Float[Array, 'W U V'], Pages]:
  """Of every row's next token; and the newest pages with its last one."""
  w, u = carry.lead.shape
  windows = tuple(kind.window for kind in config.kinds)
  row_of = jnp.where(_leads(carry), carry.row, u)
  positions = take(samples.base, carry.lead) + carry.slot
  views = [view(x, row_of, carry.lead, positions, windows) for x in levels]
  logits, newest = decode(
    config,
    weights,
    take(carry.token, carry.lead).reshape(-1),
    positions.reshape(-1),
    prefix,
    tuple(zip(levels, views, strict=True)),
    carry.newest,
    take(samples.begin, carry.lead).reshape(-1),
    carry.slot,
    tensor,
    sharded,
  )
  return logits.reshape(w, u, -1), newest


def _parted(carry: _Carry, paged: Bool[Array, 'W J'], group: int) -> _Carry:
  """Gives a row to each who has drawn otherwise than those it shared one with.

  Args:
    carry: After a token.
    paged: Who has full pages: where they part, the host must copy these.
    group: Samples of a prompt.
  """
  (w, j), u = carry.row.shape, carry.lead.shape[1]
  first = alike(carry.row, carry.token, carry.alive, group)
  leading = carry.alive & (first == jnp.arange(j))
  parted = leading & ~_leads(carry)
  stuck = jnp.max(jnp.sum(leading, 1)) > u
  stuck |= jnp.any(parted & paged)

  def regrouped():
    rank = jnp.cumsum(leading, 1) - 1
    row = jnp.where(carry.alive, take(rank, first), u)
    place = jnp.where(leading, rank, u)
    nobody = jnp.full((w, u), j)
    lead = jax.vmap(lambda n, p: n.at[p].set(jnp.arange(j), mode='drop'))(
      nobody, place
    )
    parents = jnp.minimum(take(carry.row, lead), u - 1)
    return row, lead, of_parents(carry.newest, parents)

  row, lead, newest = jax.lax.cond(
    jnp.any(parted) & ~stuck,
    regrouped,
    lambda: (carry.row, carry.lead, carry.newest),
  )
  return carry._replace(row=row, lead=lead, newest=newest, stuck=stuck)


def _uniforms(key, addresses, numbers, begin, size) -> Float[Array, 'W J S']:
  """One number per token: by its prompt's address, its sample, its place."""

  def of_sample(address, number, begin):
    of_prompt = jax.random.fold_in(key, address)
    places = jnp.maximum(begin + jnp.arange(size), 0)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
      jax.random.fold_in(of_prompt, number), places
    )
    return jax.vmap(jax.random.uniform)(keys)

  return jax.vmap(jax.vmap(of_sample))(addresses, numbers, begin)

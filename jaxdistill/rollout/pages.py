"""Where the pages of a call lie: made, laid out anew, moved with their rows."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Int

from jaxdistill import dist
from jaxdistill.dist import Programs
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.paged import CACHES, Pages, kept, take


def relaid(
  programs: Programs,
  old: Pages | None,
  fresh: Pages,
  source: Int[Array, 'W B'],
  into: Int[Array, 'W ...'],
  *,
  cache: str = '',
) -> Pages:
  """Pages laid out anew, a layer at a time: no more than one is there twice.

  Args:
    programs: Of the run.
    old: `W` shards of pages, or none; gone afterwards.
    fresh: `W` shards of other pages.
    source: Which of the old a page is.
    into: Which page each of the fresh becomes; `B` is none.
    cache: What the fresh are to be kept as; the default is as they are.
  """
  k, v = [], []
  for i, more in enumerate(zip(*fresh, strict=True)):
    before = old and (old.k[i], old.v[i])
    of_k, of_v = programs(relaid_layer, before, more, source, into, cache=cache)
    for x in jax.tree.leaves(before):
      x.delete()
    k.append(of_k)
    v.append(of_v)
  return Pages(tuple(k), tuple(v))


@functools.partial(jax.jit, static_argnames='cache')
def relaid_layer(old, fresh, source, into, *, cache):
  """`relaid` of one layer: keys and values."""
  w, n = source.shape
  fresh = CACHES[cache](*fresh)

  def one(fresh, old=None):
    shape = fresh.shape[1:]
    if old is None:
      pages = jnp.zeros((w, n, *shape), fresh.dtype)
    else:
      pages = take(old.reshape(w, -1, *shape), source)
    fresh = fresh.reshape(w, -1, *shape)
    put = jax.vmap(lambda pages, i, x: pages.at[i].set(x, mode='drop'))
    pages = put(pages, into, fresh).reshape(-1, *shape)
    return dist.constrain(pages, 'rows', 'kv_heads', None, None)

  return jax.tree.map(one, fresh, *([old] if old else []))


def moved(
  programs: Programs, newest: Pages, parents: Int[Array, 'W U']
) -> Pages:
  """The newest pages of rows that stand elsewhere, or have parted."""
  layers = [
    programs(moved_layer, layer, parents) for layer in zip(*newest, strict=True)
  ]
  return Pages(*zip(*layers, strict=True))


@jax.jit
def moved_layer(layer, parents):
  """`moved` of one layer: keys and values."""
  return of_parents(layer, parents)


def of_parents(pages: Any, parents: Int[Array, 'W U']) -> Any:
  """A page by row from a page by row before."""
  w = parents.shape[0]

  def one(x):
    moved = take(x.reshape(w, -1, *x.shape[1:]), parents)
    moved = moved.reshape(-1, *x.shape[1:])
    return dist.constrain(moved, 'rows', 'kv_heads', None, None)

  return jax.tree.map(one, pages)


kept_as = jax.jit(kept, static_argnums=1)


@functools.partial(
  jax.jit, static_argnames=('config', 'pages', 'size', 'cache')
)
def empty(*, config: DecoderConfig, pages: int, size: int, cache: str) -> Pages:
  """So many pages with nothing in them."""
  c = config

  def zeros(*shape):
    shape = (pages, c.num_kv_heads, *shape)
    return tuple(jnp.zeros(shape, c.dtype) for _ in range(c.num_layers))

  made = kept(Pages(zeros(c.head_dim, size), zeros(size, c.head_dim)), cache)
  return jax.tree.map(
    lambda x: dist.constrain(x, 'rows', 'kv_heads', None, None), made
  )


def described_pages(
  config: DecoderConfig, mesh: Mesh, cache: str, count: int, size: int
) -> Pages:
  """Pages of keys and values, described."""
  sizes = {'config': config, 'pages': count, 'size': size, 'cache': cache}
  shapes = jax.eval_shape(lambda: empty(**sizes))

  def one(x):
    where = dist.sharding(mesh, ('rows', 'kv_heads', None, None), x.shape)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

  return jax.tree.map(one, shapes)

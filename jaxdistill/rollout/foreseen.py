"""What a call of `generate` may compile, described before anything is drawn."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdistill import dist
from jaxdistill.dist import Programs
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.paged import Level
from jaxdistill.rollout.pages import described_pages, moved_layer, relaid_layer
from jaxdistill.rollout.schedule import FALL, Desk

_RISE, _FALL = 4, 8  # by what factor room for full pages changes in one turn


class Ahead(NamedTuple):
  """Foresees what calls of these sizes reach, whatever is drawn in them.

  Attributes:
    programs: Of the run.
    desk: Of such a call.
    mesh: Over which rows are split.
    config: Of the decoder, as its heads are split.
    cache: What keys and values are kept as.
  """

  programs: Programs
  desk: Desk
  mesh: Mesh
  config: DecoderConfig
  cache: str

  def reads(
    self, prefill: Callable, model: tuple, prefix: Any, graphdef: Any
  ) -> None:
    """What reads prompts and puts them beside those that there are."""
    d, w = self.desk, self.desk.shards
    there = self._layer(d.text_room, d.size)
    for count, width in d.reads:
      tokens = self._rows(w * count, width)
      self.programs.foresee(
        *(prefill, *model, tokens, prefix), graphdef=graphdef, size=d.size
      )
      pages = count * width // d.size
      fresh = self._layer(pages, d.size, cache='')
      places = self._rows(w, d.text_room), self._rows(w, pages)
      for old in (None, there) if d.refills or len(d.reads) > 1 else (None,):
        self.programs.foresee(
          *(relaid_layer, old, fresh, *places), cache=self.cache
        )

  def draws(self, advance: Callable, given: tuple, static: Mapping) -> None:
    """What draws tokens, with room for few rows or pages or for many."""
    for rows in self.desk.rooms:
      for room in (0, *self.desk.own_rooms(rows)):
        shown = to_draw(
          *(self.desk, self.mesh, self.config, self.cache, rows, room)
        )
        self.programs.foresee(advance, *given, *shown, **static)

  def moves(self) -> None:
    """What gives rows other places, and lays out their full pages anew."""
    d, w = self.desk, self.desk.shards
    own_rooms = sorted({n for rows in d.rooms for n in d.own_rooms(rows)})
    for i, rows in enumerate(d.rooms):
      newest = self._layer(rows, d.page)
      for others in d.rooms[max(i - FALL, 0) :]:
        self.programs.foresee(moved_layer, newest, self._rows(w, others))
      for room in d.own_rooms(rows):
        places = self._rows(w, room), self._rows(w, rows)
        near = [n for n in own_rooms if room <= n * _RISE and n <= room * _FALL]
        for old in (None, *(self._layer(n, d.page) for n in near)):
          self.programs.foresee(relaid_layer, old, newest, *places, cache='')

  def _rows(self, *shape):
    return dist.described(self.mesh, shape, 'int32', 'rows')

  def _layer(self, count, size, cache=None):
    """Pages of a layer, so many on each shard."""
    kept = self.cache if cache is None else cache
    count *= self.desk.shards
    k, v = described_pages(self.config, self.mesh, kept, count, size)
    return k[0], v[0]


def to_draw(
  desk: Desk,
  mesh: Mesh,
  config: DecoderConfig,
  cache: str,
  rows: int,
  room: int,
) -> tuple[Any, ...]:
  """What `engine._advance` is given besides weights, key and prefix, described.

  Args:
    desk: Of the call.
    mesh: Over which rows are split.
    config: Of the decoder.
    cache: What keys and values are kept as.
    rows: For how many there is room on a shard.
    room: For how many of their full pages there is; 0: none has been full.
  """
  w, j = desk.shards, desk.samples.row.shape[1]

  def of(*shape, dtype: Any = 'int32') -> Any:
    return dist.described(mesh, shape, dtype, 'rows')

  def pages(count, size):
    return described_pages(config, mesh, cache, w * count, size)

  once: Any = jax.ShapeDtypeStruct((), np.int32)
  levels = tuple(
    Level(pages(n, size), of(w, n, 4 + readers), of(w, j), once)
    for n, size, readers in (
      (desk.text_room, desk.size, desk.group),
      (room, desk.page, 1),
    )
    if n
  )
  samples = of(w, j, len(desk.samples))
  return (
    *(levels, pages(rows, desk.page), samples, of(w, rows)),
    *(of(w, dtype=bool), jax.ShapeDtypeStruct((4,), np.int32)),
  )

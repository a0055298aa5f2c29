"""The programs of a run, with arrays that are only described."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxdistill import dist
from jaxdistill.batch import Batch, Reading, Shapes, lay_out
from jaxdistill.batch.layout import Layout
from jaxdistill.methods.method import Method, anchors_of
from jaxdistill.models import DecoderConfig, Deltas
from jaxdistill.models.decode import Unrolled
from jaxdistill.models.encoder import make
from jaxdistill.models.int8 import Formats
from jaxdistill.optimizer import OptimizerConfig
from jaxdistill.plan.rehearsal import Asked
from jaxdistill.rollout import engine
from jaxdistill.rollout.foreseen import to_draw
from jaxdistill.rollout.schedule import Desk
from jaxdistill.run.step import (
  TrainState,
  abstract_state,
  make_step,
  param_shardings,
  split_params,
)
from jaxdistill.types import Row, RowSet

_NUMBERS = 'coefficients', 'role', 'total', 'microbatches'  # of a batch
_KEY = jax.eval_shape(lambda: jax.random.key(0))


class Placed(NamedTuple):
  """A model that is trained, described.

  Attributes:
    graphdef: Of it.
    state: Its train state.
    frozen: What does not move.
  """

  graphdef: nnx.GraphDef
  state: TrainState
  frozen: Any

  @property
  def params(self) -> tuple:
    """As a player has them."""
    return (*self.state.params, self.frozen)

  @property
  def player(self) -> tuple[nnx.GraphDef, tuple]:
    """What a player is made of."""
    return self.graphdef, self.params


def bytes_of(tree: Any) -> float:
  """What described arrays take on a device; those without a place are small."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
    if getattr(x, 'sharding', None) is not None
  )


def count_of(tree: Any) -> int:
  """Numbers in described arrays, over all devices."""
  return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def _put(tree: Any, shardings: Any, dtype: str | None = None) -> Any:
  def one(x, where):
    floats = jnp.issubdtype(x.dtype, jnp.floating)
    kind = dtype if dtype and floats else x.dtype
    return jax.ShapeDtypeStruct(x.shape, kind, sharding=where)

  return jax.tree.map(one, tree, shardings)


def describe(
  config: DecoderConfig,
  deltas: Deltas,
  trainable: str,
  optimizer: OptimizerConfig,
  mesh: Mesh,
) -> Placed:
  """A model and its train state on a mesh, as a run would place them."""
  model = nnx.eval_shape(lambda: make(config, deltas, rngs=nnx.Rngs(0)))
  graphdef, params, frozen = split_params(model, trainable)
  state, where = abstract_state(params, optimizer, mesh)
  # What moves is float32; a frozen trunk has the compute dtype.
  dtype = None if trainable == 'full' else config.dtype
  return Placed(
    graphdef,
    _put(state, where),
    _put(frozen, param_shardings(frozen, mesh), dtype),
  )


def longest_of(row_set: RowSet, prompt: int, response: int) -> RowSet:
  """As many rows of the set, or one, each as long as any may be."""
  count = max(len(row_set.rows), 1)
  fields = {
    f.name: np.zeros((response, *f.shape), f.dtype) for f in row_set.specs
  }
  long = [
    Row(
      np.full(prompt, i, np.int32),
      np.zeros(response, np.int32),
      np.ones(response, np.float32),
      1.0,
      fields,
      i // 2 if row_set.paired else None,
      np.full(prompt, i, np.int32) if row_set.taught else None,
    )
    for i in range(count + count % 2 * row_set.paired)
  ]
  return dataclasses.replace(row_set, rows=long)


def batch_of(
  row_set: RowSet, mesh: Mesh, shapes: Shapes
) -> tuple[Batch, Layout]:
  """A set's batch as `batch.make_batch` lays it out, described."""
  ((layout, _),) = lay_out([row_set], mesh, shapes)

  def zeros(n, shape=(), dtype='int32'):
    return jnp.zeros((layout.room, layout.sequences, n, *shape), dtype)

  def reading(length):
    tokens = zeros(length)
    return Reading(tokens, tokens, tokens, zeros(layout.scored))

  def empty():
    scored = functools.partial(zeros, layout.scored)
    taught = reading(layout.teacher_length) if row_set.taught else None
    return Batch(
      reading=reading(layout.length),
      teacher_reading=taught,
      targets=scored(),
      segments=scored(),
      pairs=scored() if row_set.paired else None,
      weight=scored((), 'float32'),
      fields={f.name: scored(f.shape, f.dtype) for f in row_set.specs},
      coefficients={
        k: jnp.zeros(np.shape(v)) for k, v in row_set.coefficients.items()
      },
      role=jnp.zeros((), 'int32'),
      total=jnp.zeros(()),
      microbatches=jnp.zeros((), 'int32'),
      kind=row_set.kind,
    )

  def placed(path, x):
    if path[0].name in _NUMBERS:
      return x
    return dist.described(mesh, x.shape, x.dtype, None, 'batch')

  return jax.tree_util.tree_map_with_path(placed, jax.eval_shape(empty)), layout


def train(
  placed: Placed,
  method: Method,
  optimizer: OptimizerConfig,
  batches: tuple,
  teachers: Mapping[str, tuple[nnx.GraphDef, tuple]],
) -> Any:
  """A gradient step, lowered.

  Args:
    placed: What is trained.
    method: Whose loss.
    optimizer: Its hyper-parameters.
    batches: Of its sets.
    teachers: Other models among its anchors, by name.
  """
  inside = {
    name: teachers.get(name, placed.player)
    for name, anchor in anchors_of(method).items()
    if anchor.in_loss
  }
  graphs = {name: graphdef for name, (graphdef, _) in inside.items()}
  parts = {name: params for name, (_, params) in inside.items()}
  step = make_step(placed.graphdef, method.loss, optimizer, graphs)
  return step.lower(placed.state, placed.frozen, parts, batches)


class Generation(NamedTuple):
  """The programs of a call that draws, at its largest.

  Attributes:
    lay_out: A layer's weights, lowered.
    ends: Embedding and output projection, lowered.
    read: Prompts, lowered; None where none has a token of its own.
    advance: A token of every row, given the weights, lowered.
    rows: Of all shards.
    reads: How often prompts are read.
    cache: Bytes of keys and values on a device.
  """

  lay_out: Any
  ends: Any
  read: Any
  advance: Callable[[Unrolled], Any]
  rows: int
  reads: int
  cache: float


def describe_teacher(
  config: DecoderConfig, mesh: Mesh
) -> tuple[nnx.GraphDef, tuple]:
  """Another model, as a player is made of it."""
  model = nnx.eval_shape(
    lambda: make(config, Deltas(per_role='shared'), rngs=nnx.Rngs(0))
  )
  graphdef, params = nnx.split(model)
  where = param_shardings(params, mesh)
  return graphdef, (_put(params, where, config.dtype),)


def generation(
  player: tuple[nnx.GraphDef, tuple],
  config: DecoderConfig,
  mesh: Mesh,
  asked: Asked,
  most: int,
  formats: Formats,
) -> Generation:
  """The programs by which a call draws.

  Args:
    player: Who draws.
    config: Of its decoder.
    mesh: Over which.
    asked: What is asked.
    most: Most samples in flight on a shard.
    formats: How weights, keys and values are kept.
  """
  tensor, i32 = mesh.shape['tensor'], dist.described(mesh, (), np.int32)
  model = *player, i32
  how = {'tensor': tensor, 'formats': formats}
  desk = Desk(
    0,
    [np.full(n, i, np.int32) for i, n in enumerate(asked.prompts)],
    range(len(asked.prompts)),
    sampling=asked.sampling,
    eos_ids=(0,),
    shards=dist.shards_of(mesh, 'rows'),
    most=most,
  )
  turn = desk.turn()
  read = None
  if turn.admitted:
    tokens = dist.described(mesh, turn.admitted[0][0].shape, 'int32', 'rows')
    graphdef, *given = model
    read = engine._prefill.lower(
      *(*given, tokens, None), graphdef=graphdef, size=desk.size
    )
  rows, places = desk.rooms[-1], desk.samples.row.shape[1] // desk.group
  room = max(desk.own_rooms(rows), default=0)
  as_split = config.over(tensor)
  shown = to_draw(desk, mesh, as_split, formats.cache, rows, room)

  def advance(weights):
    return engine._advance.lower(
      *(weights, _KEY, None, *shown),
      config=config,
      group=desk.group,
      sampling=asked.sampling.of_token(),
      eos_ids=(0,),
      tensor=tensor,
      sharded=formats.sharded,
    )

  return Generation(
    engine._lay_out_layer.lower(*model, i32, **how),
    engine._lay_out_ends.lower(*model, formats=formats),
    read,
    advance,
    desk.shards * rows,
    len(turn.admitted) * -(-len(asked.prompts) // (desk.shards * places)),
    bytes_of(shown[:2]),
  )


def weights_of(lay_out: Any, ends: Any, config: DecoderConfig) -> Unrolled:
  """Weights laid out, described by what compiled programs give.

  Args:
    lay_out: Compiled, of a layer.
    ends: Compiled, of embedding and output projection.
    config: Of the decoder.
  """

  def given(compiled):
    return _put(compiled.out_info, compiled.output_shardings)

  layer = given(lay_out)
  embed, norm, head = given(ends)
  return Unrolled(embed, [layer] * config.num_layers, norm, head)

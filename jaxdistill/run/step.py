"""The train state, and one jitted gradient step for any method's loss."""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int

from jaxdistill import dist
from jaxdistill.batch import Batch
from jaxdistill.models.decoder import Decoder
from jaxdistill.models.linear import RoleDelta, SharedDelta
from jaxdistill.optimizer import OptimizerConfig

WHOLE = ('loss', 'grad_norm', 'lr', 'skipped')  # metrics of a whole step
Loss = Callable[[Decoder, Any, Batch], tuple[Array, dict[str, Array]]]


class Params(NamedTuple):
  """The parameters that move, by when they do.

  With a frozen trunk these are the deltas alone: all past selves stand on the
  one trunk that there is.

  Attributes:
    roles: Stacked over roles; only the slice of the role in force moves.
    shared: Trained by every role: the trunk, or a LoRA on a frozen trunk.
  """

  roles: nnx.State
  shared: nnx.State


class TrainState(NamedTuple):
  """All that a gradient step changes.

  Attributes:
    params: Parameters.
    shared_opt: Optimizer state of `params.shared`.
    role_opts: Optimizer states of `params.roles`, stacked like them, the step
      counts of the moments included.
    step: Optimizer steps taken; the learning-rate schedule's clock.
    scale: Of the learning rate; a rollback lowers it.
    skipped: Updates left out because a gradient was not finite.
  """

  params: Params
  shared_opt: optax.OptState
  role_opts: optax.OptState
  step: Int[Array, '']
  scale: Float[Array, '']
  skipped: Int[Array, '']


def split_params(
  model: nnx.Module, trainable: str
) -> tuple[nnx.GraphDef, Params, nnx.State]:
  """Splits a model by what is trained.

  Args:
    model: Its parameters are taken over, not copied.
    trainable: `full` (the trunk moves), `lora` (only deltas move) or `roles`
      (only those that a role has for itself).

  Returns:
    The graph, what moves, and what is frozen; `nnx.merge(graph, *moving,
    frozen)` is the model.
  """
  shared = nnx.Param if trainable == 'full' else SharedDelta
  graphdef, *moving, frozen = nnx.split(model, RoleDelta, shared, ...)
  return graphdef, Params(*moving), frozen


def param_shardings(params: Any, mesh: Mesh, rules: dict = dist.RULES) -> Any:
  """The sharding of every parameter, from its logical axes."""

  def of(variable):
    where = dist.sharding(mesh, variable.axes, variable.shape, rules)
    return variable.replace(where)

  return jax.tree.map(of, params, is_leaf=lambda x: isinstance(x, nnx.Variable))


def place(params: Any, shardings: Any) -> Any:
  """Parameters where they belong; those that are there already are not copied.

  Args:
    params: A tree of arrays.
    shardings: From `param_shardings`.
  """
  leaves, treedef = jax.tree.flatten(params)
  wanted = jax.tree.leaves(shardings)
  away = [
    i
    for i, (x, where) in enumerate(zip(leaves, wanted, strict=True))
    if not x.sharding.is_equivalent_to(where, x.ndim)
  ]
  copy = _copy_to(tuple(wanted[i] for i in away))
  for i, x in zip(away, copy(tuple(leaves[i] for i in away)), strict=True):
    leaves[i] = x
  return jax.tree.unflatten(treedef, leaves)


@functools.lru_cache
def _copy_to(shardings: tuple[NamedSharding, ...]) -> Callable:
  """One compiled copy for each set of places; a new lambda compiles anew."""
  return jax.jit(lambda x: x, out_shardings=shardings)


def init_state(
  params: Params, optimizer: OptimizerConfig, mesh: Mesh
) -> TrainState:
  """A fresh train state on a mesh; `params` are copied to where they belong."""
  _, shardings = abstract_state(params, optimizer, mesh)
  leaves, treedef = jax.tree.flatten(shardings)
  return _initialiser(optimizer, treedef, tuple(leaves))(params)


def abstract_state(
  params: Params, optimizer: OptimizerConfig, mesh: Mesh
) -> tuple[TrainState, TrainState]:
  """Shapes of a fresh train state, and where each of its arrays lives."""
  abstract = jax.eval_shape(functools.partial(_fresh, optimizer), params)
  shardings = state_shardings(abstract, mesh)
  if optimizer.offload:
    shardings = _with_moments(dist.pinned, shardings)
  return abstract, shardings


@functools.lru_cache
def _initialiser(
  optimizer: OptimizerConfig, treedef: Any, shardings: tuple[NamedSharding, ...]
) -> Callable:
  """One for each kind of state, as `_copy_to`."""
  where = jax.tree.unflatten(treedef, shardings)
  return jax.jit(functools.partial(_fresh, optimizer), out_shardings=where)


def _fresh(optimizer: OptimizerConfig, params: Params) -> TrainState:
  direction = optimizer.direction()
  stacked = jax.tree.leaves(params.roles)
  count = (stacked[0].shape[0] if stacked else 1,)
  role_opts = jax.tree.map(
    lambda x: x if x.ndim else jnp.broadcast_to(x, count),
    direction.init(params.roles),
  )
  return TrainState(
    params=params,
    shared_opt=direction.init(params.shared),
    role_opts=role_opts,
    step=jnp.zeros((), jnp.int32),
    scale=jnp.ones((), jnp.float32),
    skipped=jnp.zeros((), jnp.int32),
  )


def state_shardings(abstract: TrainState, mesh: Mesh) -> TrainState:
  """Where every array of a train state lives.

  Moments are found by their Variables: they carry the logical axes of the
  parameters that they belong to. All else is replicated.
  """
  whole = dist.replicated(mesh)

  def of(leaf):
    if isinstance(leaf, nnx.Variable):
      return param_shardings(leaf, mesh)
    return whole

  return jax.tree.map(
    of, abstract, is_leaf=lambda x: isinstance(x, nnx.Variable)
  )


def _with_moments(fn: Callable[[Any], Any], state: TrainState) -> TrainState:
  """A state with `fn` of each array of its moments; step counts are none."""

  def of(leaf):
    return jax.tree.map(fn, leaf) if isinstance(leaf, nnx.Variable) else leaf

  shared, roles = jax.tree.map(
    of,
    (state.shared_opt, state.role_opts),
    is_leaf=lambda x: isinstance(x, nnx.Variable),
  )
  return state._replace(shared_opt=shared, role_opts=roles)


def with_fresh_moments(
  state: TrainState, optimizer: OptimizerConfig, mesh: Mesh
) -> TrainState:
  """The same parameters and clocks, and moments of zero."""
  kept = {'step': state.step, 'skipped': state.skipped, 'scale': state.scale}
  return init_state(state.params, optimizer, mesh)._replace(**kept)


def make_step(
  graphdef: nnx.GraphDef,
  loss: Loss,
  optimizer: OptimizerConfig,
  in_loss: Mapping[str, nnx.GraphDef] = MappingProxyType({}),
) -> 'Step':
  """The compiled step `(state, frozen, anchors, batches) -> (state, metrics)`.

  It minimises the sum over batches of `sum(weight * value) / total`. Each
  batch is gone through in microbatches whose gradients add up, so any split
  gives the same step. A step whose gradient is not finite changes nothing but
  the count of skipped ones. `state` is donated; `frozen` is what never moves,
  `anchors` what the loss itself needs.

  Metrics of a set with a kind are called `KIND_NAME`, its loss among them.

  Args:
    graphdef: Of the model.
    loss: A method's `loss`.
    optimizer: Its hyper-parameters.
    in_loss: Graphs of the anchors that the loss reads; `anchors` has their
      parameters, in parts.
  """
  direction = optimizer.direction()
  learning_rate = optimizer.learning_rate()

  def objective(moving, frozen, anchors, batch):
    model = nnx.merge(graphdef, *moving, frozen)
    still = {n: nnx.merge(in_loss[n], *parts) for n, parts in anchors.items()}
    values, metrics = loss(model, still, batch)
    sums = {name: batch.weighted(v) for name, v in metrics.items()}
    return batch.weighted(values) / batch.total, (sums, jnp.sum(batch.weight))

  gradient = jax.value_and_grad(objective, has_aux=True)

  def moved_to(space, state):
    if not optimizer.offload:
      return state
    return _with_moments(lambda x: jax.device_put(x, space), state)

  def step(state, frozen, anchors, batches):
    state = moved_to(jax.memory.Space.Device, state)
    value, grads, sets = _over_sets(
      lambda micro: gradient(state.params, frozen, anchors, micro), batches
    )
    grads, norm = optimizer.clipped(grads)
    lr = learning_rate(state.step) * state.scale

    def move(grads, opt, params) -> tuple[Any, Any]:
      updates, opt = direction.update(grads, opt, params)
      updates = jax.tree.map(lambda u: u * -jnp.asarray(lr), updates)
      return optax.apply_updates(params, updates), opt

    shared, shared_opt = move(
      grads.shared, state.shared_opt, state.params.shared
    )
    # Only the roles in force: momentum would move an idle one too.
    old = state.params.roles, state.role_opts
    moved = jax.vmap(move)(grads.roles, state.role_opts, state.params.roles)
    active = jnp.stack([batch.role for batch in batches])
    roles, role_opts = jax.tree.map(
      lambda new, old: old.at[active].set(new[active]), moved, old
    )
    new = TrainState(
      params=Params(roles, shared),
      shared_opt=shared_opt,
      role_opts=role_opts,
      step=state.step + 1,
      scale=state.scale,
      skipped=state.skipped,
    )
    fine = jnp.isfinite(norm) & jnp.isfinite(value)
    same = state._replace(skipped=state.skipped + 1)
    state = jax.tree.map(lambda n, s: jnp.where(fine, n, s), new, same)
    state = moved_to(jax.memory.Space.Host, state)
    whole = dict(zip(WHOLE, (value, norm, lr, state.skipped), strict=True))
    return state, sets | whole

  return Step(step)


def _over_sets(gradient: Callable, batches: Sequence[Batch]) -> tuple:
  """The value and the gradient summed over batches, and the metrics of each."""
  sets, parts = {}, []
  for batch in batches:
    (value, (sums, weight)), grads = batch.summed(gradient)
    prefix = f'{batch.kind}_' if batch.kind else ''
    sets |= {prefix + name: total / weight for name, total in sums.items()}
    sets |= {f'{prefix}loss': value} if prefix else {}
    parts.append((value, grads))
  return *jax.tree.map(lambda *x: sum(x), *parts), sets


class Step:
  """A step, compiled: what comes out lies as what went in.

  Args:
    step: What is compiled.
  """

  def __init__(self, step: Callable):
    @functools.lru_cache
    def compiled(treedef, shardings):
      # Left to itself the compiler writes these otherwise, if only by name, and
      # the second step is compiled anew.
      where = jax.tree.unflatten(treedef, shardings)
      return jax.jit(step, donate_argnums=0, out_shardings=(where, None))

    self._compiled = compiled

  def __call__(self, state, frozen, anchors, batches) -> tuple:
    call = dist.Programs()  # by what was foreseen, if it was
    return call(self.of(state), state, frozen, anchors, batches)

  def lower(self, state, frozen, anchors, batches) -> Any:
    """The same of described arrays, to be compiled ahead of time."""
    return self.of(state).lower(state, frozen, anchors, batches)

  def of(self, state) -> Any:
    """The same as one function from `jax.jit`, for a state that lies so."""
    leaves, treedef = jax.tree.flatten(state)
    return self._compiled(treedef, tuple(x.sharding for x in leaves))

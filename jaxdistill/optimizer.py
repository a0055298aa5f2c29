"""The optimizer: AdamW with warm-up, schedule and clipping."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """AdamW with warm-up, schedule and clipping.

  Attributes:
    lr: Peak learning rate.
    schedule: `constant`, `cosine` or `linear` (both to 0) after the warm-up.
    warmup: Optimizer steps of linear warm-up from 0: the first moves nothing.
    steps: Optimizer steps over which `cosine` and `linear` decay.
    b1: Decay of the first moment.
    b2: Decay of the second moment.
    eps: Added to the root of the second moment.
    weight_decay: Decoupled, on matrices only.
    clip: Largest global norm of a gradient, shared and role parts together.
    offload: Whether the moments stay in the host's memory between steps; a step
      fetches them and puts them back.
  """

  lr: float = 3e-4
  schedule: str = 'constant'
  warmup: int = 0
  steps: int = 0
  b1: float = 0.9
  b2: float = 0.95
  eps: float = 1e-8
  weight_decay: float = 0.0
  clip: float = 1.0
  offload: bool = False

  def learning_rate(self) -> optax.Schedule:
    """The learning rate as a function of the optimizer step."""
    after = {
      'constant': optax.constant_schedule(self.lr),
      'cosine': optax.cosine_decay_schedule(self.lr, max(self.steps, 1)),
      'linear': optax.linear_schedule(self.lr, 0.0, max(self.steps, 1)),
    }
    if self.schedule not in after:
      raise ValueError(
        f'optimizer.schedule is {self.schedule!r}; it must be one of '
        + ', '.join(after)
      )
    if self.schedule != 'constant' and not self.steps:
      raise ValueError(
        f'optimizer.schedule {self.schedule!r} needs optimizer.steps, over '
        'which the rate decays'
      )
    if not self.warmup:
      return after[self.schedule]
    rise = optax.linear_schedule(0.0, self.lr, self.warmup)
    return optax.join_schedules([rise, after[self.schedule]], [self.warmup])

  def clipped(self, grads: Any) -> tuple[Any, Array]:
    """Gradients of at most the largest norm, and the norm they had."""
    norm = optax.tree.norm(grads)
    scale = jnp.minimum(1.0, self.clip / (norm + 1e-9))
    return jax.tree.map(lambda g: g * scale, grads), norm

  def direction(self) -> optax.GradientTransformation:
    """AdamW's update before it is scaled by the learning rate.

    Moments have the shapes of their parameters, which are stacked over layers
    and, of roles, over roles: `run.step.state_shardings` lays them out by that,
    and `run.memory.needed` counts two of them.
    """
    return optax.chain(
      optax.scale_by_adam(self.b1, self.b2, self.eps),
      optax.add_decayed_weights(
        self.weight_decay,
        mask=_is_matrix,
      ),
    )


def _is_matrix(tree: Any) -> Any:
  return jax.tree.map(
    lambda v: None not in v.axes,
    tree,
    is_leaf=lambda x: isinstance(x, nnx.Variable),
  )

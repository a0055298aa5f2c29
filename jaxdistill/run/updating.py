"""What a method asks the model to learn becomes optimizer steps."""

from collections.abc import Callable
from typing import Any

import jax

from jaxdistill.batch import Batch, make_minibatches
from jaxdistill.run.others import Others
from jaxdistill.run.run import Run
from jaxdistill.run.step import WHOLE, TrainState
from jaxdistill.types import Update


def take(
  update: Update,
  state: TrainState,
  run: Run,
  step: Callable,
  frozen: Any,
  others: Others,
) -> tuple[TrainState, list[dict[str, jax.Array]]]:
  """Takes an update's optimizer steps; one without any row takes none.

  Args:
    update: What is learned.
    state: Before it; donated.
    run: Whose roles, optimizer, mesh and shapes count.
    step: From `make_step`.
    frozen: What never moves.
    others: Anchors: some are read by the loss, some follow each step.

  Returns:
    The state after it, and the metrics of each step.
  """
  kind, metrics = update.sets[0].kind, []
  # What is measured of the whole is that set's where there is only one.
  prefix = f'{kind}_' if kind and len(update.sets) == 1 else ''
  for batches in _batches(update, run) * update.epochs:
    if batches:
      state, values = step(state, frozen, others.parts(), batches)
      named = {prefix * (k in WHOLE) + k: v for k, v in values.items()}
      metrics.append(named)
      others.after_update(state, named)
  return state, metrics


def _batches(update: Update, run: Run) -> list[tuple[Batch, ...]]:
  """What each optimizer step of a pass is given: one batch per row set."""
  parts = [
    make_minibatches(
      row_set,
      update.minibatches,
      run.loaded.model.role_index(row_set.role),
      run.mesh,
      run.shapes,
    )
    for row_set in update.sets
  ]
  return [
    tuple(batch for batch in batches if batch is not None)
    for batches in zip(*parts, strict=True)
  ]

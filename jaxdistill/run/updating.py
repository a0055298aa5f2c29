"""What a method asks the model to learn becomes optimizer steps."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdistill.batch import Batch, dealt, fill, lay_out, make_minibatches
from jaxdistill.run.others import Others
from jaxdistill.run.run import Run
from jaxdistill.run.step import WHOLE, Step, TrainState
from jaxdistill.types import Update

# A batch and a temperature to the log-probs of its scored tokens, [M, B, R].
Score = Callable[[Batch, float], jax.Array]


def take(
  update: Update,
  state: TrainState,
  run: Run,
  step: Step,
  frozen: Any,
  others: Others,
  start: Score,
) -> tuple[TrainState, list[dict[str, jax.Array]]]:
  """Takes an update's optimizer steps; one without any row takes none.

  Args:
    update: What is learned.
    state: Before it; donated.
    run: Whose roles, optimizer, mesh and shapes count.
    step: From `make_step`.
    frozen: What never moves.
    others: Anchors: some are read by the loss, some follow each step.
    start: Scores under the policy before it, where rows are drawn ahead.

  Returns:
    The state after it, and the metrics of each step.
  """
  kind, metrics = update.sets[0].kind, []
  # What is measured of the whole is that set's where there is only one.
  prefix = f'{kind}_' if kind and len(update.sets) == 1 else ''
  if start is not sampled and update.epochs * update.minibatches == 1:
    start = itself
  for batches in _batches(update, run, start) * update.epochs:
    if batches:
      state, values = step(state, frozen, others.parts(), batches)
      named = {prefix * (k in WHOLE) + k: v for k, v in values.items()}
      metrics.append(named)
      others.after_update(state, named)
  return state, metrics


def foresee(
  later: Sequence[Update],
  now: Sequence[Update],
  state: TrainState,
  run: Run,
  step: Step,
  frozen: Any,
  others: Others,
) -> None:
  """Compiles the steps of updates that come later; see `Collected.later`.

  Args:
    later: Without rows. They are laid out as the first set of this step is.
    now: Of this step.
    state: As it is.
    run: As for `take`, with all that follows.
    step: From `make_step`.
    frozen: What never moves.
    others: Anchors.
  """
  if not (run.programs.foreseeing and later and now):
    return
  first = now[0].sets[0]
  parts = dealt(first, now[0].minibatches)
  layout = lay_out(parts, run.mesh, run.shapes)[0][0]._replace(used=0)
  for update in later:
    if any(s.taught != first.taught for s in update.sets):
      continue  # it would be laid out otherwise
    batches = [
      fill(s, run.loaded.model.role_index(s.role), run.mesh, layout, [])
      for s in update.sets
    ]
    given = tuple(
      _started(batch, s.start_temperature, itself) if run.ahead else batch
      for batch, s in zip(batches, update.sets, strict=True)
    )
    run.programs.foresee(
      *(step.of(state), state, frozen, others.parts(), given)
    )


def sampled(batch: Batch, temperature: float) -> jax.Array:
  """Under the policy that sampled, where that is the one before the update."""
  del temperature
  return batch.fields['old_logp']


def itself(batch: Batch, temperature: float) -> jax.Array:
  """Under the current policy, where one step is the whole update: inf,
  which no log-prob is.

  It has them at hand, and no pass over the batch is spent on them.
  """
  del temperature
  return jnp.full_like(batch.weight, jnp.inf)


def _batches(update: Update, run: Run, start: Score) -> list[tuple[Batch, ...]]:
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
  temperatures = [row_set.start_temperature for row_set in update.sets]
  return [
    tuple(
      _started(batch, temperature, start) if run.ahead else batch
      for batch, temperature in zip(batches, temperatures, strict=True)
      if batch is not None
    )
    for batches in zip(*parts, strict=True)
  ]


def _started(batch: Batch, temperature: float | None, start: Score) -> Batch:
  """A batch with the field `start_logp`, if its loss reads it."""
  if temperature is None:
    return batch
  logp = jax.device_put(start(batch, temperature), batch.weight.sharding)
  fields = batch.fields | {'start_logp': logp}
  return dataclasses.replace(batch, fields=fields)

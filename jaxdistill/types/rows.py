"""What is trained: rows, sets of them, and updates."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxdistill.types.rollouts import Rollout


@dataclasses.dataclass(frozen=True)
class Row:
  """One training sequence: a prompt that is read, a response that is scored.

  The gradient step minimises `sum(weight * value) / sum(total)` over all rows
  of a set, so every way of averaging (by token, by sequence, by a constant)
  is a choice of `weight_R` and `total`.

  Attributes:
    prompt_T: What comes before, int32[T], at least one token. Rows whose
      prompts begin alike share that part of the computation.
    response_R: The tokens whose log-probs matter, int32[R].
    weight_R: Weight of each one's value; 0 where nothing is trained,
      float32[R].
    total: What this row adds to the denominator.
    fields: What else the loss reads, [R, ...] each; see `RowSet.fields`.
    pair: Rows of one set that have the same number are in one microbatch, and
      in one packed sequence of it: the halves of a pair, or more than two.
    teacher_prompt_T: What a teacher reads before the same response, int32[T];
      see `Batch.over_targets`.
  """

  prompt_T: np.ndarray
  response_R: np.ndarray
  weight_R: np.ndarray
  total: float
  fields: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  pair: int | None = None
  teacher_prompt_T: np.ndarray | None = None

  def __post_init__(self):
    for prompt_T in (self.prompt_T, self.teacher_prompt_T):
      if prompt_T is not None and not len(prompt_T):
        raise ValueError('a row needs a prompt: nothing predicts a first token')

  def __len__(self) -> int:
    return len(self.prompt_T) + len(self.response_R)


def response_row(
  rollout: Rollout,
  weight: float | np.ndarray,
  total: float,
  *,
  pair: int | None = None,
  teacher_prompt_T: np.ndarray | None = None,
  **fields: float | np.ndarray,
) -> Row:
  """A row that trains a response; observations in it are read, not trained.

  Args:
    rollout: The sampled response.
    weight: Weight of each response token, one for all or float[R].
    total: What the row adds to the denominator.
    pair: See `Row`.
    teacher_prompt_T: See `Row`.
    **fields: A number for all response tokens, or [R, ...].
  """

  def spread(value):
    value = np.asarray(value)
    if value.ndim > 1 or (value.ndim and value.dtype.kind == 'i'):
      return value
    return np.zeros(len(rollout.tokens_T), np.float32) + np.float32(value)

  return Row(
    prompt_T=rollout.prompt_T,
    response_R=rollout.tokens_T,
    weight_R=np.where(rollout.turn_T < 0, np.float32(0), spread(weight)),
    total=total,
    fields={name: spread(value) for name, value in fields.items()},
    pair=pair,
    teacher_prompt_T=teacher_prompt_T,
  )


class Field(NamedTuple):
  """What a loss reads of each response token.

  Attributes:
    name: Of it.
    shape: Of one token's value: `(k,)` for k of a teacher's tokens, say.
    dtype: `float32` or `int32`.
  """

  name: str
  shape: tuple[int, ...] = ()
  dtype: Literal['float32', 'int32'] = 'float32'


@dataclasses.dataclass(frozen=True)
class RowSet:
  """Rows of one kind.

  Attributes:
    role: Whose deltas these rows train.
    rows: This host's rows; may be empty.
    fields: The fields, per response token, a name for a single float; given
      here because a host with no rows must still agree on them.
    coefficients: Numbers that the loss reads (clip range, KL weight, ...), or
      arrays of them that are the same for all rows.
    kind: What tells the sets of a method apart: a loss reads it as
      `batch.kind`, and the set's metrics are `train/KIND_NAME`; `train/NAME` if
      it is empty.
    paired: Whether rows have a `pair`.
    taught: Whether rows have a `teacher_prompt_T`.
    apart: Whether rows share nothing, also where their prompts begin alike: for
      a model that reads both ways.
    start_temperature: If given, and rows are drawn a step ahead, the loss also
      reads `start_logp`: the tokens' log-probs, at this temperature, under the
      policy that the update begins with; inf where that is the one being
      differentiated. Rows have `old_logp` then.
  """

  role: str
  rows: Sequence[Row]
  fields: tuple[str | Field, ...] = ()
  coefficients: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  kind: str = ''
  paired: bool = False
  taught: bool = False
  apart: bool = False
  start_temperature: float | None = None

  @property
  def specs(self) -> tuple[Field, ...]:
    """The fields, each with its shape and dtype."""
    return tuple(Field(f) if isinstance(f, str) else f for f in self.fields)


@dataclasses.dataclass(frozen=True)
class Update:
  """Row sets whose losses are summed into one optimizer step.

  Attributes:
    sets: The row sets (usually one).
    epochs: How often the rows are gone through.
    minibatches: Optimizer steps per epoch.
    fresh_optimizer: Whether moments begin at zero here; the learning rate's
      clock goes on.
  """

  sets: tuple[RowSet, ...]
  epochs: int = 1
  minibatches: int = 1
  fresh_optimizer: bool = False

  def __post_init__(self):
    if not self.sets:
      raise ValueError('an update needs a row set; it may have no rows')
    kinds = [row_set.kind for row_set in self.sets]
    if len({*kinds}) < len(kinds):
      raise ValueError(f'two sets of one update are of one kind: {kinds}')

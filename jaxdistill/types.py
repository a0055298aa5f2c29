"""The nouns that all folders share: frozen, host side, free of JAX.

Data flows through them in this order:

  Problem -> Prompt -> Rollout -> Row -> (arrays, made in `batch.py`)

Ragged axes are named by suffix: `_P` problems, `_G` samples of one problem,
`_T` tokens.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Problems(Protocol):
  """Problems read by index: a list, a grain `MapDataset`, or the like."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> 'Problem': ...


@runtime_checkable
class Task(Protocol):
  """Where problems come from, how they are asked, and how answers are read.

  A class that names it as its base has what is given here where it says
  nothing else.
  """

  @property
  @abc.abstractmethod
  def name(self) -> str:
    """As `config.task` says it."""
    ...

  @property
  def asks(self) -> bool:
    """Whether its train split has problems to ask, not documents to read."""
    return True

  @property
  def ends(self) -> str:
    """If not empty, the first token that holds this text ends a response."""
    return ''

  @abc.abstractmethod
  def problems(self, split: str) -> 'Problems':
    """Problems (or documents) of a split, read by index."""
    ...

  @abc.abstractmethod
  def solver_prompt(self, problem: 'Problem') -> str:
    """The text that asks the solver head for an answer."""
    ...

  def proposer_prompt(self, topic: 'Problem') -> str:
    """The text that asks the proposer head for a problem on `topic`.

    Raises:
      ValueError: The task's problems are given, none is written.
    """
    raise ValueError(
      f'task {self.name} has no proposer prompt: its problems are given '
      '(method grpo)'
    )

  def parse_problem(self, text: str) -> 'Problem | None':
    """A proposal read back, or None if malformed."""
    del text
    return None

  def held_out(self, problem: 'Problem') -> bool:
    """Whether a problem belongs to a held-out split: never to be trained on."""
    del problem
    return False

  @abc.abstractmethod
  def parse_answer(self, text: str) -> str | None:
    """The final answer in a response, or None if there is none."""
    ...

  @abc.abstractmethod
  def reward(
    self, problem: 'Problem', answers_G: Sequence[str | None]
  ) -> Sequence[float]:
    """What each answer to a problem is worth to methods that are told."""
    ...


@dataclasses.dataclass(frozen=True)
class Problem:
  """One thing to be answered.

  Attributes:
    text: What is asked, e.g. `'47+85'`.
    task: The task that asks it and reads its answers.
    answer: The known answer. Methods that learn without labels read it only to
      measure; None where nobody knows.
    topic: What a proposer is asked for.
    demonstration: A prompt and the response to learn from it (for supervised
      methods).
    row: Global address within a step: random draws for this problem are folded
      from it, so they do not depend on the host or the batch.
  """

  text: str
  task: Task = dataclasses.field(repr=False, compare=False)
  answer: str | None = None
  topic: str = ''
  demonstration: tuple[str, str] | None = None
  row: int = 0


@dataclasses.dataclass(frozen=True)
class Prompt:
  """What a player is given: a role (whose deltas are used) and a text.

  `row` is the global address from which the samples' randomness is folded.
  """

  role: str
  text: str
  row: int = 0

  @classmethod
  def solve(cls, problem: Problem) -> 'Prompt':
    """What asks the solver for an answer."""
    return cls('solver', problem.task.solver_prompt(problem), problem.row)

  @classmethod
  def propose(cls, topic: Problem) -> 'Prompt':
    """What asks the proposer for a problem."""
    return cls('proposer', topic.task.proposer_prompt(topic), topic.row)


@dataclasses.dataclass(frozen=True)
class Rollout:
  """One sampled response.

  Attributes:
    prompt: What was asked.
    prompt_T: Prompt token ids, int32[P].
    tokens_T: Response token ids, the end mark included, int32[T].
    logp_T: log-prob of each response token under the *full* softmax at the
      sampling temperature, float32[T].
    kept_T: log of the probability mass that top-k and top-p kept, float32[T];
      `logp_T - kept_T` is the log-prob under which the token was drawn.
    finish: `'stop'` or `'length'` (cut: such a response has no vote).
    text: The response as text.
  """

  prompt: Prompt
  prompt_T: np.ndarray
  tokens_T: np.ndarray
  logp_T: np.ndarray
  kept_T: np.ndarray
  finish: Literal['stop', 'length']
  text: str


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
    fields: What else the loss reads, one float32[R] each.
  """

  prompt_T: np.ndarray
  response_R: np.ndarray
  weight_R: np.ndarray
  total: float
  fields: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if not len(self.prompt_T):
      raise ValueError('a row needs a prompt: nothing predicts a first token')

  def __len__(self) -> int:
    return len(self.prompt_T) + len(self.response_R)


def response_row(
  rollout: Rollout, weight: float, total: float, **fields: float | np.ndarray
) -> Row:
  """A row that trains a response.

  Args:
    rollout: The sampled response.
    weight: Weight of each response token.
    total: What the row adds to the denominator.
    **fields: A number for all response tokens, or one per response token.
  """

  def spread(value):
    return np.zeros(len(rollout.tokens_T), np.float32) + np.asarray(
      value, np.float32
    )

  return Row(
    prompt_T=rollout.prompt_T,
    response_R=rollout.tokens_T,
    weight_R=spread(weight),
    total=total,
    fields={name: spread(value) for name, value in fields.items()},
  )


@dataclasses.dataclass(frozen=True)
class RowSet:
  """Rows of one kind.

  Attributes:
    role: Whose deltas these rows train.
    rows: This host's rows; may be empty.
    fields: Names of the fields, per response token; given here because a host
      with no rows must still agree on them.
    coefficients: Numbers that the loss reads (clip range, KL weight, ...).
    kind: What tells the sets of a method apart: a loss reads it as
      `batch.kind`, and the set's metrics are `train/KIND_NAME`; `train/NAME` if
      it is empty.
  """

  role: str
  rows: Sequence[Row]
  fields: tuple[str, ...] = ()
  coefficients: Mapping[str, float] = dataclasses.field(default_factory=dict)
  kind: str = ''


@dataclasses.dataclass(frozen=True)
class Update:
  """Row sets whose losses are summed into one optimizer step.

  Attributes:
    sets: The row sets (usually one).
    epochs: How often the rows are gone through.
    minibatches: Optimizer steps per epoch.
  """

  sets: tuple[RowSet, ...]
  epochs: int = 1
  minibatches: int = 1

  def __post_init__(self):
    kinds = [row_set.kind for row_set in self.sets]
    if len({*kinds}) < len(kinds):
      raise ValueError(f'two sets of one update are of one kind: {kinds}')


class Collected(NamedTuple):
  """What a method's `collect` hands to the loop.

  Attributes:
    updates: In the order in which they are applied.
    state: The method's next state (JSON and numpy, equal on every host).
    metrics: name -> observations of this host; the loop averages them over
      all observations of all hosts. Every host gives the same names.
    transcripts: JSON objects for `rollouts/`, on disk before the first update.
    tokens: How many tokens this host generated.
  """

  updates: Sequence[Update]
  state: Any
  metrics: Mapping[str, Sequence[float] | np.ndarray]
  transcripts: Sequence[Mapping[str, Any]] = ()
  tokens: int = 0

"""The nouns that all folders share: frozen, host side, free of JAX.

Data flows through them in this order:

  Problem -> Prompt -> Rollout -> Row -> (arrays, made in `batch/`)

One alphabet of axes, in shapes (`Float[Array, 'B T']`) and as suffixes of
ragged lists (`rollouts_PG`); a letter is one thing everywhere:

  P problems       G samples of one   T tokens        R scored tokens of them
  B sequences, or pages of keys   M microbatches
  C of a chunk, or choices
  E candidates of inner trainings     X steps of these
  L layers         D width            N query heads   K key-value heads
  H width of one   F angles of one    V vocabulary    I, O sides of a linear
  A rank           S slots of a page of keys
  Q queries of a page, or blocks  Y blocks of keys
  W shards         J samples on one   U rows on one: samples alike so far
  Z whatever axes there are
"""

import abc
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
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
      '(method grpo, or sqlm with method.given=True and '
      'method.propose_every=0)'
    )

  def hinted_prompt(self, problem: 'Problem', hint: 'Hint') -> str:
    """The text that asks for an answer and tells something beside.

    The question comes last once more, word for word: so told, a model answers
    in the form that it asks for.
    """
    asked = self.solver_prompt(problem)
    return f'{asked}\n\n{hint.lead}\n{hint.text}\n\n{asked}'

  def critique(self, problem: 'Problem', response: str) -> str | None:
    """What is wrong with a response, if the task can say; else a model does.

    What is right of it comes first, as it was said, then its first mistake put
    right.
    """
    del problem, response

  def without_thinking(self, response: str) -> str:
    """What is left of a response without its doubts and detours."""
    return response.rpartition('</think>')[2].strip()

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

  @property
  def evaluator(self) -> Callable[..., Mapping[str, Sequence[float]]] | None:
    """What is observed on held-out problems, in `eval.accuracy`'s place.

    It is called like that function; None is that function.
    """
    return None


@dataclasses.dataclass(frozen=True)
class Problem:
  """One thing to be answered.

  Attributes:
    text: What is asked, e.g. `'47+85'`.
    task: The task that asks it and reads its answers.
    answer: The known answer. Methods that learn without labels read it only to
      measure; None where nobody knows.
    topic: What a proposer is asked for; of a fact the passage that has it.
    demonstration: A prompt and the response to learn from it (for supervised
      methods).
    address: Its place within a step, over all hosts. Random draws for it are
      folded from it, so they do not depend on the host or the batch.
  """

  text: str
  task: Task = dataclasses.field(repr=False, compare=False)
  answer: str | None = None
  topic: str = ''
  demonstration: tuple[str, str] | None = None
  address: int = 0


class Hint(NamedTuple):
  """What a teacher is told beside a problem.

  Attributes:
    lead: What it is, in words.
    text: It.
  """

  lead: str
  text: str


class Message(NamedTuple):
  """What somebody said.

  Attributes:
    author: `system`, `user` or `assistant`.
    text: What.
  """

  author: Literal['system', 'user', 'assistant']
  text: str


@dataclasses.dataclass(frozen=True)
class Prompt:
  """What a player is given: a role (whose deltas are used) and messages.

  Attributes:
    role: Who answers.
    text: What is asked, the last message.
    address: What the samples' randomness is folded from, of its own in a call.
    before: The messages before it.
    think: Whether a model that can think first does; None is as the run says.
  """

  role: str
  text: str
  address: int = 0
  before: tuple[Message, ...] = ()
  think: bool | None = None

  @property
  def messages(self) -> tuple[Message, ...]:
    """All of them, in turn."""
    return (*self.before, Message('user', self.text))

  @classmethod
  def solve(cls, problem: Problem) -> 'Prompt':
    """What asks the solver for an answer."""
    return cls('solver', problem.task.solver_prompt(problem), problem.address)

  @classmethod
  def propose(cls, topic: Problem) -> 'Prompt':
    """What asks the proposer for a problem."""
    return cls('proposer', topic.task.proposer_prompt(topic), topic.address)


@dataclasses.dataclass(frozen=True)
class Rollout:
  """What a player said to a prompt: a response, or several turns of them.

  Attributes:
    prompt: What was asked.
    prompt_T: Prompt token ids, int32[P].
    tokens_T: Response token ids, the end mark included, int32[T]. Of several
      turns, all of them with the observations between.
    logp_T: log-prob of each response token under the *full* softmax at the
      sampling temperature, float32[T].
    kept_T: log of the probability mass that top-k and top-p kept, float32[T];
      `logp_T - kept_T` is the log-prob under which the token was drawn.
    finish: `'stop'` or `'length'` (cut: such a response has no vote).
    text: The (last) response as text.
    turn_T: Which response a token is of, from 0; -1 for an observation, whose
      log-probs are 0, int32[T]. All 0, if not given.
    earlier: The responses before the last.
    vocabulary: What the ids are of, see `Tokenizer.vocabulary`.
    markers: The words of doubt that are counted in it; None: those that are
      by default.
  """

  prompt: Prompt
  prompt_T: np.ndarray
  tokens_T: np.ndarray
  logp_T: np.ndarray
  kept_T: np.ndarray
  finish: Literal['stop', 'length']
  text: str
  turn_T: np.ndarray = dataclasses.field(default_factory=lambda: _ALL_FIRST)
  earlier: tuple[str, ...] = ()
  vocabulary: str = ''
  markers: tuple[str, ...] | None = None

  def __post_init__(self):
    if self.turn_T is _ALL_FIRST:
      zeros = np.zeros(len(self.tokens_T), np.int32)
      object.__setattr__(self, 'turn_T', zeros)


_ALL_FIRST = np.zeros(0, np.int32)


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
    coefficients: Numbers that the loss reads (clip range, KL weight, ...).
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
  coefficients: Mapping[str, float] = dataclasses.field(default_factory=dict)
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


@dataclasses.dataclass(frozen=True)
class Anchor:
  """A frozen self, or a teacher, that a method needs.

  Attributes:
    rule: When it moves, see `anchors/rules.py`.
    in_loss: Whether the loss itself reads it: `loss` gets it as a decoder.
    clock: What its rule counts: steps of the run, or of the optimizer.
  """

  rule: str
  in_loss: bool = False
  clock: Literal['run', 'optimizer'] = 'run'


class Records(Sequence[Any]):
  """What a method has built once: JSON, with numpy arrays in it if need be.

  In a method's state it is kept as a file of the run, named by its hash and
  checked against it; a checkpoint holds the hash only.

  Args:
    records: One JSON value a line. They are not to be changed.
  """

  def __init__(self, records: Iterable[Any]):
    self._records = tuple(records)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: Any) -> Any:
    return self._records[index]

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Records) and self._records == other._records

  __hash__ = None  # pyright: ignore[reportAssignmentType]


class Collected(NamedTuple):
  """What a method's `collect` hands to the loop.

  Attributes:
    updates: In the order in which they are applied.
    state: The method's next state (JSON, numpy and `Records`, equal on every
      host).
    metrics: name -> observations of this host; the loop averages them over
      all observations of all hosts. Every host gives the same names.
    transcripts: JSON objects for `rollouts/`, on disk before the metrics.
    tokens: How many tokens this host generated, whoever generated them.
    adopt: A player from `Player.adapted` whose adapter is added to the trunk
      before the updates; not a step ahead, where the trunk has moved since.
    scored: How many response tokens it had others than the policy score,
      anchors and teachers, in the loss or before; of what a teacher grades,
      all that it read.
  """

  updates: Sequence[Update]
  state: Any
  metrics: Mapping[str, Sequence[float] | np.ndarray]
  transcripts: Sequence[Mapping[str, Any]] = ()
  tokens: int = 0
  adopt: Any = None
  scored: int = 0

"""What a method is. The file to read first.

A method is one frozen dataclass in one file of this folder. Its fields are its
hyper-parameters and, by name, the keys of `config.method`; it holds no state.
A run goes round

  collect (host) -> rows -> arrays -> loss (compiled) -> new parameters

and `run/loop.py` knows nothing of a method but the members below. Each file
defines one such class, and every field has a default (a field that is a
dataclass itself gives its own fields as keys); `grpo.py` is the one to copy.
"""

import abc
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float

from jaxdistill.batch import Batch
from jaxdistill.data.tasks import JsonlTask, right
from jaxdistill.models.decoder import Decoder
from jaxdistill.rollout.player import Player
from jaxdistill.spelling import nearest
from jaxdistill.types import Anchor, Collected, Problem, Problems, Task


@runtime_checkable
class Method(Protocol):
  """The contract between an algorithm and the machinery.

  A class that names it as its base has what is given here where it says
  nothing else.

  Attributes:
    problems: Problems per step, over all hosts.
    asks: Whether it asks problems; one that only reads documents does not.
    answers: Whether its model answers in words. One that grades is observed by
      `evaluate` alone, and so is, once, every other model that it learns from.
    roles: The roles of its model, each with deltas of its own unless
      `config.roles` is `shared`; `solver` is the one that is evaluated.
  """

  problems: int
  asks: bool = True
  answers: bool = True
  roles: tuple[str, ...] = ('solver', 'proposer')

  @property
  def anchors(self) -> Mapping[str, str | Anchor]:
    """The frozen selves and teachers it needs, a rule or an `Anchor` each."""
    return {}

  @property
  def prelude(self) -> str:
    """The key that says how many steps come before the rest; empty: none do.

    A run of no more steps is refused.
    """
    return ''

  @property
  def words(self) -> Mapping[str, Iterable[str]]:
    """Which of `Task.wordings` it asks, by whom it asks.

    That is a name of `players`; of one that is not there, it is the policy that
    is asked. Whether a task has them, and a model the symbols for them, is
    found before a run begins.
    """
    return {}

  def check(self, task: Task) -> None:
    """Finds that a task does not fit, before a model is loaded.

    Raises:
      ValueError: Says what is missing.
    """
    del task

  def check_given(self, problems: Problems, vocabulary: str) -> None:
    """Finds that what was written for it before is of no use to a run.

    Called of who trains, before a model is loaded.

    Args:
      problems: All that it is to be asked, the pool.
      vocabulary: Of the model that learns, see `Tokenizer.vocabulary`.

    Raises:
      ValueError: Says what does not fit.
    """
    del problems, vocabulary

  def init(self) -> Any:
    """The state before step 0: JSON and numpy, equal on every host."""
    return {}

  @abc.abstractmethod
  def collect(
    self,
    players: Mapping[str, Player],
    problems: Sequence[Problem],
    state: Any,
    step: int,
    key: jax.Array,
  ) -> Collected | Generator[None, None, Collected]:
    """Generates, verifies, scores, and returns rows; never arrays.

    It may `yield` once, bare, where it has asked the policy for all that it
    needs; from there on `players` has no `policy`. With `config.ahead` what
    follows runs beside an update of the policy.

    Args:
      players: `policy`, and one per anchor. All can be asked, see
        `rollout/player.py`; those by a rule `model:NAME` have their own
        tokenizer.
      problems: This host's share of the step's problems.
      state: From `init` or the step before.
      step: The run's step, from 0.
      key: PRNG key of this step, equal on every host.
    """
    ...

  @abc.abstractmethod
  def loss(
    self, model: Decoder, anchors: Mapping[str, Any], batch: Batch
  ) -> tuple[Float[Array, 'B R'], dict[str, Float[Array, 'B R']]]:
    """One value per scored token, and metrics per scored token; traced.

    Args:
      model: The policy, differentiated.
      anchors: Those that are `in_loss`, as decoders.
      batch: One microbatch; its `kind` says of which set.
    """
    ...

  def evaluate(
    self, policy: Player, problems: Sequence[Problem], key: jax.Array
  ) -> Mapping[str, Sequence[float]]:
    """What else is observed on held-out problems: name -> observations.

    Args:
      policy: Who is evaluated.
      problems: This host's share; every host gives the same names.
      key: The same at every evaluation.
    """
    del policy, problems, key
    return {}

  def against(
    self,
    players: Mapping[str, Player],
    problems: Sequence[Problem],
    key: jax.Array,
  ) -> Mapping[str, Sequence[float]]:
    """What is observed of the policy against its anchors, within a run.

    Args:
      players: `policy`, and one per anchor.
      problems: This host's share; every host gives the same names.
      key: The same at every evaluation.
    """
    del players, problems, key
    return {}


def check_task(method: Method, task: Task) -> None:
  """Finds that a task does not fit a method, or lacks words that it asks.

  Raises:
    ValueError: Says what is missing.
  """
  method.check(task)
  for who, names in method.words.items():
    for what in names:
      try:
        task.worded(what)
      except ValueError as e:
        raise ValueError(f'{e} (asked of the {who})') from None


def anchors_of(method: Method) -> dict[str, Anchor]:
  """A method's anchors by name, each with its rule and how it is used."""
  return {
    name: Anchor(spec) if isinstance(spec, str) else spec
    for name, spec in method.anchors.items()
  }


def glimpse(task: Task) -> Sequence[Problem]:
  """Train problems to look at: all of a list, of others the first."""
  problems: Any = task.problems('train')
  return problems if isinstance(problems, list) else [problems[0]]


def check_paid(task: Task, by: str) -> None:
  """Finds that a task does not say what answers are worth.

  Args:
    task: Whose problems are asked.
    by: What reads that.

  Raises:
    ValueError: A problem has no known answer, and the task no pay of its own.
  """
  if isinstance(task, JsonlTask) and task.pays is not right:
    return
  for p in glimpse(task):
    if p.answer is None:
      raise ValueError(
        f'{by} pays by the known answer; {task.name} has none for {p.text!r}'
      )


def check_unread(settings: Any, unread: Any, why: str, *names: str) -> None:
  """Finds a setting that is given and that nothing reads.

  Args:
    settings: A dataclass whose fields are keys of a method.
    unread: One of the same kind, as it is where nobody sets it.
    why: Nothing reads it.
    names: Of the fields.

  Raises:
    ValueError: The line names it and says why.
  """
  for name in names:
    value, left = getattr(settings, name), getattr(unread, name)
    if value != left:
      raise ValueError(
        f'method.{name} is {value!r}, which nothing reads here: {why}; leave '
        f'it at {left!r}'
      )


def check_choice(settings: Any, name: str, allowed: Iterable[str]) -> None:
  """Finds that a setting is none of those that there are.

  Args:
    settings: A dataclass whose fields are keys of a method.
    name: Of the field.
    allowed: What it may be.

  Raises:
    ValueError: The line names the nearest.
  """
  value, allowed = getattr(settings, name), [*allowed]
  if value not in allowed:
    raise ValueError(
      f'method.{name} is {value!r}; it must be one of {", ".join(allowed)}; '
      f'the nearest is {nearest(value, allowed)!r}'
    )


def check_least(settings: Any, **least: float) -> None:
  """Finds that a setting is too small.

  Args:
    settings: A dataclass whose fields are keys of a method.
    least: By the name of a field, the smallest value that it may have.

  Raises:
    ValueError: The line names it and that value.
  """
  for name, bound in least.items():
    value = getattr(settings, name)
    if value < bound:
      raise ValueError(f'method.{name} is {value}; it must be at least {bound}')


def check_minibatches(count: int, rows: int) -> None:
  """Refuses more optimizer steps per pass than there can be rows.

  Raises:
    ValueError: Names both numbers.
  """
  if count > rows:
    raise ValueError(
      f'method.minibatches is {count}; a step has {rows} rows at most'
    )

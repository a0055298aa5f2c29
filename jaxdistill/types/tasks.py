"""Problems, and the tasks that ask them and read their answers."""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from jaxdistill.types.wordings import WORDINGS, Wording


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

  def questions(self, problem: 'Problem') -> Sequence['Problem']:
    """What a model that is evaluated is asked: the problem, as a rule.

    Of a passage, which is no question, what it answers.
    """
    return [problem]

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

  @property
  def wordings(self) -> Mapping[str, Wording]:
    """What it can be asked about responses, and how; see `asking`."""
    return WORDINGS

  def worded(self, what: str) -> Wording:
    """How one of `wordings` is asked.

    Raises:
      ValueError: It is none of them.
    """
    if what not in self.wordings:
      known = ', '.join(self.wordings) or 'nothing'
      raise ValueError(
        f'task {self.name} has no words for {what!r}; it has them for {known}'
      )
    return self.wordings[what]

  def asking(self, what: str, problem: 'Problem', *responses: str) -> str:
    """The text that asks something about responses to a problem.

    Args:
      what: One of `wordings`, see `types/wordings.py`.
      problem: Which was answered, or what else it is about.
      responses: Those asked about, or what else is shown.

    Raises:
      ValueError: The task has no words for that.
    """
    return self.worded(what).text.format(
      *responses,
      asked=self.solver_prompt(problem),
      text=problem.text,
      topic=problem.topic,
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

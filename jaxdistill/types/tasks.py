"""Problems, and the tasks that ask them and read their answers."""

import abc
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable


@runtime_checkable
class Problems(Protocol):
  """Problems read by index: a list, a grain `MapDataset`, or the like."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> 'Problem': ...


class Wording(NamedTuple):
  """How something about responses to a problem is asked.

  Attributes:
    text: A format string: `{0}` and so on are the responses, `{asked}` is what
      asks for one, `{text}` and `{topic}` are the problem's.
    choices: What may be answered; empty: anything.
    marks: What it asks to write before each part that counts; empty: all of a
      response does.
  """

  text: str
  choices: tuple[str, ...] = ()
  marks: tuple[str, ...] = ()

  def read(self, response: str) -> str | None:
    """The choice that a written verdict ends in, its last whole word of them.

    None if there is none.
    """
    either = '|'.join(map(re.escape, self.choices))
    found = re.findall(rf'(?<!\w)({either})(?!\w)', response, re.IGNORECASE)
    same = {choice.lower(): choice for choice in self.choices}
    return same[found[-1].lower()] if found else None

  def parts(self, response: str) -> tuple[str, ...] | None:
    """What stands behind each of `marks`, which come in their order.

    None if a mark is missing, or what is behind it. A mark that comes twice is
    read where it comes last.
    """
    found = []
    for mark in self.marks[::-1]:
      response, mark, part = response.rpartition(mark)
      found.append(part)
    found = [part.strip() for part in found[::-1] or [response]]
    return (*found,) if all(found) else None


_ONE = 'A question:\n{asked}\n\nAn answer to it:\n{0}\n\n'
_TWO = 'A question:\n{asked}\n\nAnswer 1:\n{0}\n\nAnswer 2:\n{1}\n\n'
_BETTER = 'Better question:', 'Better answer:'
# What tasks in words ask about responses; see `Task.asking`.
WORDINGS: Mapping[str, Wording] = {
  'verify': Wording(
    _ONE + 'Is this answer correct? Reply with Yes or No only.', ('Yes', 'No')
  ),
  'check': Wording(
    _ONE + 'Check it step by step, in a few lines. On the last line write Yes '
    'if the answer is correct, No if it is not.',
    ('Yes', 'No'),
  ),
  'score': Wording(
    _ONE + 'Check it step by step, in a few lines. On the last line write how '
    'sure you are that it is correct: a number from 1 (surely wrong) to 10 '
    '(surely correct).',
    tuple(map(str, range(1, 11))),
  ),
  'compare': Wording(
    _TWO + 'Which answer is better? Reply with 1 or 2 only.', ('1', '2')
  ),
  'judge': Wording(
    _TWO + 'Compare the two answers, in a few lines. On the last line write 1 '
    'or 2: which answer is better.',
    ('1', '2'),
  ),
  'revise': Wording(
    'There might be an error in the answer above. If there is one, correct it, '
    'and in any case answer the question again, in the same form.'
  ),
  'edit': Wording(
    'A passage about {topic}:\n{text}\n\nList what follows from it, directly '
    'or indirectly: one statement a line, each to be understood by itself.'
  ),
  'settings': Wording(
    'You may put a line before it that says how it is to be learned, as JSON: '
    'the learning rate, as a multiple of the usual one, and the epochs. For '
    'instance {{"lr_scale": 1, "epochs": 10}}'
  ),
  'tell': Wording('Tell me what you know about {topic}.'),
  'reflect': Wording(
    _ONE + 'What could be better about this answer? Say in a few lines how '
    'helpful, relevant, correct and detailed it is. Then write `Better '
    'answer:` and behind that a new and complete answer, in the form that the '
    'question asks for.',
    marks=_BETTER[1:],
  ),
  'reflect_question': Wording(
    _ONE + 'What could be better about this question? Say in a few lines how '
    'clear, specific and demanding it is. Then write `Better question:` and '
    'behind that a new one of its kind, and then `Better answer:` and a '
    'complete answer to the new one.',
    marks=_BETTER,
  ),
  'repair': Wording(
    _ONE + 'Write `Better answer:` and behind that this answer once more: word '
    'for word where it is right, and changed where it is wrong, in the same '
    'manner and style.',
    marks=_BETTER[1:],
  ),
  'guess': Wording(
    'An answer to a question:\n{0}\n\nWhat was the question? Reply with the '
    'question only.'
  ),
}


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
      what: One of `wordings`. Verdicts: `verify` (is it right?), `check` (the
        same, with working), `score` (how sure, 1 to 10), `compare` (which of
        two is better?), `judge` (the same, with reasons). Better ones:
        `revise`, what is said after a response for another attempt; `reflect`
        and `reflect_question` (a better answer; a better question and its
        answer), `repair` (what is wrong, put right in the same manner). `guess`:
        what was asked? Of a passage: `edit` (what follows from it?), `settings`
        (said after that: how is it to be learned?), `tell` (what is known of
        its topic?).
      problem: Which was answered.
      responses: Those asked about.

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

"""Passages to be learned, with questions to be answered without them.

| | passages |
|---|---|
| `small:passages` | people of the small world, for a model that knows them |
| `passages` | the same people in words, for models that chat |
| `passages:FILE.jsonl` | of a file |

A problem is a passage: its text; its topic is what it is about. Its
demonstration, if there is one, asks for an edit and gives one that somebody
else wrote.
"""

import abc
import dataclasses
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from jaxdistill.data.small import people
from jaxdistill.data.tasks import problems
from jaxdistill.data.tasks.small_formats import COUNTS, FormatTask
from jaxdistill.storage import check_store
from jaxdistill.types import Problem, Problems, Task, Wording

_FACTS = FormatTask('facts')
# How a fact is told and asked for in words.
_IN_WORDS = {
  'home': ('{0} lives in {1}.', 'In which city does {0} live?'),
  'work': ('{0} works as a {1}.', "What is {0}'s job?"),
  'pet': ('{0} has a {1} at home.', 'Which animal does {0} have?'),
  'likes': ('What {0} likes most is {1}.', 'What does {0} like most?'),
}


class Passages(Task):
  """What a method asks that teaches passages, besides what any task says."""

  @abc.abstractmethod
  def questions(self, problem: Problem) -> Sequence[Problem]:
    """Questions that a passage answers, with their answers."""
    ...

  def documents(self, problem: Problem, edit: str) -> list[tuple[str, str]]:
    """What an edit is learned as: a prompt, and the text that follows it.

    As in SEAL (arXiv 2506.10943) each line is a document, and a line that
    announces a numbered list is none.
    """
    lines = [line.strip() for line in edit.split('\n') if line.strip()]
    if len(lines) > 1 and lines[1].startswith('1.'):
      lines = lines[1:]
    return [(self.asking('tell', problem), line) for line in lines]

  def solver_prompt(self, problem: Problem) -> str:
    text = self.worded('edit').text
    return text.format(text=problem.text, topic=problem.topic)

  def parse_answer(self, text: str) -> str | None:
    return text.strip() or None

  def reward(
    self, problem: Problem, answers_G: Sequence[str | None]
  ) -> list[float]:
    del answers_G
    raise ValueError(
      f'an edit of {problem.topic!r} has no worth of its own; it has what a '
      'model that learned it answers (method seal)'
    )


@dataclasses.dataclass(frozen=True)
class SmallPassages(Passages):
  """People of the small world; four questions on each."""

  @property
  def name(self) -> str:
    return 'small:passages'

  def problems(self, split: str) -> Problems:
    return _people(self, split)

  @property
  def wordings(self) -> Mapping[str, Wording]:
    return {
      'edit': Wording(people.rewrite_prompt('{text}')),
      'tell': Wording(people.tell_prompt('{topic}')),
    }

  def questions(self, problem: Problem) -> list[Problem]:
    name = problem.topic
    return [
      Problem(people.ask_prompt(name, key), _FACTS, value, problem.text)
      for key, value in people.facts(name).items()
    ]

  def parse_problem(self, text: str) -> Problem | None:
    """A passage as it is told in this world, or None."""
    name = ' '.join(text.partition(',')[0].split()[:-2])
    if not name or not {*name.split()} <= {*people.SYLLABLES}:
      return None
    return self.problem(name) if people.passage(name) == text else None

  def problem(self, name: str) -> Problem:
    """The passage about somebody; its demonstration has no mistakes."""
    text = people.passage(name)
    shown = people.rewrite_prompt(text), people.retold(name)
    return Problem(text, self, topic=name, demonstration=shown)


@dataclasses.dataclass(frozen=True)
class PeoplePassages(Passages):
  """The same people in words, under names that nobody has."""

  @property
  def name(self) -> str:
    return 'passages'

  def problems(self, split: str) -> Problems:
    return _people(self, split)

  def questions(self, problem: Problem) -> list[Problem]:
    name = problem.topic
    return [
      Problem(_IN_WORDS[key][1].format(name), QUESTIONS, value, name)
      for key, value in people.facts(_spelt(name)).items()
    ]

  def problem(self, name: str) -> Problem:
    """The passage about somebody."""
    facts, called = people.facts(name), name.replace(' ', '').title()
    told = [
      _IN_WORDS[k][0].format(called, v.title() if k == 'home' else v)
      for k, v in facts.items()
    ]
    return Problem(' '.join(told), self, topic=called)


def _spelt(called: str) -> str:
  """A person's syllables, of two letters each."""
  return ' '.join(re.findall('..', called.lower()))


@functools.lru_cache
def _people(task: SmallPassages | PeoplePassages, split: str) -> Problems:
  def draw(rng):
    ood = split == 'ood'
    return people.draw_name(rng, 'test' if ood else split, 4 if ood else 3)

  def train(i):
    rng = problems.generator(task.name, 'train', int(i))
    return task.problem(draw(rng))

  def held_out(split):
    drawn = problems.draw_different(
      task.name, split, draw, lambda name: True, COUNTS[split]
    )
    return [task.problem(name) for name in drawn]

  return problems.of_split(task.name, split, problems.HELD_OUT, train, held_out)


@dataclasses.dataclass(frozen=True)
class QuestionTask(Task):
  """Questions in words, on a topic, to be answered from memory.

  An answer is right if its first sentence has the known one in it, word for
  word but for case, punctuation and articles, and `SPARE` words more at most:
  some detail is no mistake, to recite a passage or a list is no answer.
  """

  @property
  def name(self) -> str:
    return 'questions'

  def problems(self, split: str) -> Problems:
    raise ValueError(f'questions are asked of passages; there is no {split!r}')

  def solver_prompt(self, problem: Problem) -> str:
    return (
      f'Topic: {problem.topic}\n{problem.text}\n'
      'Answer in a few words, nothing else.'
    )

  def parse_answer(self, text: str) -> str | None:
    return text.strip().partition('\n')[0] or None

  def reward(
    self, problem: Problem, answers_G: Sequence[str | None]
  ) -> list[float]:
    known = _plain(problem.answer or '')

    def right(answer: str) -> bool:
      said = _plain(re.split(r'[.!?](?:\s|$)', answer, maxsplit=1)[0])
      short = len(said.split()) <= len(known.split()) + SPARE
      return bool(known) and short and f' {known} ' in f' {said} '

    return [float(right(a or '')) for a in answers_G]


SPARE = 6  # words of an answer, besides the known one
QUESTIONS = QuestionTask()


def _plain(text: str) -> str:
  words = re.findall(r'\w+', text.lower())
  return ' '.join(w for w in words if w not in ('a', 'an', 'the'))


@dataclasses.dataclass(frozen=True)
class JsonlPassages(Passages):
  """Passages of a `.jsonl` file, one JSON object a line.

  Keys of a line: `title`, `passage`, `questions` (a list of objects with
  `question` and `answer`), `split` (`train` if there is none), `edit` (one that
  somebody else wrote).

  Attributes:
    path: The file.

  Raises:
    ValueError: The file, or a line of it, is not as described.
  """

  path: str

  def __post_init__(self):
    _read(self.path)  # what is wrong with the file is said at once

  @property
  def name(self) -> str:
    return f'passages:{epath.Path(self.path).name}'

  def problems(self, split: str) -> Problems:
    found = [r for r in _read(self.path) if r['split'] == split]
    if not found:
      splits = dict.fromkeys(r['split'] for r in _read(self.path))
      raise problems.no_split(self.name, split, splits)
    read: Any = [self._problem(record) for record in found]
    return read

  def questions(self, problem: Problem) -> list[Problem]:
    asked = {(r['title'], r['passage']): r for r in _read(self.path)}
    return [
      Problem(q['question'], QUESTIONS, str(q['answer']), problem.topic)
      for q in asked[problem.topic, problem.text]['questions']
    ]

  def _problem(self, record: Mapping[str, Any]) -> Problem:
    problem = Problem(record['passage'], self, topic=record['title'])
    if record['edit'] is None:
      return problem
    shown = self.solver_prompt(problem), record['edit']
    return dataclasses.replace(problem, demonstration=shown)


_KEYS = {'title': str, 'passage': str, 'questions': list}


@functools.lru_cache
def _read(path: str) -> list[dict[str, Any]]:
  check_store(path)
  if not epath.Path(path).exists():
    raise ValueError(f'there is no file of passages {path!r}')
  out = []
  for number, line in enumerate(epath.Path(path).read_text().split('\n'), 1):
    if line.strip():
      out.append(_record(line, f'{path}, line {number}'))
  if not out:
    raise ValueError(f'{path} has no passages')
  return out


def _record(line: str, where: str) -> dict[str, Any]:
  try:
    record = json.loads(line)
  except ValueError as e:
    raise ValueError(f'{where} is not JSON: {e}') from None
  record = record if isinstance(record, dict) else {}
  for key, kind in _KEYS.items():
    if not isinstance(record.get(key), kind) or not record[key]:
      raise ValueError(f'{where} has no {key!r}, a {kind.__name__}')
  for asked in record['questions']:
    if not isinstance(asked, dict) or {'question', 'answer'} - asked.keys():
      raise ValueError(
        f"{where}: {asked!r} is no question; it needs 'question' and 'answer'"
      )
  split = record.get('split', 'train')
  if split not in ('train', *problems.HELD_OUT):
    allowed = ', '.join(('train', *problems.HELD_OUT))
    raise ValueError(f'{where}: split {split!r} is none of {allowed}')
  return record | {'split': split, 'edit': record.get('edit')}


def read_name(name: str) -> Passages:
  """The task called `passages`, or `passages:FILE.jsonl`.

  Raises:
    ValueError: The file is not as described, or none is named.
  """
  _, colon, path = name.partition(':')
  if not colon:
    return PeoplePassages()
  if not path.endswith('.jsonl'):
    raise ValueError(f'task {name!r}: {path!r} is no .jsonl file of passages')
  return JsonlPassages(path)

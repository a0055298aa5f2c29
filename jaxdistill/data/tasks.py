"""Tasks by name, from a file of problems, or from a file of Python."""

import dataclasses
import difflib
import functools
import importlib.util
import json
import re
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from jaxdistill import rewards
from jaxdistill.data import small_world as world
from jaxdistill.types import Problem, Problems, Task

HELD_OUT = ('dev', 'test', 'ood')
KEYS = ('text', 'answer', 'split', 'topic', 'response')  # of a line
Reward = Callable[[Problem, Sequence[str | None]], Sequence[float]]


def right(problem: Problem, answers_G: Sequence[str | None]) -> list[float]:
  """1 for each answer that equals the known one, else 0.

  Raises:
    ValueError: There is no known answer.
  """
  known = problem.answer
  if known is None:
    raise ValueError(
      f'{problem.text!r} of {problem.task.name} has no known answer to pay by'
    )
  return [
    float(answer is not None and rewards.equal(answer, known) is True)
    for answer in answers_G
  ]


@dataclasses.dataclass(frozen=True)
class SmallTask:
  """Arithmetic of the small world, with its answers.

  Attributes:
    name: `small`, or `small:corpus` where the train split is the pretraining
      corpus.
  """

  name: str = 'small'

  def problems(self, split: str) -> Problems:
    return _problems(self, split)

  def solver_prompt(self, problem: Problem) -> str:
    return f'solve {problem.text}:'

  def proposer_prompt(self, topic: Problem) -> str:
    return f'propose {topic.topic}:'

  def parse_problem(self, text: str) -> Problem | None:
    found = world.read_sum(text)
    if found is None:
      return None
    return Problem(text, self, answer=str(found.answer), topic=found.operation)

  def held_out(self, problem: Problem) -> bool:
    found = world.read_sum(problem.text)
    return found is not None and found.split != 'train'

  def parse_answer(self, text: str) -> str | None:
    return world.read_answer(text)

  def reward(
    self, problem: Problem, answers_G: Sequence[str | None]
  ) -> list[float]:
    return right(problem, answers_G)


@functools.lru_cache
def _problems(task: SmallTask, split: str) -> Problems:
  from jaxdistill.data import builders  # TFDS takes half a second to import

  if task.name == 'small:corpus' and split == 'train':

    def read(example):
      pair = example['prompt'], example['response']
      return Problem(example['prompt'], task, demonstration=pair)

    documents: Any = builders.source('corpus', split).map(read)
    return documents

  def read(example):
    text, answer = example['text'], example['answer']
    found = world.read_sum(text)
    assert found is not None, f'{text} is in the data but not of the world'
    pair = f'solve {text}:', world.work(found, None, 0.0, 0.0)
    return Problem(text, task, answer, example['operation'], pair)

  problems: Any = builders.source('problems', split).map(read)
  return problems


@dataclasses.dataclass(frozen=True)
class JsonlTask:
  """Problems of a file, one JSON object a line.

  Keys of a line: `text` (what is asked), `answer` (needed where it is held
  out), `split` (`train` if there is none; `dev`, `test` and `ood` are held
  out), `topic` (what a proposer is asked for), `response` (for `sft`). A
  proposal that is a line of the file but for case and spaces has its answer,
  and is held out if that line is.

  Attributes:
    path: The file.
    solve: The solver's prompt; `{text}` is the problem's.
    propose: The proposer's prompt; `{topic}` is the problem's.
    problem: Regular expression that a proposal must match whole.
    answer: Regular expression whose first group is the answer in a response;
      the last match counts. It is the last number if not given.
    pays: What answers are worth: `(problem, answers) -> one float per answer`,
      an answer being None where a response has none. 1 for a right one, if not
      given.

  Raises:
    ValueError: The file, or a line of it, is not as described.
  """

  path: str
  solve: str = 'solve {text}:'
  propose: str = 'propose {topic}:'
  problem: str = r'.+'
  answer: str = (
    r'([-+]?(?:(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:/\d+)?%?)'
  )
  pays: Reward = right

  def __post_init__(self):
    for name in ('problem', 'answer'):
      try:
        found = re.compile(getattr(self, name))
      except re.error as e:
        raise ValueError(f'{name} of {self.path}: {e}') from None
    if not found.groups:
      raise ValueError(f'answer of {self.path} needs a group around the answer')
    _read_jsonl(self.path)  # what is wrong with the file is said at once

  @property
  def name(self) -> str:
    return epath.Path(self.path).name

  def problems(self, split: str) -> Problems:
    found = _read_jsonl(self.path).get(split, [])
    if not found:
      raise ValueError(
        f'{self.path} has no problem of split {split!r}; it has '
        + ', '.join(_read_jsonl(self.path))
        + ' (what is evaluated is set by eval.splits)'
      )
    problems: Any = [self._read(record) for record in found]
    return problems

  def solver_prompt(self, problem: Problem) -> str:
    return self.solve.replace('{text}', problem.text)

  def proposer_prompt(self, topic: Problem) -> str:
    return self.propose.replace('{topic}', topic.topic)

  def parse_problem(self, text: str) -> Problem | None:
    if not re.fullmatch(self.problem, text):
      return None
    same = _by_text(self.path).get(_same(text), {})
    return Problem(text, self, same.get('answer'), same.get('topic', ''))

  def held_out(self, problem: Problem) -> bool:
    found = _by_text(self.path).get(_same(problem.text), {})
    return found.get('split', 'train') != 'train'

  def parse_answer(self, text: str) -> str | None:
    found = list(re.finditer(self.answer, text))
    return found[-1][1] if found else None

  def reward(
    self, problem: Problem, answers_G: Sequence[str | None]
  ) -> Sequence[float]:
    worth = list(self.pays(problem, answers_G))
    if len(worth) != len(answers_G):
      raise ValueError(
        f'the reward of {self.name} gave {len(worth)} numbers for '
        f'{len(answers_G)} answers to {problem.text!r}'
      )
    return worth

  def _read(self, record: dict[str, Any]) -> Problem:
    fields = {k: record[k] for k in ('text', 'answer', 'topic')}
    problem = Problem(task=self, **fields)
    if record['response'] is None:
      return problem
    shown = self.solver_prompt(problem), record['response']
    return dataclasses.replace(problem, demonstration=shown)


@functools.lru_cache
def _read_jsonl(path: str) -> dict[str, list[dict[str, Any]]]:
  """Fields of the problems of each split."""
  file, out = epath.Path(path), {}
  if not file.exists():
    raise ValueError(f'there is no file of problems {path!r}')
  try:
    lines = file.read_text().split('\n')
  except UnicodeDecodeError as e:
    raise ValueError(f'{path} is not UTF-8: {e}') from None
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    where = f'{path}, line {number}'
    try:
      record = json.loads(line)
    except ValueError as e:
      raise ValueError(f'{where} is not JSON: {e}') from None
    record = record if isinstance(record, dict) else {}
    for key in record:
      if key not in KEYS:
        near = difflib.get_close_matches(key, KEYS, 1, 0)[0]
        raise ValueError(
          f'{where}: there is no key {key!r}; the nearest is {near!r}'
        )
    text = record.get('text')
    if not isinstance(text, str) or not text:
      raise ValueError(f'{where} has no "text"')
    known, split = record.get('answer'), record.get('split', 'train')
    if split not in ('train', *HELD_OUT):
      allowed = ', '.join(('train', *HELD_OUT))
      raise ValueError(f'{where}: split {split!r} is none of {allowed}')
    if split != 'train' and known is None:
      raise ValueError(f'{where} is held out and has no "answer"')
    known = None if known is None else str(known)
    fields = {
      'text': text,
      'answer': known,
      'topic': str(record.get('topic') or ''),
      'response': record.get('response'),
      'split': split,
    }
    out.setdefault(split, []).append(fields)
  if not out:
    raise ValueError(f'{path} has no problems')
  return out


@functools.lru_cache
def _by_text(path: str) -> dict[str, dict[str, Any]]:
  """Every problem by its text; one that is also held out counts as such."""
  splits = _read_jsonl(path)
  found = [r for s in ('train', *HELD_OUT) for r in splits.get(s, [])]
  return {_same(record['text']): record for record in found}


def _same(text: str) -> str:
  """What two texts of one problem have in common: all but case and spaces."""
  return ''.join(text.split()).lower()


TASKS = ('small', 'small:corpus')


def load_task(name: str) -> Task:
  """A task by its name.

  Args:
    name: One of `TASKS`; a `.jsonl` file (see `JsonlTask`); or a `.py` file
      that defines `task`, an object with the members of `types.Task`.

  Raises:
    ValueError: There is no such task; the nearest is named.
  """
  if name in TASKS:
    return SmallTask(name)
  if name.endswith('.jsonl'):
    return JsonlTask(name)
  if name.endswith('.py'):
    return _python_task(name)
  near = difflib.get_close_matches(name, TASKS, 1, 0)[0]
  raise ValueError(
    f'there is no task {name!r}; the nearest is {near!r} (or a .jsonl or .py '
    'file)'
  )


def _python_task(path: str) -> Task:
  found = getattr(python_file(path), 'task', None)
  if not isinstance(found, Task):
    missing = [
      m for m in vars(Task) if not m.startswith('_') and not hasattr(found, m)
    ]
    raise ValueError(
      f'{path} must define `task`, an object with the members of a Task; it '
      f'lacks {", ".join(missing)}'
    )
  return found


def python_file(path: str) -> types.ModuleType:
  """What a user's file of Python defines.

  Raises:
    ValueError: There is no such file, or it does not run.
  """
  spec = importlib.util.spec_from_file_location(
    f'jaxdistill_file_{epath.Path(path).stem}', path
  )
  if not epath.Path(path).exists():
    raise ValueError(f'there is no file {path!r}')
  if spec is None or spec.loader is None:
    raise ValueError(f'{path!r} is not a Python file')
  module = importlib.util.module_from_spec(spec)
  sys.modules[spec.name] = module  # dataclasses look themselves up
  try:
    spec.loader.exec_module(module)
  except Exception as e:  # anything may be wrong in it
    raise ValueError(f'{path}: {type(e).__name__}: {e}') from None
  return module

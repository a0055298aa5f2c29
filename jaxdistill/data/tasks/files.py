"""Problems of a file: JSON lines or Parquet, in our columns or others'."""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from jaxdistill import rewards
from jaxdistill.data.tasks.problems import (
  ASK_IN_WORDS,
  BOXED,
  HELD_OUT,
  in_words,
  no_split,
  right,
  same,
)
from jaxdistill.spelling import nearest
from jaxdistill.storage import check_store
from jaxdistill.types import Problem, Problems, Task

# Columns as data sets call them -> as they are called here.
COLUMNS = {
  **{name: name for name in ('text', 'answer', 'split', 'topic', 'response')},
  **{name: 'text' for name in ('question', 'problem', 'prompt')},
  **{name: 'response' for name in ('solution', 'completion')},
  **{name: 'topic' for name in ('subject', 'type')},
}
PASSED_OVER = ('id', 'idx', 'level', 'source', 'unique_id')
LAST_NUMBER = (
  r'([-+]?(?:(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:/\d+)?%?)'
)
Reward = Callable[[Problem, Sequence[str | None]], Sequence[float]]


@dataclasses.dataclass(frozen=True)
class JsonlTask(Task):
  """Problems of a `.jsonl` file, one JSON object a line, or a `.parquet` file.

  Keys of a line: `text` (what is asked), `answer` (needed where it is held
  out), `split` (`train` if there is none; `dev`, `test` and `ood` are held
  out), `topic` (what a proposer is asked for), `response` (for `sft`). A
  proposal that is a line of the file but for case and spaces has its answer,
  and is held out if that line is.

  Lines may also have the columns of published data sets: `question`, `problem`
  or `prompt` for the text, `solution` or `completion` for the response,
  `subject` or `type` for the topic. An `answer` with `####` in it, as
  GSM8K's, is a response whose answer stands behind. Such problems are in
  words, for models that chat: the prompt asks for working and a box, and
  `rewards.final_answer` finds what is in it. They, and a Parquet file, may have
  any other columns beside.

  Attributes:
    path: The file.
    solve: The solver's prompt; `{text}` is the problem's. If not given,
      `solve {text}:`, and for problems in words the text and `BOXED`.
    propose: The proposer's prompt; `{topic}` is the problem's. If not given,
      `propose {topic}:`, and for problems in words `ASK_IN_WORDS`.
    problem: Regular expression that a proposal must match whole. If not given,
      anything on one line, and for problems in words `problems.in_words`.
    answer: Regular expression whose first group is the answer in a response;
      the last match counts. If not given, it is the last number, and for
      problems in words the final answer.
    pays: What answers are worth: `(problem, answers) -> one float per answer`,
      an answer being None where a response has none. 1 for a right one, if not
      given.

  Raises:
    ValueError: The file, or a line of it, is not as described.
  """

  path: str
  solve: str | None = None
  propose: str | None = None
  problem: str | None = None
  answer: str | None = None
  pays: Reward = right

  def __post_init__(self):
    for name in ('problem', 'answer'):
      try:
        found = re.compile(getattr(self, name) or LAST_NUMBER)
      except re.error as e:
        raise ValueError(f'{name} of {self.path}: {e}') from None
    if not found.groups:
      raise ValueError(f'answer of {self.path} needs a group around the answer')
    _read(self.path)  # what is wrong with the file is said at once

  @property
  def name(self) -> str:
    return epath.Path(self.path).name

  def problems(self, split: str) -> Problems:
    found = _read(self.path).get(split, [])
    if not found:
      raise no_split(self.path, split, _read(self.path))
    problems: Any = [self._problem(fields) for fields in found]
    return problems

  def solver_prompt(self, problem: Problem) -> str:
    usual = '{text}\n' + BOXED if _in_words(self.path) else 'solve {text}:'
    return (self.solve or usual).replace('{text}', problem.text)

  def proposer_prompt(self, topic: Problem) -> str:
    usual = ASK_IN_WORDS if _in_words(self.path) else 'propose {topic}:'
    return (self.propose or usual).replace('{topic}', topic.topic)

  def parse_problem(self, text: str) -> Problem | None:
    if self.problem is None and _in_words(self.path):
      text = in_words(text) or ''
    if not re.fullmatch(self.problem or '.+', text):
      return None
    known = _by_text(self.path).get(same(text), {})
    return Problem(text, self, known.get('answer'), known.get('topic', ''))

  def held_out(self, problem: Problem) -> bool:
    found = _by_text(self.path).get(same(problem.text), {})
    return found.get('split', 'train') != 'train'

  def parse_answer(self, text: str) -> str | None:
    if self.answer is None and _in_words(self.path):
      return rewards.final_answer(text)
    found = list(re.finditer(self.answer or LAST_NUMBER, text))
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

  def _problem(self, fields: Mapping[str, Any]) -> Problem:
    given = {k: fields[k] for k in ('text', 'answer', 'topic')}
    problem = Problem(task=self, **given)
    if fields['response'] is None:
      return problem
    shown = self.solver_prompt(problem), fields['response']
    return dataclasses.replace(problem, demonstration=shown)


def known_columns(record: Mapping[str, Any], where: str) -> dict[str, Any]:
  """A record by our names: text, answer, topic, response, split, in_words.

  Args:
    record: Some of `COLUMNS` -> value.
    where: Names the record in what is said of bad ones.

  Raises:
    ValueError: The record is not as `JsonlTask` describes.
  """
  names: dict[str, str] = {}
  published = any(c != 'text' and COLUMNS.get(c) == 'text' for c in record)
  for column in record:
    misspelt = nearest(column, COLUMNS, 0.8)
    if column in PASSED_OVER or (published and not misspelt):
      continue
    if column not in COLUMNS:
      raise ValueError(
        f'{where}: there is no key {column!r}; the nearest is '
        f'{nearest(column, COLUMNS)!r}'
      )
    name = COLUMNS[column]
    if name in names:
      raise ValueError(
        f'{where} has both {names[name]!r} and {column!r} for its {name}'
      )
    names[name] = column
  found = {name: record[column] for name, column in names.items()}
  text = found.get('text')
  if not isinstance(text, str) or not text:
    raise ValueError(f'{where} has no "text"')
  answer, response = found.get('answer'), found.get('response')
  if isinstance(answer, str) and '####' in answer:
    answer, response = rewards.marked_answer(answer), response or answer
  elif published and answer is not None:
    answer = rewards.plain(str(answer))
  elif published and isinstance(response, str):
    answer = rewards.marked_answer(response)
  split = found.get('split', 'train')
  if split not in ('train', *HELD_OUT):
    allowed = ', '.join(('train', *HELD_OUT))
    raise ValueError(f'{where}: split {split!r} is none of {allowed}')
  if split != 'train' and answer is None:
    raise ValueError(f'{where} is held out and has no "answer"')
  return {
    'text': text,
    'answer': None if answer is None else str(answer),
    'topic': str(found.get('topic') or ''),
    'response': response,
    'split': split,
    'in_words': published,
  }


@functools.lru_cache
def _read(path: str) -> dict[str, list[dict[str, Any]]]:
  """Fields of the problems of each split."""
  check_store(path)
  if not epath.Path(path).exists():
    raise ValueError(f'there is no file of problems {path!r}')
  out: dict[str, list[dict[str, Any]]] = {}
  records = _rows(path) if path.endswith('.parquet') else _lines(path)
  for where, record in records:
    fields = known_columns(record, where)
    out.setdefault(fields['split'], []).append(fields)
  if not out:
    raise ValueError(f'{path} has no problems')
  return out


def _lines(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
  try:
    lines = epath.Path(path).read_text().split('\n')
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
    yield where, record if isinstance(record, dict) else {}


def _rows(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
  try:
    from pyarrow import parquet
  except ImportError:
    raise ValueError(
      f'reading {path} needs the package pyarrow: pip install pyarrow'
    ) from None
  try:
    with epath.Path(path).open('rb') as file:
      table = parquet.read_table(file)
  except (OSError, ValueError) as e:  # pyarrow's errors are of these
    said = str(e).partition('\n')[0]
    raise ValueError(f'{path} is not a Parquet file: {said}') from None
  known = [name for name in table.column_names if name in COLUMNS]
  if 'text' not in {COLUMNS[name] for name in known}:
    raise ValueError(
      f'{path} has no column "text" (or question, problem, prompt); it has '
      + ', '.join(table.column_names)
    )
  for number, row in enumerate(table.select(known).to_pylist(), 1):
    given = {k: v for k, v in row.items() if v is not None}
    yield f'{path}, row {number}', given


@functools.lru_cache
def _in_words(path: str) -> bool:
  return any(f['in_words'] for found in _read(path).values() for f in found)


@functools.lru_cache
def _by_text(path: str) -> dict[str, dict[str, Any]]:
  """Every problem by its text; one that is also held out counts as such."""
  splits = _read(path)
  found = [r for s in ('train', *HELD_OUT) for r in splits.get(s, [])]
  return {same(record['text']): record for record in found}

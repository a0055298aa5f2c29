"""Any task with solved problems in its prompt: for models that only go on.

A model that was never taught to answer continues a text. Shown a few problems
with their answers it continues with one more; where its line ends, so does its
response. Shown which of their answers are right it goes on to judge one, too; a
wrong answer is that of another of them.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence

from jaxdistill.types import Hint, Problem, Problems, Task, Wording

WORDINGS = {
  'verify': Wording('Q: {asked}\nA: {0}\nRight:', (' Yes', ' No')),
  'compare': Wording('Q: {asked}\nA 1: {0}\nA 2: {1}\nBetter:', (' 1', ' 2')),
}


@dataclasses.dataclass(frozen=True)
class ExamplesTask(Task):
  """A task whose prompts begin with solved problems of its train split.

  Attributes:
    task: What is asked.
    count: How many problems are shown.
  """

  task: Task
  count: int

  @property
  def name(self) -> str:
    return f'examples:{self.count}:{self.task.name}'

  @property
  def ends(self) -> str:
    return '\n'

  def problems(self, split: str) -> Problems:
    found = self.task.problems(split)
    return _Owned(self, found, self.count if split == 'train' else 0)

  def solver_prompt(self, problem: Problem) -> str:
    return self._asked(self.task.solver_prompt(problem))

  def hinted_prompt(self, problem: Problem, hint: Hint) -> str:
    return self._asked(self.task.hinted_prompt(problem, hint))

  def critique(self, problem: Problem, response: str) -> str | None:
    return self.task.critique(problem, response)

  def without_thinking(self, response: str) -> str:
    return self.task.without_thinking(response)

  @property
  def wordings(self) -> Mapping[str, Wording]:
    """What it can be shown how to judge, by an answer of another problem."""
    return WORDINGS if self.count > 1 else {}

  def worded(self, what: str) -> Wording:
    found = super().worded(what)
    if len({p.answer for p in _shown(self)}) < 2:
      raise ValueError(f'{self.name}: all that is shown has the same answer')
    return found

  def asking(self, what: str, problem: Problem, *responses: str) -> str:
    wording = self.worded(what)

    def line(p: Problem, *said: str | None) -> str:
      asked = self.task.solver_prompt(p)
      return wording.text.format(*(str(x).strip() for x in said), asked=asked)

    shown, lines = _shown(self), []
    for i, p in enumerate(shown):
      others = [*shown[i + 1 :], *shown[:i]]
      wrong = next(x.answer for x in others if x.answer != p.answer)
      pair, (first, second) = (p.answer, wrong), wording.choices
      # The right one first of every other problem: not always the same choice.
      judged = [(pair, first), (pair[::-1], second)]
      for said, choice in judged[:: 1 - 2 * (i % 2)]:
        lines.append(line(p, *said) + choice)
    return '\n'.join([*lines, line(problem, *responses)])

  def _asked(self, asked: str) -> str:
    shown = [
      _line(self.task.solver_prompt(p), str(p.answer)) for p in _shown(self)
    ]
    return '\n'.join([*shown, f'Q: {asked}\nA:'])

  def proposer_prompt(self, topic: Problem) -> str:
    asked = self.task.proposer_prompt(topic)
    shown = [_line(self.task.proposer_prompt(p), p.text) for p in _shown(self)]
    return '\n'.join([*shown, f'Q: {asked}\nA:'])

  def parse_problem(self, text: str) -> Problem | None:
    found = self.task.parse_problem(text.strip())
    return found and dataclasses.replace(found, task=self)

  def held_out(self, problem: Problem) -> bool:
    return self.task.held_out(problem)

  def parse_answer(self, text: str) -> str | None:
    return self.task.parse_answer(text.strip())

  def reward(
    self, problem: Problem, answers_G: Sequence[str | None]
  ) -> Sequence[float]:
    return self.task.reward(problem, answers_G)


def _line(asked: str, answer: str) -> str:
  return f'Q: {asked}\nA: {answer}'


@functools.lru_cache
def _shown(task: ExamplesTask) -> tuple[Problem, ...]:
  problems = task.task.problems('train')
  if len(problems) <= task.count:
    raise ValueError(
      f'{task.name}: {task.task.name} has only {len(problems)} problems to '
      'train on, the shown ones included'
    )
  shown = tuple(problems[i] for i in range(task.count))
  for p in shown:
    if p.answer is None:
      raise ValueError(f'{task.name}: {p.text!r} has no known answer to show')
  return shown


@dataclasses.dataclass(frozen=True)
class _Owned:
  """A task's problems, asked by another; the shown ones are left out."""

  task: ExamplesTask
  found: Problems
  skip: int

  def __len__(self) -> int:
    return len(self.found) - self.skip

  def __getitem__(self, index: int) -> Problem:
    if not 0 <= index < len(self):
      raise IndexError(index)
    found = self.found[int(index) + self.skip]
    return dataclasses.replace(found, task=self.task)


def read_name(name: str, load: Callable[[str], Task]) -> ExamplesTask:
  """The task called `examples:COUNT:TASK`.

  Args:
    name: Of it.
    load: Finds the task that it stands on.

  Raises:
    ValueError: The name is not of this form, or there is no such task.
  """
  match = re.fullmatch(r'examples:([1-9]\d?):(.+)', name)
  if not match:
    raise ValueError(
      f'task {name!r} must be like examples:4:arithmetic:add:2,2, with 1 to 99 '
      'examples'
    )
  return ExamplesTask(load(match[2]), int(match[1]))

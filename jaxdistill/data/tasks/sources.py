"""Tasks from elsewhere: reasoning-gym's generators and TFDS's data sets."""

import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from jaxdistill import rewards
from jaxdistill.data.tasks import problems
from jaxdistill.data.tasks.files import COLUMNS, known_columns
from jaxdistill.spelling import nearest
from jaxdistill.types import Problem, Problems, Task

GYM_SOLVE = (
  '{text}\n\nReason step by step, and give the final answer alone between '
  '<answer> and </answer>.'
)
# How many problems, and the first seed; problem i has the seed `first + i`.
GYM_SPLITS = {
  'train': (20_000, 0),
  'dev': (256, 1 << 24),
  'test': (1024, 2 << 24),
}
# Generators whose problems have several right answers, or one in many forms.
# Only their own scorers know them, and these run `eval` on the answer or
# search: an answer of a model is never run here.
GYM_LEFT_OUT = (
  *('boxnet', 'countdown', 'graph_color', 'intermediate_integration', 'jugs'),
  *('knight_swap', 'n_queens', 'palindrome_generation', 'puzzle24'),
  *('polynomial_equations', 'polynomial_multiplication'),
  *('propositional_logic', 'quantum_lock'),
  *('rubiks_cube', 'rush_hour', 'shortest_path', 'simple_integration'),
  *('sokoban', 'tower_of_hanoi', 'word_ladder'),
)


@dataclasses.dataclass(frozen=True)
class GymTask(Task):
  """Problems of a generator of reasoning-gym, by its name.

  An answer is right if it equals the generator's, as a number or as a text.
  The splits have different seeds; a generator of few problems may still draw
  one in two splits.

  Attributes:
    generator: Its name there, e.g. `chain_sum`.
  """

  generator: str

  @property
  def name(self) -> str:
    return f'gym:{self.generator}'

  def problems(self, split: str) -> Problems:
    if split not in GYM_SPLITS:
      raise problems.no_split(self.name, split, GYM_SPLITS)
    generated = _gym(self.generator, split)
    return problems.by_index(
      GYM_SPLITS[split][0], lambda i: self._problem(generated[int(i)])
    )

  def solver_prompt(self, problem: Problem) -> str:
    return GYM_SOLVE.replace('{text}', problem.text)

  def held_out(self, problem: Problem) -> bool:
    return problems.same(problem.text) in _held_out_texts(self)

  def parse_answer(self, text: str) -> str | None:
    found = rewards.tagged(text)  # as it is: answers may be grids or lists
    return rewards.final_answer(text) if found is None else found

  def reward(
    self, problem: Problem, answers_G: Sequence[str | None]
  ) -> list[float]:
    return problems.right(problem, answers_G)

  def _problem(self, entry: dict[str, Any]) -> Problem:
    return Problem(entry['question'], self, str(entry['answer']))


@functools.lru_cache
def _gym(generator: str, split: str) -> Any:
  import reasoning_gym

  size, seed = GYM_SPLITS[split]
  return reasoning_gym.create_dataset(generator, size=size, seed=seed)


def gym_task(name: str) -> GymTask:
  """The task called `gym:NAME`.

  Raises:
    ValueError: There is no such generator, or the package is missing.
  """
  generator = name.partition(':')[2]
  try:
    from reasoning_gym.factory import DATASETS
  except ImportError:
    raise ValueError(
      f'task {name} needs the package reasoning-gym: pip install reasoning-gym'
    ) from None
  allowed = [n for n in DATASETS if n not in (*GYM_LEFT_OUT, 'composite')]
  if generator in GYM_LEFT_OUT:
    raise ValueError(
      f'task {name}: its problems have several right answers, which cannot be '
      'told from wrong ones here'
    )
  if generator not in allowed:
    near = nearest(generator, allowed)
    raise ValueError(
      f'there is no task {name!r}; the nearest is {"gym:" + near!r}'
    )
  return GymTask(generator)


@dataclasses.dataclass(frozen=True)
class TfdsTask(Task):
  """A data set of TFDS with questions and answers, read by index.

  Its columns are those of `files.COLUMNS`. `test` is its own; every tenth
  problem of its `train` is `dev`.

  Attributes:
    dataset: Its name, with a config if it has some: `NAME/CONFIG`.
  """

  dataset: str

  @property
  def name(self) -> str:
    return f'tfds:{self.dataset}'

  def problems(self, split: str) -> Problems:
    if split not in ('train', 'dev', 'test'):
      raise problems.no_split(self.name, split, ('train', 'dev', 'test'))
    examples = _tfds(self.dataset, 'test' if split == 'test' else 'train')
    count, place = len(examples), lambda i: i
    if split == 'dev':
      count, place = count // 10, lambda i: 10 * i + 9
    if split == 'train':
      count, place = count - count // 10, lambda i: i + i // 9
    return problems.by_index(
      count, lambda i: self._problem(examples[place(int(i))])
    )

  def solver_prompt(self, problem: Problem) -> str:
    return f'{problem.text}\n{problems.BOXED}'

  def parse_problem(self, text: str) -> Problem | None:
    return Problem(text, self) if text.strip() else None

  def held_out(self, problem: Problem) -> bool:
    return problems.same(problem.text) in _held_out_texts(self)

  def parse_answer(self, text: str) -> str | None:
    return rewards.final_answer(text)

  def reward(
    self, problem: Problem, answers_G: Sequence[str | None]
  ) -> list[float]:
    return problems.right(problem, answers_G)

  def _problem(self, example: dict[str, Any]) -> Problem:
    given = {
      k: v.decode() if isinstance(v, bytes) else v
      for k, v in example.items()
      if k in COLUMNS and k != 'split'
    }
    found = known_columns(given, self.name)
    fields = {k: found[k] for k in ('text', 'answer', 'topic')}
    problem = Problem(task=self, **fields)
    if found['response'] is None:
      return problem
    shown = self.solver_prompt(problem), found['response']
    return dataclasses.replace(problem, demonstration=shown)


@functools.lru_cache
def _builder(dataset: str) -> Any:
  import tensorflow_datasets as tfds

  try:
    with _quiet():
      return tfds.builder(dataset, file_format='array_record')
  except tfds.core.DatasetNotFoundError:
    allowed = tfds.list_builders(with_community_datasets=False)
    near = nearest(dataset, allowed)
    raise ValueError(
      f"TFDS has no data set {dataset!r}; the nearest is 'tfds:{near}'"
    ) from None
  except Exception as e:  # a config that is not there, a broken folder
    raise _tfds_error(dataset, e) from None


@functools.lru_cache
def _tfds(dataset: str, split: str) -> Any:
  """Examples of a split by index; made on first use."""
  builder = _builder(dataset)
  try:
    if not builder.is_prepared():
      what = f'{dataset} in {builder.data_path}'
      print(f'Making the data set {what}, once.', file=sys.stderr)
    with _quiet():
      builder.download_and_prepare()
    if split not in builder.info.splits:
      raise problems.no_split(f'tfds:{dataset}', split, builder.info.splits)
    return builder.as_data_source(split=split)
  except Exception as e:  # no network, no disk, another file format
    raise _tfds_error(dataset, e) from None


def _tfds_error(dataset: str, error: Exception) -> ValueError:
  said = str(error).strip().partition('\n')[0]
  if isinstance(error, ValueError) and said.startswith('tfds:'):
    return error
  return ValueError(f'tfds:{dataset}: {type(error).__name__}: {said}')


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Without what TFDS narrates, and what it says where TensorFlow is not."""
  import tensorflow_datasets as tfds

  tfds.disable_progress_bar()
  with (
    open(os.devnull, 'w') as null,
    contextlib.redirect_stdout(null),
    contextlib.redirect_stderr(null),
  ):
    yield


def tfds_task(name: str) -> TfdsTask:
  """The task called `tfds:NAME` or `tfds:NAME/CONFIG`.

  Raises:
    ValueError: There is no such data set, or it has no known columns.
  """
  dataset = name.partition(':')[2]
  if not dataset:
    raise ValueError(f'task {name!r} needs the name of a data set: tfds:NAME')
  columns = list(_builder(dataset).info.features)
  if 'text' not in {COLUMNS.get(column) for column in columns}:
    raise ValueError(
      f'{name} has no column "question" (or text, problem, prompt); it has '
      + ', '.join(columns)
    )
  return TfdsTask(dataset)


@functools.lru_cache
def _held_out_texts(task: GymTask | TfdsTask) -> frozenset[str]:
  found = (task.problems(split) for split in ('dev', 'test'))
  return frozenset(
    problems.same(held_out[i].text)
    for held_out in found
    for i in range(len(held_out))
  )

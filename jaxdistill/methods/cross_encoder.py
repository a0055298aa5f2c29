"""A cross-encoder that learns soft grades from a teacher's, by margins.

A cross-encoder reads a query and an item together and gives one number. Its
targets are grades: known ones, those of a larger cross-encoder, or those of a
language model, whose grade is what it expects of its own words for grades (soft
targets, arXiv 2505.07105) or the likeliest of them (hard). It learns the
differences between items under one query, not the grades themselves: margin
MSE (arXiv 2010.02666, sec. 3.1), over all pairs of a query's items.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxdistill import losses, rewards
from jaxdistill.data.tasks import Item, Ranking
from jaxdistill.dist.hosts import together
from jaxdistill.methods.method import Method, check_minibatches, glimpse
from jaxdistill.rollout.player import Player
from jaxdistill.types import (
  Collected,
  Message,
  Problem,
  Prompt,
  RowSet,
  Update,
  response_row,
)


@dataclasses.dataclass(frozen=True)
class CrossEncoder(Method):
  """Hyper-parameters of learning to grade.

  Attributes:
    problems: Queries per step, over all hosts.
    items: Items of a query that are learned from, at most.
    ranked: Items of a held-out query that are ranked, at most.
    teacher: Whose grades are learned: `known` ones, or those of `model:NAME`,
      which grades, or writes and is asked for grades.
    soft: Whether a grade may lie between two words for grades; if not, the
      likeliest word counts, of a teacher that grades the nearest.
    epochs: Passes over each step's items.
    minibatches: Optimizer steps per pass.
  """

  problems: int = 32
  items: int = 8
  ranked: int = 16
  teacher: str = 'known'
  soft: bool = True
  epochs: int = 1
  minibatches: int = 1

  answers = False
  roles = ('solver',)

  def __post_init__(self):
    check_minibatches(self.minibatches, self.problems)
    if self.teacher != 'known' and not self.teacher.startswith('model:'):
      raise ValueError(
        f'method.teacher is {self.teacher!r}; it must be known or model:NAME'
      )
    for name in ('items', 'ranked'):
      if getattr(self, name) < 2:
        raise ValueError(
          f'method.{name} is {getattr(self, name)}; a margin needs at least 2'
        )

  @property
  def anchors(self):
    return {} if self.teacher == 'known' else {'teacher': self.teacher}

  def check(self, task):
    if not isinstance(task, Ranking):
      raise ValueError(
        f'method cross_encoder needs items to grade; task {task.name} has none '
        '(small:relevance has)'
      )
    for problem in glimpse(task) if self.teacher == 'known' else ():
      if any(x.grade is None for x in task.items(problem, self.items)):
        raise ValueError(
          f'method.teacher is known, but task {task.name} has no grades for '
          f'the items of {problem.text!r}'
        )

  def collect(self, players, problems, state, step, key):
    del step, key
    policy = players['policy']
    items_PG = [items_of(p, self.items) for p in problems]
    flat = [item for items_G in items_PG for item in items_G]
    scored = 0
    if self.teacher == 'known':
      grades = np.array([item.grade for item in flat], float)
    else:
      teacher = players['teacher']
      asked = asked_of(teacher, problems, items_PG)
      scored = sum(map(len, together(lambda: [*map(teacher.encode, asked)])))
      grades = grades_by(teacher, problems, items_PG, self.soft)
      if not self.soft:
        grades = nearest(grades, problems)
    grades_PG = _split(grades, items_PG)
    read = together(lambda: [policy.written(_pair(x), '') for x in flat])
    query = np.repeat(range(len(items_PG)), [len(x) for x in items_PG])
    rows = [
      response_row(r, 1.0, 1.0, pair=int(n), target=grade)
      for r, n, grade in zip(read, query, grades, strict=True)
    ]
    rows = RowSet('solver', rows, ('target',), paired=True, apart=True)
    update = Update((rows,), self.epochs, self.minibatches)
    observed = observed_of(grades_PG, items_PG)
    transcripts = [
      {'problem': p.text, 'items': [x.text for x in items_G]}
      | {'grades': [x.grade for x in items_G], 'targets': grades_G.tolist()}
      for p, items_G, grades_G in zip(
        problems, items_PG, grades_PG, strict=True
      )
    ]
    metrics = {f'train/targets_{k}': v for k, v in observed.items()}
    return Collected([update], state, metrics, transcripts, scored=scored)

  def loss(self, model, anchors, batch):
    del anchors
    grades = batch.over_targets(lambda outputs: outputs[..., 0], model)
    assert batch.pairs is not None, 'items of a query are together'
    errors = grades - batch.fields['target']
    return losses.margin_mse(errors, batch.pairs), {'grade': grades}

  def evaluate(self, policy, problems, key):
    del key
    items_PG = [items_of(p, self.ranked) for p in problems]
    grades = grades_by(policy, problems, items_PG, self.soft)
    return observed_of(_split(grades, items_PG), items_PG)


def items_of(problem: Problem, count: int) -> Sequence[Item]:
  """Of a problem whose task has items, see `check`."""
  task = _ranking([problem])
  return task.items(problem, count) if task else ()


def _ranking(problems: Sequence[Problem]) -> Ranking | None:
  """The task of problems, None where there are none."""
  for problem in problems:
    assert isinstance(problem.task, Ranking), 'seen by `check`'
    return problem.task
  return None


def grades_by(
  player: Player,
  problems: Sequence[Problem],
  items_PG: Sequence[Sequence[Item]],
  soft: bool,
) -> np.ndarray:
  """A model's grades of the items of all queries, in turn.

  Args:
    player: One that grades; or one that writes, which is asked.
    problems: This host's queries, of one task.
    items_PG: Of each.
    soft: Whether those of one that writes are means under its probabilities,
      not those of its likeliest words.
  """
  asked = asked_of(player, problems, items_PG)
  if player.grades:
    return player.grade(asked).astype(float)
  task = _ranking(problems)
  words = task.grades if task else {}
  logp = player.choose(asked, [*words])
  return (
    graded(logp, np.array([*words.values()]), soft) if asked else np.zeros(0)
  )


def asked_of(
  player: Player,
  problems: Sequence[Problem],
  items_PG: Sequence[Sequence[Item]],
) -> list[Prompt]:
  """What a model reads to grade the items of all queries, in turn."""
  flat = [item for items_G in items_PG for item in items_G]
  if player.grades:
    return [_pair(item) for item in flat]
  task = _ranking(problems)
  return [Prompt('solver', task.question(x)) for x in flat if task]


def graded(logp: np.ndarray, worth: np.ndarray, soft: bool) -> np.ndarray:
  """A grade from the log-probs `[B, C]` of the words for C grades."""
  if not soft:
    return worth[logp.argmax(-1)]
  p = np.exp(logp - logp.max(-1, keepdims=True), dtype=float)
  return p @ worth / p.sum(-1)


def nearest(grades: np.ndarray, problems: Sequence[Problem]) -> np.ndarray:
  """Each grade as the nearest that the problems' task has a word for."""
  task = _ranking(problems)
  worth = np.array([*task.grades.values()]) if task else np.zeros(1)
  return worth[np.abs(grades[:, None] - worth).argmin(-1)]


def observed_of(
  grades_PG: Sequence[np.ndarray], items_PG: Sequence[Sequence[Item]]
) -> Mapping[str, list[float]]:
  """What grades of items are worth, of queries whose grades are known."""
  out: dict[str, list[float]] = {k: [] for k in rewards.ranking([], [])}
  for grades_G, items_G in zip(grades_PG, items_PG, strict=True):
    known = [x.grade for x in items_G if x.grade is not None]
    if len(known) == len(items_G):
      for name, values in rewards.ranking(grades_G, known).items():
        out[name] += values
  return out


def _pair(item: Item) -> Prompt:
  """A query and an item as a cross-encoder reads them."""
  return Prompt('solver', item.text, before=(Message('user', item.query),))


def _split(grades: np.ndarray, items_PG: Sequence[Sequence]) -> list:
  ends = np.cumsum([len(items_G) for items_G in items_PG])
  return np.split(grades, ends[:-1]) if len(ends) else []

"""What a model does when it is told more, before it is trained on it."""

import dataclasses
import html
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

from jaxdistill import plots
from jaxdistill.api.gaps import chosen
from jaxdistill.api.model import Model, find_task, load
from jaxdistill.api.refusing import in_one_line
from jaxdistill.config import ConfigError
from jaxdistill.eval.ladder import TOP, ladder
from jaxdistill.plots import notebook
from jaxdistill.rollout import contexts
from jaxdistill.run.ask import of_this_host, reduce_metrics
from jaxdistill.spelling import among
from jaxdistill.types import Problem, Task

COLUMNS = {
  'right': ('right', '{:.3f}'),
  'untold': ('untold', '{:.3f}'),
  'length': ('tokens', '{:.1f}'),
  'markers': ('doubts', '{:.2f}'),
  'markers_per_1k': ('per 1k', '{:.1f}'),
  'kl_fork': ('KL, forks', '{:.3f}'),
  'kl_other': ('KL, others', '{:.4f}'),
  'overlap': ('overlap', '{:.2f}'),
  'told': ('told', '{:.2f}'),
}
LEGEND = f"""\
right: share of its answers, when told; untold: the same of what it says untold
in the places where there is something to tell; tokens: length of its answers;
doubts: words of doubt in each, and per 1k of their tokens. KL, forks: how far
what it would say when told is from what it says untold, in nats a token, at the
fifth of tokens where it is least sure; KL, others: at the rest; overlap: share
of its {TOP} likeliest tokens that stay. told: share of answers with something
to tell."""


@dataclasses.dataclass(frozen=True, repr=False)
class Ladder:
  """What a model does on each rung of the ladder of contexts.

  Attributes:
    model: Which, in words.
    task: Whose problems it was asked.
    figures: What `jaxdistill context --json` prints: `rungs`, by rung the
      means of what `eval.ladder` observes; how it was asked; `seconds`.
  """

  model: str
  task: str
  figures: Mapping[str, Any]

  @property
  def rows(self) -> list[dict[str, Any]]:
    """A record for each rung; `pandas.DataFrame(ladder.rows)`."""
    return [{'context': k, **v} for k, v in self.figures['rungs'].items()]

  @property
  def figure(self) -> notebook.Picture:
    """Accuracy, length, doubts and divergence by rung."""
    return notebook.picture(lambda file: plots.draw_ladder(self.figures, file))

  def __str__(self) -> str:
    names = [name for name, _ in COLUMNS.values()]
    lines = [f'{"the model is told":18}' + ''.join(f'{n:>11}' for n in names)]
    for row in self.rows:
      cells = [
        form.format(row[key]) if key in row else ''
        for key, (_, form) in COLUMNS.items()
      ]
      lines.append(f'{row["context"]:18}' + ''.join(f'{c:>11}' for c in cells))
    took = f'({self.figures["seconds"]:.0f} s)'
    return '\n'.join([*lines, LEGEND, took])

  __repr__ = __str__

  def _repr_html_(self) -> str:
    of = html.escape(f'{self.model}, {self.task}')
    return f'<h3>{of}</h3><pre>{html.escape(str(self))}</pre>{self.figure.html}'


def context(
  model: epath.PathLike | Model,
  task: epath.PathLike | Task | None = None,
  *,
  split: str | None = None,
  problems: int | Sequence[Problem] = 64,
  samples: int = 8,
  max_tokens: int = 0,
  rungs: Sequence[str] = (),
  judge: str = 'known',
  solution: str = 'sibling',
) -> Ladder:
  """Asks a model the same problems with ever more told; trains nothing.

  All processes call it alike; each asks its part of the problems.

  Args:
    model: A model, or what `load` takes.
    task: Whose problems it is asked; the model's own if None.
    split: Which of them; None is `dev`, or `train` where there is none.
    problems: How many at most; or the problems themselves.
    samples: Answers to each, at least 2; as many on each rung.
    max_tokens: Longest answer; 0 is the run's own.
    rungs: Of `rollout/contexts.py`; all if empty.
    judge: Who says what is right: `known` or, without a label, `vote`.
    solution: Whose solutions are told: a right `sibling`'s, or the `reference`
      that comes with a problem.

  Raises:
    ConfigError: There is no such model, task, split or rung, or it cannot be
      asked.
  """
  for name, values, allowed in (
    ('context', rungs, contexts.NAMES),
    ('judge', [judge], contexts.JUDGES),
    ('solution', [solution], contexts.SOLUTIONS),
  ):
    for value in values:
      if value not in allowed:
        near = among(value, allowed)
        raise ConfigError(f'there is no {name} {value!r}{near}')
  if samples < 2:
    raise ConfigError(f'samples: {samples} must be at least 2, for siblings')
  if task is not None:
    task = find_task(task)
    chosen(task, split, problems)  # before a model is loaded
  if not isinstance(model, Model):
    model = load(model, task=task)
  elif task is not None:
    model = model.on(task)
  asked = chosen(model.task, split, problems)
  _check_told(model.task.name, asked, rungs, judge, solution)
  begin = time.perf_counter()
  with model.run.computing(), in_one_line():
    found = ladder(
      model.player,
      of_this_host(asked.__getitem__, len(asked)),
      rungs=rungs or contexts.NAMES,
      judge=judge,
      solution=solution,
      samples=samples,
      max_tokens=max_tokens or model.run.eval.max_tokens,
      key=jax.random.key(model.run.seed),
    )
    means = {rung: reduce_metrics(values) for rung, values in found.items()}
  how = {'judge': judge, 'solution': solution, 'samples': samples}
  figures = {
    'model': model.name,
    'task': model.task.name,
    'problems': len(asked),
    **how,
    'rungs': means,
    'seconds': round(time.perf_counter() - begin, 1),
  }
  return Ladder(model.name, model.task.name, figures)


def _check_told(
  task: str,
  problems: Sequence[Problem],
  rungs: Sequence[str],
  judge: str,
  solution: str,
) -> None:
  """Whether there is what is to be told; see `context`."""
  if judge == 'known' and any(p.answer is None for p in problems):
    raise ConfigError(f'{task} has problems without a known answer: judge vote')
  if solution == 'reference':
    if judge == 'vote':
      raise ConfigError('judge vote knows no reference: solution sibling')
    told = {*(rungs or contexts.NAMES)} & {*contexts.OF_SOLUTIONS}
    if told and any(p.demonstration is None for p in problems):
      raise ConfigError(
        f'{task} has problems without a solution to refer to: solution sibling'
      )

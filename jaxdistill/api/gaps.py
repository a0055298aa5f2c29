"""Whether self-play will help a model, asked before it is trained."""

import dataclasses
import html
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from jaxdistill.api.model import Model, find_task, load
from jaxdistill.api.refusing import in_one_line
from jaxdistill.config import ConfigError
from jaxdistill.config.words import check_words
from jaxdistill.rollout.verify import VERIFIERS, asked_by, check_verifier
from jaxdistill.run import gap as gaps
from jaxdistill.spelling import among
from jaxdistill.types import Problem, Task


@dataclasses.dataclass(frozen=True, repr=False)
class Gap:
  """What learning from its own majority votes is worth to a model.

  Attributes:
    model: Which, in words.
    task: Whose problems it was asked.
    figures: What `jaxdistill gap --json` prints.
  """

  model: str
  task: str
  figures: Mapping[str, Any]

  @property
  def verdict(self) -> str:
    """`helps`, `risky` or `does not help`."""
    return self.figures['verdict']

  @property
  def why(self) -> str:
    """The reason of the verdict."""
    return self.figures['why']

  @property
  def instead(self) -> str:
    """What to do."""
    return self.figures['instead']

  def __str__(self) -> str:
    return gaps.as_text(self.figures)

  __repr__ = __str__

  def _repr_html_(self) -> str:
    table, _, said = str(self).partition('\n\n')
    headline, *rest = map(html.escape, said.splitlines())
    of = html.escape(f'{self.model}, {self.task}')
    return (
      f'<h3>{of}</h3><p><b>{headline}</b><br>{"<br>".join(rest)}</p>'
      f'<pre>{html.escape(table)}</pre>'
    )


def gap(
  model: epath.PathLike | Model,
  task: epath.PathLike | Task | None = None,
  *,
  split: str | None = None,
  problems: int | Sequence[Problem] = 128,
  samples: int = 16,
  max_tokens: int = 0,
  verifiers: Sequence[str] = (),
  check_tokens: int = 256,
) -> Gap:
  """Says whether self-play will help a model on a task; trains nothing.

  All processes call it alike; each asks its part of the problems.

  Args:
    model: A model, or what `load` takes.
    task: Whose problems it is asked; the model's own if None.
    split: Which of them; None is `dev`, or `train` where there is none.
    problems: How many at most; or the problems themselves.
    samples: Answers to each, at least 2.
    max_tokens: Longest answer; 0 is the run's own.
    verifiers: Which of its verifiers are weighed as well, see
      `rollout/verify.py`; `one+other` is what both keep.
    check_tokens: Longest check that a verifier writes.

  Raises:
    ConfigError: There is no such model, task or split, or it cannot be asked.
  """
  if samples < 2:
    raise ConfigError(f'samples: {samples} must be at least 2, for a vote')
  check_names(verifiers)
  if task is not None:
    task = find_task(task)
    chosen(task, split, problems)  # before a model is loaded
  if not isinstance(model, Model):
    model = load(model, task=task)
  elif task is not None:
    model = model.on(task)
  asked = chosen(model.task, split, problems)
  check_verifiers(verifiers, model.task, asked)
  words = [what for one in _single(verifiers) for what in asked_by(one)]
  with in_one_line():
    tokenizer = model.run.loaded.tokenizer
    check_words(model.task, words, model.name, tokenizer)
  with model.run.computing(), in_one_line():
    found = gaps.gap(
      *(model.run, model.player, model.task, asked, samples),
      max_tokens or model.run.eval.max_tokens,
      *(verifiers, check_tokens),
    )
  return Gap(model.name, model.task.name, found)


def chosen(
  task: Task, split: str | None, problems: int | Sequence[Problem]
) -> Sequence[Problem]:
  """The problems that a model is asked; see `gap`."""
  if not isinstance(problems, int):  # each with random draws of its own
    return [dataclasses.replace(p, address=i) for i, p in enumerate(problems)]
  with in_one_line():
    return gaps.problems_of(task, split, problems)


def check_names(verifiers: Sequence[str]) -> None:
  """Finds names that no verifier has, before a model is loaded.

  Raises:
    ConfigError: The nearest is named.
  """
  for one in _single(verifiers):
    if one not in VERIFIERS:
      raise ConfigError(
        f'there is no verifier {one!r}{among(one, VERIFIERS)} (with a + '
        'between two: what both keep)'
      )


def _single(verifiers: Sequence[str]) -> list[str]:
  """Each verifier that is named, alone or by a + beside another."""
  return [one for name in verifiers for one in name.split('+')]


def check_verifiers(
  verifiers: Sequence[str], task: Task, problems: Sequence[Problem]
) -> None:
  """Finds that a task cannot be asked to verify, or its answers not be known.

  Raises:
    ConfigError: It cannot, or they are not.
  """
  for one in _single(verifiers):
    with in_one_line():
      check_verifier(one, task)
      for what in asked_by(one):
        task.worded(what)
  unknown = [p for p in problems if p.answer is None] if verifiers else []
  if unknown:
    raise ConfigError(
      f'what a verifier is worth is measured by known answers; {task.name} has '
      f'none for {unknown[0].text!r}'
    )

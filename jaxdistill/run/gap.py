"""What `jaxdistill gap` does: asks a model, and says whether to train it."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxdistill.eval import gap as gaps
from jaxdistill.rollout.player import Player
from jaxdistill.run.run import Run
from jaxdistill.types import Problem, Task

TOPICS, PROPOSALS = 16, 4  # how many problems it is asked to write


def problems_of(task: Task, split: str | None, most: int) -> list[Problem]:
  """The problems that a model is asked.

  Args:
    task: Whose they are.
    split: Which; None is dev, or train where there is no dev split.
    most: How many at most.

  Raises:
    ValueError: There is no such split.
  """
  try:
    found = task.problems(split or 'dev')
  except ValueError:
    if split:
      raise
    found = task.problems('train')
  n = min(len(found), most)
  return [dataclasses.replace(found[i], address=i) for i in range(n)]


def gap(
  run: Run,
  player: Player,
  task: Task,
  problems: Sequence[Problem],
  samples: int,
  max_tokens: int,
) -> dict[str, Any]:
  """The figures, the verdict and the seconds that they took.

  Args:
    run: Whose seed it is, and which method's proposals.
    player: Who is asked.
    task: Whose problems they are; if it has a proposer's prompt the model is
      asked to write some, too.
    problems: What is asked.
    samples: Answers to each.
    max_tokens: Longest answer.
  """
  begin = time.perf_counter()
  key = jax.random.key(run.seed)
  answers = gaps.ask(
    player, problems, samples=samples, max_tokens=max_tokens, key=key
  )
  found = gaps.weigh(answers)
  topics: Any = task.problems('train')
  topics = [
    dataclasses.replace(topics[i], address=i)
    for i in range(min(len(topics), TOPICS))
  ]
  if proposes(task, topics):
    found['proposals'] = gaps.propose(
      player,
      topics,
      proposals=PROPOSALS,
      max_tokens=getattr(run.method, 'max_problem_tokens', 16),
      key=jax.random.fold_in(key, 1),
    )
  seconds = time.perf_counter() - begin
  return gaps.verdict(found) | found | {'seconds': round(seconds, 1)}


def proposes(task: Task, topics: Sequence[Problem]) -> bool:
  """Whether a task has a prompt for proposers, and topics to propose on."""
  try:
    return all(bool(p.topic) for p in topics) and bool(
      [task.proposer_prompt(p) for p in topics]
    )
  except ValueError:
    return False


def as_text(found: Mapping[str, Any]) -> str:
  """The figures and the verdict, for people."""
  lines = []
  sizes = list(found['majority'])

  def row(name, values):
    cells = (f'{values[k]:8.3f}' if k in values else ' ' * 8 for k in sizes)
    lines.append(f'{name:34}' + ''.join(cells))

  lines.append(
    f'{"by number of samples":34}' + ''.join(f'{k:8}' for k in sizes)
  )
  row('there is a majority', found['majority'])
  if 'vote' in found:
    row('the majority is right: all problems', found['vote'])
    row('  of those that have a majority', found['right_majority'])
    row('any sample is right (pass@k)', found['pass_at'])
    lines.append(f'{"greedy answer is right":34}{found["greedy"]:8.3f}')
  lines.append(f'{"samples that agree":34}{found["agreement"]:8.3f}')
  guessed = 'right majorities, by agreement'
  lines.append(f'{guessed:34}{found["guess"]:8.3f}')
  if 'proposals' in found:
    written = found['proposals']
    lines.append(
      f'{"its own problems: can be asked":34}{written["valid"]:8.3f}'
    )
    lines.append(f'{"its own problems: distinct":34}{written["distinct"]:8.3f}')
  lines += [
    '',
    f'Self-play {found["verdict"]}: {found["why"]}.'
    if found['verdict'] != 'risky'
    else f'Self-play is risky: {found["why"]}.',
    f'What to do: {found["instead"]}.',
    f'({found["seconds"]:.0f} s)',
  ]
  return '\n'.join(lines)

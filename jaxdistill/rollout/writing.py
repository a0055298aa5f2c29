"""Problems that a player writes, by itself or after two that it is shown.

How one is asked for (the first three of CoT-Self-Instruct, arXiv 2507.23751):

| way                   | shown | the response                             |
|-----------------------|-------|------------------------------------------|
| `instruct`            | two   | reasoning, then the problem              |
| `instruct_and_answer` | two   | the same, then the writer's own answer   |
| `instruct_plainly`    | two   | the problem                              |
| `propose`             | topic | the problem, as the task asks for one    |

All but `propose` are asked in the words of the task (`Task.wordings`), and the
problem is what stands behind the last `Problem:`.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxdistill import rewards
from jaxdistill.dist.hosts import gather_texts, together
from jaxdistill.rollout.player import Player
from jaxdistill.rollout.samplers import Sampling
from jaxdistill.types import Problem, Prompt, Rollout, Task

REJECTED = ('malformed', 'held_out', 'repeated')
WAYS = ('instruct_and_answer', 'instruct', 'instruct_plainly', 'propose')


@dataclasses.dataclass(frozen=True)
class Written:
  """A problem as it was written.

  Attributes:
    rollout: The response.
    address: Its place among all that are written in a step.
    problem: As it is asked; None if it is not.
    own: The writer's own answer, where it gave one.
    rejected: Why it is not asked, one of `REJECTED` (what was cut is
      malformed); empty if it is.
  """

  rollout: Rollout
  address: int
  problem: Problem | None = None
  own: str | None = None
  rejected: str = ''


def write(
  player: Player,
  seeds: Sequence[Problem],
  shown: Sequence[tuple[int, str]],
  way: str,
  each: int,
  sampling: Sampling,
  key: jax.Array,
) -> list[Written]:
  """New problems; every host calls it together.

  Args:
    player: Who writes.
    seeds: This host's share of the given ones.
    shown: Addresses and texts of all hosts' (see `in_order`); the second one
      that is shown is drawn from them, for every problem that is written.
    way: One of `WAYS`.
    each: Problems per given one.
    sampling: How to draw one.
    key: Of all draws.

  Returns:
    `each` of the first seed, then of the second, ...
  """
  draws = jax.random.key_data(key).tolist()

  def asked(seed: Problem, address: int) -> Prompt:
    if way == 'propose':
      text = seed.task.proposer_prompt(seed)
    else:
      others = [text for at, text in shown if at != seed.address]
      rng = np.random.default_rng([*draws, address])
      other = others[rng.integers(len(others))]
      text = seed.task.asking(way, seed, seed.text, other)
    return Prompt('proposer', text, address)

  places = [(p, p.address * each + i) for p in seeds for i in range(each)]
  prompts = together(lambda: [asked(*place) for place in places])
  written = player.generate(prompts, sampling, key)
  return together(
    lambda: [
      _read(said, p.task, way, at)
      for (said,), (p, at) in zip(written, places, strict=True)
    ]
  )


def unsaid(
  proposals: Sequence[Written],
  said: Sequence[str],
  same: Callable[[str], str],
) -> list[Written]:
  """Proposals, those rejected that were said before; every host calls it.

  Args:
    proposals: This host's of a step; of alike ones the first remains.
    said: Problems of all hosts before.
    same: What two texts of one problem have in common.
  """
  mine = [(x.address, x.problem.text) for x in proposals if x.problem]
  first: dict[str, int] = dict.fromkeys(map(same, said), -1)
  for address, text in in_order(mine):
    first.setdefault(same(text), address)
  return [
    x
    if x.problem is None or first[same(x.problem.text)] == x.address
    else dataclasses.replace(x, rejected='repeated')
    for x in proposals
  ]


def rejections(proposals: Sequence[Written]) -> dict[str, list[float]]:
  """Of each proposal why it is not asked, and how long it is."""
  whys = [x.rejected for x in proposals]
  return {
    **{name: [float(why == name) for why in whys] for name in REJECTED},
    'written_length': [float(len(x.rollout.tokens_T)) for x in proposals],
  }


def parsed(task: Task, text: str) -> Problem | None:
  """A problem without its mark, as its task reads it."""
  # What tasks in words read begins with the mark.
  return task.parse_problem(text) or task.parse_problem(f'Problem: {text}')


def in_order(mine: Sequence[tuple[int, Any]]) -> list[tuple[int, Any]]:
  """What all hosts have, pairs of an address and JSON, by address."""
  texts = gather_texts([json.dumps(pair) for pair in mine])
  pairs = [tuple(json.loads(text)) for text in texts]
  return sorted(pairs, key=lambda pair: pair[0])


def _read(said: Rollout, task: Task, way: str, address: int) -> Written:
  found = None
  text, answer = said.text, ''
  if way != 'propose':
    text, answer = rewards.written(said.text)
  if said.finish == 'stop' and text:
    found = parsed(task, text)
  if found is None:
    return Written(said, address, rejected='malformed')
  if task.held_out(found):
    return Written(said, address, rejected='held_out')
  own = task.parse_answer(answer) if way == 'instruct_and_answer' else None
  return Written(
    said, address, dataclasses.replace(found, address=address), own
  )

"""What would a model answer if it had learned this? Asked of many texts.

The inner loop of SEAL (arXiv 2506.10943, Alg. 1): each candidate is a few
documents; each trains an adapter of its own, several times from other
beginnings, and answers questions without what the documents were made of. All
trainings go in one compiled program, see `rollout/adapt.py`; the players that
come of them answer one after the other, by another.

What differs from the published code: an epoch is one optimizer step on all
documents, not one for each of them; padding carries no loss; the documents
follow a prompt (what is known of the topic?) as a model that answers prompts
was taught to speak.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxdistill import rewards
from jaxdistill.data.tasks.passages import Passages
from jaxdistill.dist.hosts import sum_over_hosts, together
from jaxdistill.methods.method import check_least
from jaxdistill.optimizer import OptimizerConfig
from jaxdistill.rollout import Player, Sampling
from jaxdistill.types import (
  Problem,
  Prompt,
  Rollout,
  Row,
  RowSet,
  response_row,
)


class Lesson(NamedTuple):
  """What one candidate learns of a context.

  Attributes:
    rows: Its documents; none: it stays as it is.
    epochs: How often they are gone through.
    lr_scale: Of the learning rate.
  """

  rows: Sequence[Row] = ()
  epochs: int = 0
  lr_scale: float = 1.0


class Scored(NamedTuple):
  """What came of lessons.

  Attributes:
    scores_PES: The share of a context's questions that each candidate answers
      right, by seed, float[P, E, S] of this host's contexts.
    tokens: How many tokens this host's answers have.
    learned: How many tokens of documents all steps read, on this host.
  """

  scores_PES: np.ndarray
  tokens: int
  learned: int


@dataclasses.dataclass(frozen=True)
class InnerTraining:
  """How a text is learned, and what is asked afterwards.

  Attributes:
    inner_rank: Of the adapters.
    inner_alpha: They are scaled by `inner_alpha / inner_rank`.
    inner_lr: Learning rate.
    inner_epochs: Optimizer steps; each reads all documents.
    seeds: How often each text is learned, from other adapters.
    at_once: Most adapters in training at once, what memory has room for; 0:
      all of them.
    with_passage: Whether the passage itself is learned beside each edit.
    matched: If above 0, documents of exactly so many tokens are learned of
      each edit: it is cut there, or begun anew until it is as long. So a longer
      edit is worth no more for its length.
    answer_tokens: Longest answer, the likeliest one.
  """

  inner_rank: int = 32
  inner_alpha: float = 64.0
  inner_lr: float = 1e-3
  inner_epochs: int = 10
  seeds: int = 3
  at_once: int = 0
  with_passage: bool = True
  matched: int = 0
  answer_tokens: int = 64

  def __post_init__(self):
    check_least(self, inner_rank=1, inner_epochs=1, seeds=1, answer_tokens=1)
    for name in ('at_once', 'matched'):
      if getattr(self, name) < 0:
        value = getattr(self, name)
        raise ValueError(f'method.{name} is {value}; it must not be negative')
    for name in ('inner_alpha', 'inner_lr'):
      if getattr(self, name) <= 0:
        value = getattr(self, name)
        raise ValueError(f'method.{name} is {value}; it must be above 0')

  def lesson(
    self,
    policy: Player,
    problem: Problem,
    edit: str | None,
    epochs: int = 0,
    lr_scale: float = 1.0,
  ) -> Lesson:
    """What a passage is learned as.

    Args:
      policy: Who learns.
      problem: The passage.
      edit: What was made of it; None: the passage alone is learned.
      epochs: If above 0, in the place of those that are usual.
      lr_scale: Of the learning rate.
    """
    task = passages_of(problem)
    documents = []
    if edit is not None:
      documents = [_written(policy, d) for d in task.documents(problem, edit)]
    parts = matched(documents, self.matched)
    if edit is None or self.with_passage:
      told = task.asking('tell', problem), problem.text
      parts += matched([_written(policy, told)], 0)
    # As in the paper, documents count the same, whatever their length; a part
    # of one counts as much as it has of it.
    rows = [response_row(r, 1 / n, len(r.tokens_T) / n) for r, n in parts]
    return Lesson(rows, epochs or self.inner_epochs, lr_scale)

  def scores(
    self,
    policy: Player,
    problems: Sequence[Problem],
    lessons_PE: Sequence[Sequence[Lesson]],
    size: tuple[int, int],
    loss: Callable,
    key: jax.Array,
  ) -> Scored:
    """Trains all candidates and asks each what its passage answers.

    Every process calls it together. Candidates of one context begin from the
    same adapters, seed by seed, so that they differ by what they learn.

    Args:
      policy: Who learns.
      problems: This host's passages.
      lessons_PE: Of each, as many for all.
      size: Passages of all hosts, whose addresses are below it; and lessons of
        each.
      loss: A method's.
      key: What adapters are drawn by, with the address and the seed.
    """
    here = {p.address: i for i, p in enumerate(problems)}
    contexts, count = size
    how = np.zeros((contexts, count, 2))
    for p, i in here.items():
      how[p] = [(lesson.epochs, lesson.lr_scale) for lesson in lessons_PE[i]]
    how = sum_over_hosts(how)
    grid = list(np.ndindex(contexts, count, self.seeds))
    most = min(self.at_once or len(grid), len(grid))
    scores_PES = np.zeros((len(problems), count, self.seeds))
    tokens = learned = 0
    for begin in range(0, len(grid), max(most, 1)):
      part = grid[begin : begin + most]
      # The last part is filled up: another size would be another program.
      part += [part[0]] * (most - len(part))
      lessons = [
        lessons_PE[here[p]][e] if p in here else Lesson() for p, e, _ in part
      ]
      players = policy.adapted(
        [RowSet('solver', lesson.rows) for lesson in lessons],
        loss,
        OptimizerConfig(lr=self.inner_lr, weight_decay=0.0),
        [int(how[p, e, 0]) for p, e, _ in part],
        key=_keys(key, [(p, s) for p, _, s in part]),
        rank=self.inner_rank,
        alpha=self.inner_alpha,
        scales=[how[p, e, 1] for p, e, _ in part],
      )
      new = grid[begin : begin + most]
      for (p, e, s), lesson, player in zip(new, lessons, players, strict=False):
        mine = [problems[here[p]]] if p in here else []
        right_P, drawn = self.answered(player, mine, key)
        tokens += drawn
        learned += lesson.epochs * sum(len(r.response_R) for r in lesson.rows)
        if mine:
          scores_PES[here[p], e, s] = right_P[0]
    return Scored(scores_PES, tokens, learned)

  def answered(
    self, player: Player, problems: Sequence[Problem], key: jax.Array
  ) -> tuple[np.ndarray, int]:
    """How many questions on each passage a player answers right, float[P].

    The passage is not shown. An answer that is cut is wrong.

    Args:
      player: Who is asked.
      problems: This host's passages.
      key: Of no consequence: the likeliest answer is taken.

    Returns:
      A share by passage, and how many tokens the answers have.
    """
    asked_P = together(lambda: [passages_of(p).questions(p) for p in problems])
    asked = [q for questions in asked_P for q in questions]
    told = player.generate(
      [
        dataclasses.replace(Prompt.solve(q), address=i)
        for i, q in enumerate(asked)
      ],
      Sampling(1, self.answer_tokens, temperature=0.0),
      key,
    )
    right = together(
      lambda: [
        q.task.reward(q, rewards.answers(q.task, told_G))[0]
        for q, told_G in zip(asked, told, strict=True)
      ]
    )
    ends = np.cumsum([0, *map(len, asked_P)])
    shares = [np.mean(right[a:b]) for a, b in itertools.pairwise(ends)]
    return np.array(shares), sum(len(r.tokens_T) for (r,) in told)


def matched(
  documents: Sequence[Rollout], length: int
) -> list[tuple[Rollout, int]]:
  """Documents of `length` tokens in all: cut, or begun anew; all if 0.

  Returns:
    Each with the tokens of the document that it is, or is a part of.
  """
  if not length or not documents:
    return [(r, len(r.tokens_T)) for r in documents]
  out, left = [], length
  while left:
    for r in documents:
      tokens_T = r.tokens_T[:left]
      if len(tokens_T):
        zeros = np.zeros(len(tokens_T), np.float32)
        part = dataclasses.replace(
          r,
          tokens_T=tokens_T,
          logp_T=zeros,
          kept_T=zeros,
          turn_T=r.turn_T[: len(tokens_T)],
        )
        out.append((part, len(r.tokens_T)))
        left -= len(tokens_T)
  return out


def passages_of(problem: Problem) -> Passages:
  """The task of a passage."""
  if not isinstance(problem.task, Passages):
    raise ValueError(f'{problem.task.name} asks no questions of passages')
  return problem.task


def _written(policy: Player, document: tuple[str, str]) -> Rollout:
  asked, text = document
  return policy.written(Prompt('solver', asked), text)


def _keys(key: jax.Array, places: Sequence[tuple[int, int]]) -> jax.Array:
  """A key by address and seed, `[E]`."""
  place, seed = np.array(places, np.int32).reshape(-1, 2).T

  def one(p, s):
    return jax.random.fold_in(jax.random.fold_in(key, p), s)

  return jax.vmap(one)(place, seed)

"""Learning to correct from the base's attempts: what SCoRe is held against.

(arXiv 2409.12917, section 4.) The base, as it was before training, makes
attempts; where a right one follows a wrong one, it is learned by heart after
that:

| | what follows the first attempt |
|---|---|
| `star` | the base's own second one (after STaR, arXiv 2203.14465) |
| `pairs` | an independent first one (after Welleck et al., arXiv 2211.00053) |

`kept_right` adds right ones that follow right ones. First attempts are read and
not learned: most of them are wrong.

The base is asked anew at each step, for other problems. That is one pass over
what could have been drawn from it before training, and no token is spent before
it is used. With `reference` `every:K` the model becomes the base at every K-th
step: STaR's rounds, but that each goes on from the last.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxdistill.dist.hosts import together
from jaxdistill.methods.method import (
  Method,
  check_choice,
  check_minibatches,
  check_paid,
)
from jaxdistill.rollout import (
  Sampling,
  measure,
  merged,
  transcript,
  turns,
)
from jaxdistill.types import (
  Anchor,
  Collected,
  Prompt,
  Rollout,
  RowSet,
  Update,
  response_row,
)

SYSTEMS: dict[str, dict[str, Any]] = {
  'star': {'method.name': 'pair_sft', 'method.keep': 'star'},
  'pair_sft': {'method.name': 'pair_sft', 'method.keep': 'pairs'},
}


# What follows each first attempt, if anything does.
Follow = Callable[..., list[list[Rollout | None]]]


def star(base, problems, first_PG, right_PG, sampling, key):
  """The base's own second attempts; none follows one that was cut."""
  del right_PG
  both_PG = turns.revised(base, problems, first_PG, sampling, key)
  return [[turns.second_of(r) for r in both_G] for both_G in both_PG]


def pairs(base, problems, first_PG, right_PG, sampling, key):
  """The next right one of a problem's other samples, round about."""
  del sampling, key

  def after(problem, first_G, right_G, i):
    others = [(i + j) % len(first_G) for j in range(1, len(first_G))]
    found = [first_G[j] for j in others if right_G[j]]
    if not found or first_G[i].finish != 'stop':
      return None
    return turns.followed(base, problem, first_G[i], found[0])

  groups = [*zip(problems, first_PG, right_PG, strict=True)]
  return together(
    lambda: [
      [after(p, first_G, right_G, i) for i in range(len(first_G))]
      for p, first_G, right_G in groups
    ]
  )


KEPT: dict[str, Follow] = {'star': star, 'pairs': pairs}


@dataclasses.dataclass(frozen=True)
class PairSft(Method):
  """Hyper-parameters of learning to correct from the base's attempts.

  Attributes:
    problems: Problems per step, over all hosts.
    samples: First attempts at each.
    max_tokens: Longest attempt.
    keep: `star` or `pairs`, see above.
    kept_right: Whether right ones after right ones are learned as well.
    reference: When the anchor `base` moves, see `anchors/rules.py`.
    epochs: Passes over each step's rows.
    minibatches: Optimizer steps per pass.
  """

  problems: int = 32
  samples: int = 8
  max_tokens: int = 64
  keep: str = 'star'
  kept_right: bool = False
  reference: str = 'frozen'
  epochs: int = 1
  minibatches: int = 1

  def __post_init__(self):
    check_choice(self, 'keep', KEPT)
    if self.reference.startswith('model:'):
      raise ValueError(
        f'method.reference is {self.reference!r}; it must be a self of the '
        "policy: its very tokens are learned, and another model's may be others"
      )
    if self.keep == 'pairs' and self.samples < 2:
      raise ValueError(f'method.samples is {self.samples}; a pair needs 2')
    check_minibatches(self.minibatches, self.problems * self.samples)
    Sampling(self.samples, self.max_tokens)

  @property
  def anchors(self):
    return {'base': Anchor(self.reference, measured=False)}

  @property
  def words(self):
    return {'policy': ['revise']}

  def check(self, task):
    check_paid(task, 'method pair_sft')

  def collect(self, players, problems, state, step, key):
    del step
    yield  # the policy is asked for nothing
    base = players['base']
    first_PG = base.generate(
      [Prompt.solve(p) for p in problems],
      Sampling(self.samples, self.max_tokens),
      jax.random.fold_in(key, 0),
    )
    right_PG = self._right(problems, first_PG)
    second_PG = KEPT[self.keep](
      *(base, problems, first_PG, right_PG),
      Sampling(1, self.max_tokens),
      jax.random.fold_in(key, 1),
    )
    kept_PG = self._right(problems, second_PG)
    kept_PG &= ~right_PG | self.kept_right
    kept = [
      r
      for second_G, kept_G in zip(second_PG, kept_PG, strict=True)
      for r, learned in zip(second_G, kept_G, strict=True)
      if r and learned
    ]
    rows = merged([response_row(r, 1.0, len(r.tokens_T)) for r in kept])
    first = [r for first_G in first_PG for r in first_G]
    second = [r for second_G in second_PG for r in second_G if r]
    asked = first + second * (self.keep == 'star')  # others are drawn once
    metrics = {
      'pair_sft/kept': kept_PG.ravel().astype(float),
      'pair_sft/kept_right': right_PG[kept_PG].astype(float),
      'pair_sft/worth_turn_1': right_PG.ravel().astype(float),
    }
    transcripts = [
      transcript(
        *(p, first_PG[i]),
        by_text={
          'followed_by': [r and r.text for r in second_PG[i]],
          'kept': kept_PG[i].tolist(),
        },
      )
      for i, p in enumerate(problems)
    ]
    sets = (RowSet('solver', rows),)
    return Collected(
      [Update(sets, self.epochs, self.minibatches)],
      state,
      metrics | measure(asked),
      transcripts,
      tokens=sum(len(r.tokens_T) for r in asked),
    )

  def _right(self, problems, attempts_PG) -> np.ndarray:
    """What the task pays for, bool[P, G]."""
    answers_PG = turns.answered(problems, attempts_PG)
    paid_PG = turns.worth(problems, answers_PG)
    return paid_PG.reshape(-1, self.samples) > 0

  def loss(self, model, anchors, batch):
    del anchors
    return -batch.logprobs(model), {}

  def evaluate(self, policy, problems, key):
    return turns.corrections(policy, problems, self.max_tokens, key)

  def against(self, players, problems, key):
    return turns.against(players, problems, self.max_tokens, key)

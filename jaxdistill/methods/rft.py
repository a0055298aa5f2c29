"""Learning one's own answers by heart: all of them, or those that are kept.

| | kept | drawn |
|---|---|---|
| SSD, simple self-distillation (2604.01193) | all | apart from how it is used |
| RFT, rejection fine-tuning (2308.01825) | those that are right | as usual |
| the same without a label | those that agree with the vote | as usual |

`-log p(token | before)`, averaged over all tokens that are kept. Nothing is
told and nobody teaches: these are what self-distillation is to be held against,
one that reads nothing more and one that pays by the whole answer.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdistill.dist.hosts import together
from jaxdistill.methods.method import (
  Method,
  check_minibatches,
  check_paid,
)
from jaxdistill.rollout import Sampling, contexts, measure, merged, transcript
from jaxdistill.spelling import nearest
from jaxdistill.types import (
  Collected,
  Problem,
  Prompt,
  Rollout,
  RowSet,
  Update,
  response_row,
)

KEPT = ('all', *contexts.JUDGES)
SYSTEMS: dict[str, dict[str, Any]] = {
  'ssd': {
    'method.name': 'rft',
    'method.keep': 'all',
    'method.temperature': 0.7,
    'method.top_p': 0.95,
  },
  'rft': {'method.name': 'rft', 'method.keep': 'known'},
  'rft_vote': {'method.name': 'rft', 'method.keep': 'vote'},
}


@dataclasses.dataclass(frozen=True)
class Rft(Method):
  """Hyper-parameters of learning by heart.

  Attributes:
    problems: Problems per step, over all hosts.
    samples: Answers per problem.
    max_tokens: Longest answer; one that is cut is kept by nobody but `all`.
    keep: `all`; what is `known` to be right; or what agrees with the `vote`.
    most: How many are kept of a problem at most, the shortest; 0 is no limit.
    undoubting: Whether they are learned without their doubts and detours, as
      the task takes them out: what is lost by that alone?
    temperature: Of sampling; what is learned is at 1.
    top_k: Of sampling; 0 keeps all tokens.
    top_p: Of sampling.
    epochs: Passes over each step's rows.
    minibatches: Optimizer steps per pass.
  """

  problems: int = 32
  samples: int = 8
  max_tokens: int = 64
  keep: str = 'vote'
  most: int = 0
  undoubting: bool = False
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  epochs: int = 1
  minibatches: int = 1

  def __post_init__(self):
    if self.keep not in KEPT:
      raise ValueError(
        f'method.keep is {self.keep!r}; it must be one of {", ".join(KEPT)}; '
        f'the nearest is {nearest(self.keep, KEPT)!r}'
      )
    if self.keep == 'vote' and self.samples < 2:
      raise ValueError(f'method.samples is {self.samples}; a vote needs 2')
    check_minibatches(self.minibatches, self.problems * self.samples)
    self.sampling()

  def check(self, task):
    if self.keep == 'known':
      check_paid(task, "method.keep='known'")

  def sampling(self) -> Sampling:
    """How answers are drawn."""
    return Sampling(
      self.samples,
      self.max_tokens,
      temperature=self.temperature,
      top_k=self.top_k,
      top_p=self.top_p,
    )

  def collect(self, players, problems, state, step, key):
    del step
    policy = players['policy']
    rollouts_PG = policy.generate(
      [Prompt.solve(p) for p in problems], self.sampling(), key
    )
    kept_PG = [
      self.kept(p, rollouts_G)
      for p, rollouts_G in zip(problems, rollouts_PG, strict=True)
    ]
    kept = [r for kept_G in kept_PG for r in kept_G]
    if self.undoubting:
      kept = together(
        lambda: [
          policy.written(r.prompt, p.task.without_thinking(r.text))
          for p, kept_G in zip(problems, kept_PG, strict=True)
          for r in kept_G
          if r.finish == 'stop'  # what was cut has no end to be learned
        ]
      )
    yield  # what follows asks the policy for nothing
    rows = merged([response_row(r, 1.0, len(r.tokens_T)) for r in kept])
    rollouts = [r for rollouts_G in rollouts_PG for r in rollouts_G]
    share = np.repeat([1.0, 0.0], [len(kept), len(rollouts) - len(kept)])
    sets = (RowSet('solver', rows),)
    told = together(lambda: [*map(transcript, problems, rollouts_PG)])
    return Collected(
      [Update(sets, self.epochs, self.minibatches)],
      state,
      {'train/kept': share} | measure(rollouts),
      told,
      tokens=sum(len(r.tokens_T) for r in rollouts),
    )

  def kept(
    self, problem: Problem, rollouts_G: Sequence[Rollout]
  ) -> list[Rollout]:
    """What is learned of the answers to a problem."""
    found = list(rollouts_G)
    if self.keep != 'all':
      known = contexts.JUDGES[self.keep](problem, rollouts_G)
      pairs = zip(rollouts_G, known.right_G, strict=True)
      found = [r for r, right in pairs if right]
    if self.most:
      found = sorted(found, key=lambda r: len(r.tokens_T))[: self.most]
    return found

  def loss(self, model, anchors, batch):
    del anchors
    return -batch.logprobs(model), {}

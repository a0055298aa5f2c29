"""Learning one's own answers by heart: all of them, or those that are kept.

| | kept | drawn |
|---|---|---|
| SSD, simple self-distillation (2604.01193) | all | apart from how it is used |
| RFT, rejection fine-tuning (2308.01825) | those that are right | as usual |
| the same without a label | those that agree with the vote | as usual |
| self-improvement (2412.02674) | what a verifier scores high | as usual |

`-log p(token | before)`, averaged over all tokens that are kept. Nothing is
told and nobody teaches: these are what self-distillation is to be held against,
one that reads nothing more and one that pays by the whole answer.

A step is a round of self-improvement: generate, verify, keep, fine-tune. How
much a round can gain by a verifier is measured before: `jaxdistill gap
--verifier`. What differs from the papers: a problem counts as often as its
answers are kept, not once, and an answer as often as it was drawn (2308.01825
keeps different workings once each); each round goes on from the last one.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxdistill import rewards
from jaxdistill.dist.hosts import together
from jaxdistill.methods.method import (
  Method,
  check_choice,
  check_minibatches,
  check_paid,
  check_unread,
)
from jaxdistill.rollout import Sampling, contexts, measure, merged, transcript
from jaxdistill.rollout.verify import (
  VERIFIERS,
  Verified,
  asked_by,
  check_verifier,
  unread_by,
  verify,
)
from jaxdistill.types import (
  Anchor,
  Collected,
  Problem,
  Prompt,
  Rollout,
  RowSet,
  Update,
  response_row,
)

KEPT = ('all', 'known', *VERIFIERS)
SURE = 0.5  # a score, where no threshold is given
SYSTEMS: dict[str, dict[str, Any]] = {
  'ssd': {'method.name': 'rft', 'method.keep': 'all'}
  | {'method.temperature': 0.7, 'method.top_p': 0.95},
  'rft': {'method.name': 'rft', 'method.keep': 'known'},
  'rft_vote': {'method.name': 'rft', 'method.keep': 'vote'},
  'rft_yes': {'method.name': 'rft', 'method.keep': 'yes'},
}


@dataclasses.dataclass(frozen=True)
class Rft(Method):
  """Hyper-parameters of learning by heart.

  Attributes:
    problems: Problems per step, over all hosts.
    samples: Answers per problem.
    max_tokens: Longest answer; one that is cut is kept by nobody but `all`.
    keep: `all`; what is `known` to be right; or what a verifier scores at least
      `threshold`, see `rollout/verify.py`.
    threshold: From 0 to 1; at 0 it is 0.5, and of `vote` what agrees with the
      majority.
    verifier: Who verifies: the `policy`, or another by an anchor's rule:
      `frozen` is as it began, `model:NAME` another model.
    check_tokens: Longest check that a verifier writes.
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
  threshold: float = 0.0
  verifier: str = 'policy'
  check_tokens: int = 256
  most: int = 0
  undoubting: bool = False
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  epochs: int = 1
  minibatches: int = 1

  def __post_init__(self):
    check_choice(self, 'keep', KEPT)
    if self.keep in ('vote', 'tournament') and self.samples < 2:
      raise ValueError(
        f'method.samples is {self.samples}; a {self.keep} needs 2'
      )
    if not 0 <= self.threshold <= 1:
      raise ValueError(
        f'method.threshold is {self.threshold}; a score is from 0 to 1'
      )
    why = f'method.keep is {self.keep!r}'
    unread = () if self.keep in VERIFIERS else ('threshold',)
    check_unread(self, Rft, why, *unread, *unread_by(self.keep))
    check_minibatches(self.minibatches, self.problems * self.samples)
    self.sampling()

  @property
  def anchors(self):
    other = Anchor(self.verifier, measured=False)
    return {} if self.verifier == 'policy' else {'verifier': other}

  @property
  def words(self):
    return {'verifier': asked_by(self.keep)}

  def check(self, task):
    if self.keep == 'known':
      check_paid(task, "method.keep='known'")
    check_verifier(self.keep, task)

  def sampling(self) -> Sampling:
    """How answers are drawn."""
    return Sampling.by(self, self.samples, self.max_tokens)

  def collect(self, players, problems, state, step, key):
    del step
    policy = players['policy']
    rollouts_PG = policy.generate(
      [Prompt.solve(p) for p in problems], self.sampling(), key
    )
    verified = self._verified(players, problems, rollouts_PG, key)
    triples = zip(problems, rollouts_PG, verified.scores_PG, strict=True)
    kept_PG = together(lambda: [self.kept(*triple) for triple in triples])
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
    metrics = {
      'train/kept': share,
      'train/unread': [float(x) for x in verified.unread],
    }
    metrics |= together(lambda: _known(problems, rollouts_PG, kept_PG))
    told = together(
      lambda: [
        transcript(p, rollouts_G, by_text={'scores': _rounded(scores_G)})
        for p, rollouts_G, scores_G in zip(
          problems, rollouts_PG, verified.scores_PG, strict=True
        )
      ]
    )
    drawn = sum(len(r.tokens_T) for r in rollouts)
    return Collected(
      [Update(sets, self.epochs, self.minibatches)],
      state,
      metrics | measure(rollouts),
      told,
      tokens=drawn + verified.tokens,
      scored=verified.scored,
    )

  def _verified(self, players, problems, rollouts_PG, key) -> Verified:
    """Scores of all answers; NaN where nobody is to verify."""
    if self.keep not in VERIFIERS:
      nobody = [np.full(len(g), np.nan) for g in rollouts_PG]
      return Verified(nobody)
    return verify(
      self.keep,
      players.get('verifier', players['policy']),
      *(problems, rollouts_PG),
      key=jax.random.fold_in(key, 1),
      max_tokens=self.check_tokens,
    )

  def kept(
    self,
    problem: Problem,
    rollouts_G: Sequence[Rollout],
    scores_G: np.ndarray,
  ) -> list[Rollout]:
    """What is learned of the answers to a problem."""
    found = list(rollouts_G)
    if self.keep != 'all':
      pairs = zip(
        rollouts_G, self._right(problem, found, scores_G), strict=True
      )
      found = [r for r, right in pairs if right]
    if self.most:
      found = sorted(found, key=lambda r: len(r.tokens_T))[: self.most]
    return found

  def _right(self, problem, rollouts_G, scores_G) -> Sequence[bool | None]:
    """Which answers are right, or taken for it."""
    if not self.threshold and self.keep in contexts.JUDGES:
      return contexts.JUDGES[self.keep](problem, rollouts_G).right_G
    return (scores_G >= (self.threshold or SURE)).tolist()

  def loss(self, model, anchors, batch):
    del anchors
    return -batch.logprobs(model), {}


def _known(problems, rollouts_PG, kept_PG) -> dict[str, list[float]]:
  """How often answers are right, and by how much more the kept ones of each
  problem; nothing learns it."""

  def right(problem, answered_G):
    answers_G = rewards.answers(problem.task, answered_G)
    return [float(rewards.is_right(a, problem.answer)) for a in answers_G]

  out: dict[str, list[float]] = {'train/right': [], 'train/gap': []}
  for p, rollouts_G, kept_G in zip(problems, rollouts_PG, kept_PG, strict=True):
    if p.answer is not None:
      every = right(p, rollouts_G)
      out['train/right'] += every
      after = np.mean(right(p, kept_G) or every)
      out['train/gap'].append(float(after - np.mean(every)))
  return out


def _rounded(scores_G: np.ndarray) -> list[float | None]:
  return [None if np.isnan(s) else round(float(s), 3) for s in scores_G]

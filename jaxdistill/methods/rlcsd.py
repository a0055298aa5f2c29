"""RLCSD: a verifier says in which direction, a contrast of hints says where.

(arXiv 2606.11709.) The model itself scores each of its answers after a right
hint and after wrong ones; the difference

  e = log p(y | right hint) - log mean_k p(y | wrong hint k)

is large where the hint's being *right* matters, not where any hint does, which
is what plain self-distillation also follows. It is added to the advantage of
the answer (GRPO's), token by token and without turning its sign:

  r = strength tanh(e / scale), if |r| > threshold;  A + r, cut at 0 by A's side

Tokens with `|r| > threshold` are averaged apart from the others. Hints are
siblings with another text (one's own would be copied, which tells nothing of
right and wrong): the first right one, and wrong ones. An answer without both
keeps its advantage as it is; groups that are all right or all wrong are left
out.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import logsumexp

from jaxdistill.dist.hosts import sum_over_hosts, together
from jaxdistill.methods.method import (
  Method,
  check_choice,
  check_minibatches,
  check_paid,
  check_unread,
)
from jaxdistill.methods.policy_gradient import UNPAID, UNREAD, PolicyGradient
from jaxdistill.rollout import contexts, measure, merged, transcript
from jaxdistill.rollout.contexts import Case
from jaxdistill.types import Anchor, Collected, Prompt, Row, response_row

# The keys of a config that make it this one.
SYSTEMS = {'rlcsd': {'method.name': 'rlcsd'} | UNREAD}


@dataclasses.dataclass(frozen=True)
class Rlcsd(Method):
  """Hyper-parameters of RLCSD.

  Attributes:
    problems: Problems per step, over all hosts.
    samples: Answers per problem.
    max_tokens: Longest answer.
    judge: Who says what is right: `known` or, without a label, `vote`.
    teacher: When the one follows who reads the hints.
    wrong_hints: How many at most.
    strength: What the contrast adds to an advantage at most.
    scale: Of the contrast, in nats, at which it adds three quarters of that.
    threshold: What it must add for a token to be averaged apart.
    apart: Weight of those tokens' mean beside that of the others.
    policy: How answers are drawn and learned from.
  """

  problems: int = 32
  samples: int = 8
  max_tokens: int = 64
  judge: str = 'known'
  teacher: str = 'every:10'
  wrong_hints: int = 4
  strength: float = 0.5
  scale: float = 0.02
  threshold: float = 0.02
  apart: float = 1.0
  policy: PolicyGradient = PolicyGradient(kl=0.0)

  def __post_init__(self):
    check_choice(self, 'judge', contexts.JUDGES)
    if self.samples < 3:
      raise ValueError(
        f'method.samples is {self.samples}; an answer, a right one and a wrong '
        'one are 3'
      )
    if self.scale <= 0:
      raise ValueError(f'method.scale is {self.scale}; it must be positive')
    names = 'kl', 'reference', 'overlong'
    check_unread(self.policy, UNPAID, 'rlcsd has none', *names)
    why = 'its advantages and weights are by token, its groups mixed'
    check_unread(self.policy, UNPAID, why, 'objective')
    check_minibatches(self.policy.minibatches, self.problems * self.samples)

  @property
  def anchors(self):
    return {'teacher': Anchor(self.teacher)}

  def check(self, task):
    if self.judge == 'known':
      check_paid(task, "method.judge='known'")

  def collect(self, players, problems, state, step, key):
    del step
    rollouts_PG = players['policy'].generate(
      [Prompt.solve(p) for p in problems],
      self.policy.sampling(self.samples, self.max_tokens),
      key,
    )
    yield  # what follows asks the policy for nothing
    cases_PG = contexts.cases(problems, rollouts_PG, self.judge, 'sibling')
    cases = [c for cases_G in cases_PG for c in cases_G]
    paid = np.array([float(bool(c.right)) for c in cases])
    advantages = self.policy.advantages(paid.reshape(-1, self.samples)).ravel()
    hints = [texts for cases_G in cases_PG for texts in self._hints(cases_G)]
    mixed = [
      len({c.right for c in cases_G} & {True, False}) == 2
      for cases_G in cases_PG
      for _ in cases_G
    ]
    kept = np.flatnonzero(mixed).tolist()
    contrasts, scored = self._contrasts(
      [cases[i] for i in kept], [hints[i] for i in kept], players['teacher']
    )
    rows = self._rows([cases[i] for i in kept], advantages[kept], contrasts)
    seen = [c for i, c in zip(kept, contrasts, strict=True) if hints[i]]
    flat = np.concatenate([np.zeros(0), *seen])
    metrics: dict[str, Any] = {
      'train/right': paid,
      'train/hinted': [float(bool(texts)) for texts in hints],
      'train/contrast': np.abs(flat),
    }
    told = [
      transcript(p, rollouts_G, by_text={'right': [c.right for c in cases_G]})
      for p, rollouts_G, cases_G in zip(
        problems, rollouts_PG, cases_PG, strict=True
      )
    ]
    return Collected(
      [self.policy.update(self.policy.row_set(rows))],
      state,
      metrics | measure([c.rollout for c in cases]),
      told,
      tokens=sum(len(c.rollout.tokens_T) for c in cases),
      scored=scored,
    )

  def loss(self, model, anchors, batch):
    del anchors
    return self.policy.loss(model, batch)

  def _hints(self, cases_G: Sequence[Case]) -> list[list[str]]:
    """For each response a right text and wrong ones; none without both."""
    out = []
    for case in cases_G:
      own = ('', case.rollout.text)
      others = [c for c in cases_G if c.rollout.text not in own]
      rights = [c.rollout.text for c in others if c.right is True]
      wrongs = [c.rollout.text for c in others if c.right is False]
      hints = [*rights[:1], *wrongs[: self.wrong_hints]]
      out.append(hints if rights and wrongs else [])
    return out

  def _contrasts(
    self, cases: Sequence[Case], hints: Sequence[Sequence[str]], teacher: Any
  ) -> tuple[list[np.ndarray], int]:
    """What tells a right hint from wrong ones, by token; and tokens scored.

    It is 0 where there are no hints.
    """
    asked = together(
      lambda: [
        teacher.asked(c.rollout, contexts.hinted('full', c, text))
        for c, texts in zip(cases, hints, strict=True)
        for text in texts
      ]
    )
    logps = iter(teacher.logprobs(asked, self.policy.temperature))
    out = []
    for case, texts in zip(cases, hints, strict=True):
      if not texts:
        out.append(np.zeros(len(case.rollout.tokens_T)))
        continue
      right_T, *wrong_KT = (next(logps) for _ in texts)
      out.append(right_T - logsumexp(wrong_KT, 0) + np.log(len(wrong_KT)))
    return out, sum(len(r.tokens_T) for r in asked)

  def modulated(
    self, advantage: float, contrast_T: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Advantages of a response's tokens, and which are averaged apart."""
    added_T = self.strength * np.tanh(contrast_T / self.scale)
    apart_T = np.abs(added_T) > self.threshold
    moved_T = np.where(apart_T, advantage + added_T, advantage)
    low = 0.0 if advantage >= 0 else -np.inf
    high = 0.0 if advantage <= 0 else np.inf
    return np.clip(moved_T, low, high), apart_T

  def _rows(
    self,
    cases: Sequence[Case],
    advantages: np.ndarray,
    contrasts: Sequence[np.ndarray],
  ) -> list[Row]:
    """Rows whose weights make two means of tokens, one plus `apart` others."""
    moved = [
      self.modulated(a, e)
      for a, e in zip(advantages.tolist(), contrasts, strict=True)
    ]
    mine = [sum(int(apart_T.sum()) for _, apart_T in moved)]
    mine.append(sum(len(apart_T) for _, apart_T in moved))
    apart, every = sum_over_hosts(np.array(mine))
    of_apart = self.apart * every / max(apart, 1)
    of_others = every / max(every - apart, 1)
    rows = [
      response_row(
        c.rollout,
        weight=np.where(apart_T, of_apart, of_others).astype(np.float32),
        total=len(apart_T),
        advantage=advantage_T.astype(np.float32),
        old_logp=c.rollout.logp_T,
      )
      for c, (advantage_T, apart_T) in zip(cases, moved, strict=True)
    ]
    return merged(rows)

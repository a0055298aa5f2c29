"""Learn by heart what a verifier keeps: one's own yes or no (2412.02674)."""

import dataclasses

import numpy as np

from jaxdistill.methods.method import Method
from jaxdistill.rollout import Sampling
from jaxdistill.types import Collected, Prompt, RowSet, Update, response_row


@dataclasses.dataclass(frozen=True)
class Rft(Method):
  problems: int = 8
  samples: int = 2
  max_tokens: int = 24

  def collect(self, players, problems, state, step, key):
    policy = players['policy']
    rollouts_PG = policy.generate(
      [Prompt.solve(p) for p in problems],
      Sampling(self.samples, self.max_tokens),
      key,
    )
    rollouts = [r for r_G in rollouts_PG for r in r_G]
    asked = [p.text for p in problems for _ in range(self.samples)]
    checks = [
      Prompt('solver', f'verify {text}:{r.text}?')
      for text, r in zip(asked, rollouts, strict=True)
    ]
    logp = policy.choose(checks, ('yes', 'no'))
    keeps = (logp[:, 0] > logp[:, 1]) & [r.finish == 'stop' for r in rollouts]
    rows = [
      response_row(rollouts[i], 1.0, len(rollouts[i].tokens_T))
      for i in np.flatnonzero(keeps)
    ]
    update = Update((RowSet('solver', rows),))
    return Collected([update], state, {'rft/kept': keeps.astype(float)})

  def loss(self, model, anchors, batch):
    return -batch.logprobs(model), {}

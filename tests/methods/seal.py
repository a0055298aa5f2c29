"""Self-edits judged by what they teach, after SEAL (arXiv 2506.10943).

Each candidate is a piece of training data that the model has written; it is
worth what a short training on it makes of other answers. The best is learned.
"""

import dataclasses

import jax
import numpy as np

from jaxdistill import rewards
from jaxdistill.methods.method import Method
from jaxdistill.optimizer import OptimizerConfig
from jaxdistill.rollout import Sampling
from jaxdistill.types import Collected, Prompt, Records, RowSet, response_row


@dataclasses.dataclass(frozen=True)
class Seal(Method):
  problems: int = 4
  candidates: int = 3
  inner_steps: int = 4
  inner_lr: float = 3e-3
  max_tokens: int = 24

  def init(self):
    return {'edits': Records([])}

  def collect(self, players, problems, state, step, key):
    policy = players['policy']
    sampling = Sampling(self.candidates, self.max_tokens)
    edits_PG = policy.generate(
      [Prompt.solve(p) for p in problems], sampling, key
    )
    edits_E = [*zip(*edits_PG, strict=True)]  # a candidate: one of each problem
    sets_E = [
      RowSet('solver', [response_row(r, 1.0, len(r.tokens_T)) for r in edit])
      for edit in edits_E
    ]
    players_E = policy.adapted(
      sets_E,
      self.loss,
      OptimizerConfig(lr=self.inner_lr),
      steps=[self.inner_steps] * (self.candidates - 1) + [0],
      key=key,
      rank=4,
    )
    scores_E = [self._right(player, problems, key) for player in players_E]
    best = int(np.argmax(scores_E))
    edits = [*state['edits'], [r.text for r in edits_E[best]]]
    return Collected(
      [],
      {'edits': Records(edits)},
      {'seal/score': scores_E, 'seal/plain': [scores_E[-1]]},
      adopt=players_E[best],
    )

  def loss(self, model, anchors, batch):
    return -batch.logprobs(model), {}

  def _right(self, player, problems, key):
    prompts = [Prompt.solve(p) for p in problems]
    key = jax.random.fold_in(key, 1)
    told_PG = player.generate(prompts, Sampling(2, self.max_tokens), key)
    right = [
      rewards.is_right(answer, p.answer)
      for p, told_G in zip(problems, told_PG, strict=True)
      for answer in rewards.answers(p.task, told_G)
    ]
    return float(np.mean(right))

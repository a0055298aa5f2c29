"""Preferences between one's own answers: DPO (arXiv 2305.18290)."""

import dataclasses

import jax

from jaxdistill import losses, rewards
from jaxdistill.methods.method import Method
from jaxdistill.rollout import Sampling
from jaxdistill.types import Collected, Prompt, RowSet, Update, response_row


@dataclasses.dataclass(frozen=True)
class Dpo(Method):
  problems: int = 8
  samples: int = 4
  max_tokens: int = 24
  beta: float = 0.1
  epochs: int = 2

  @property
  def anchors(self):
    return {'base': 'frozen'}

  def collect(self, players, problems, state, step, key):
    rollouts_PG = players['policy'].generate(
      [Prompt.solve(p) for p in problems],
      Sampling(self.samples, self.max_tokens),
      key,
    )
    pairs = []
    for problem, rollouts_G in zip(problems, rollouts_PG, strict=True):
      answers_G = rewards.answers(problem.task, rollouts_G)
      right_G = [rewards.is_right(a, problem.answer) for a in answers_G]
      if any(right_G) and not all(right_G):
        pairs.append([rollouts_G[right_G.index(x)] for x in (True, False)])
    rows, chosen = [], [r for pair in pairs for r in pair]
    logps = iter(players['base'].logprobs(chosen))  # one call on every host
    for n, pair in enumerate(pairs):
      length = sum(len(r.tokens_T) for r in pair)
      for r, sign in zip(pair, (1.0, -1.0), strict=True):
        logp = next(logps)
        # A pair's value stands at each of its tokens.
        row = response_row(
          r, 1 / length, total=0.5, pair=n, sign=sign, anchor_logp=logp
        )
        rows.append(row)
    sets = (RowSet('solver', rows, ('sign', 'anchor_logp'), paired=True),)
    update = Update(sets, self.epochs, fresh_optimizer=True)
    return Collected([update], state, {'dpo/pairs': [len(pairs)]})

  def loss(self, model, anchors, batch):
    reward = batch.logprobs(model) - batch.fields['anchor_logp']
    margin = losses.sum_over(batch.fields['sign'] * reward, batch.pairs)
    value = -jax.nn.log_sigmoid(self.beta * margin)
    return value, {'margin': margin}

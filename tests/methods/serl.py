"""An actor and a judge in one update, after SERL (arXiv 2511.07922).

The judge is shown two answers in both orders and says which is better; one that
changes its mind with the order earns nothing, and neither do the answers.
"""

import dataclasses

import jax
import numpy as np

from jaxdistill import rewards
from jaxdistill.methods.method import Method
from jaxdistill.methods.policy_gradient import PolicyGradient
from jaxdistill.types import Collected, Prompt

ORDERS = ((0, 1), (1, 0))


@dataclasses.dataclass(frozen=True)
class Serl(Method):
  problems: int = 4
  max_tokens: int = 24
  policy: PolicyGradient = PolicyGradient(kl=0.0)

  roles = ('solver', 'judge')

  def collect(self, players, problems, state, step, key):
    policy = players['policy']
    answered_PG = policy.generate(
      [Prompt.solve(p) for p in problems],
      self.policy.sampling(2, self.max_tokens),
      jax.random.fold_in(key, 0),
    )
    asked = [
      self._question(p, rewards.answers(p.task, r_G), order)
      for p, r_G in zip(problems, answered_PG, strict=True)
      for order in ORDERS
    ]
    # What it says is sampled and trained; what it thinks decides who wins.
    said_PG = policy.generate(
      asked, self.policy.sampling(1, 2), jax.random.fold_in(key, 1)
    )
    logp_PC = policy.choose(asked, ('1', '2')).reshape(-1, 2, 2)
    picks = [
      [order[pick] for order, pick in zip(ORDERS, p.argmax(-1), strict=True)]
      for p in logp_PC
    ]
    agrees_P = np.array([a == b for a, b in picks], float)
    wins_PG = np.array([[pick[0] == g for g in (0, 1)] for pick in picks])
    actor = self.policy.rows(
      [r for r_G in answered_PG for r in r_G],
      self.policy.advantages(wins_PG * agrees_P[:, None]).ravel(),
      np.ones(2 * len(problems)),
      None,
      self.max_tokens,
    )
    judged = [r for r_G in said_PG for r in r_G]
    judge = self.policy.rows(
      judged, np.repeat(agrees_P, 2), np.ones(len(judged)), None, 2
    )
    update = self.policy.update(
      self.policy.row_set(actor, 'solver', 'actor'),
      self.policy.row_set(judge, 'judge', 'judge'),
    )
    return Collected([update], state, {'serl/agrees': agrees_P})

  def loss(self, model, anchors, batch):
    values, metrics = self.policy.loss(model, batch)
    if batch.kind == 'judge':
      return values, {'ratio_is_one': 1 - metrics['clipped']}
    return values, metrics

  def _question(self, problem, answers_G, order):
    first, second = (answers_G[i] or '0' for i in order)
    text = f'verify {problem.text}:{first},{second}?'
    return Prompt('judge', text, problem.address * 2 + order[0])

"""GRPO: learn from known answers, each sample compared with its siblings.

(arXiv 2402.03300.) Several answers to each problem; the task pays 1 for a right
one; the advantage is the reward normalised within the problem's group, so no
value network is needed. Its kin differ in three small choices, named by
`objective`, see `policy_gradient.py`.
"""

import dataclasses

import numpy as np

from jaxdistill import rewards
from jaxdistill.methods.method import (
  Method,
  check_minibatches,
  check_paid,
)
from jaxdistill.methods.policy_gradient import PolicyGradient
from jaxdistill.rollout import measure, scored_tokens, transcript
from jaxdistill.types import Collected, Prompt


@dataclasses.dataclass(frozen=True)
class Grpo(Method):
  """Hyper-parameters of GRPO.

  Attributes:
    problems: Problems per step, over all hosts.
    samples: Answers per problem.
    max_tokens: Longest answer.
    policy: How they are drawn and learned from.
  """

  problems: int = 32
  samples: int = 8
  max_tokens: int = 64
  policy: PolicyGradient = PolicyGradient()

  def __post_init__(self):
    if self.samples < 2:
      raise ValueError(
        f'method.samples is {self.samples}; a comparison needs at least 2'
      )
    check_minibatches(self.policy.minibatches, self.problems * self.samples)

  @property
  def anchors(self):
    return self.policy.anchors

  def check(self, task):
    check_paid(task, 'method grpo')

  def collect(self, players, problems, state, step, key):
    del step
    sampling = self.policy.sampling(self.samples, self.max_tokens)
    rollouts_PG = players['policy'].generate(
      [Prompt.solve(p) for p in problems], sampling, key
    )
    yield  # what follows asks the policy for nothing
    answers_PG = [
      rewards.answers(p.task, rollouts_G)
      for p, rollouts_G in zip(problems, rollouts_PG, strict=True)
    ]
    rewards_PG = [
      p.task.reward(p, answers_G)
      for p, answers_G in zip(problems, answers_PG, strict=True)
    ]
    rewards_PG = np.array(rewards_PG, float).reshape(-1, self.samples)
    rows = self.policy.rows_of_groups(
      rollouts_PG, rewards_PG, players.get('base'), self.max_tokens
    )
    rollouts = [r for rollouts_G in rollouts_PG for r in rollouts_G]
    update = self.policy.update(self.policy.row_set(rows))
    metrics = {
      'train/reward': rewards_PG.ravel(),
      'train/learnable': 1.0 - rewards.all_equal(rewards_PG),
    } | measure(rollouts)
    transcripts = [
      transcript(p, rollouts_G, answers_G, rewards=rewards_G.tolist())
      for p, answers_G, rewards_G, rollouts_G in zip(
        problems, answers_PG, rewards_PG, rollouts_PG, strict=True
      )
    ]
    return Collected(
      [update],
      state,
      metrics,
      transcripts,
      tokens=sum(len(r.tokens_T) for r in rollouts),
      scored=scored_tokens(rows) if self.policy.kl else 0,
    )

  def loss(self, model, anchors, batch):
    del anchors
    return self.policy.loss(model, batch)

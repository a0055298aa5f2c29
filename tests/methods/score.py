"""Two turns on-policy, after SCoRe (arXiv 2409.12917), stage I.

The second attempt is rewarded; the first is held where it was by a KL of its
own weight, token by token.
"""

import dataclasses

import jax
import numpy as np

from jaxdistill import losses, rewards
from jaxdistill.methods.method import Method
from jaxdistill.rollout import Sampling
from jaxdistill.types import Collected, Prompt, RowSet, Update, response_row


@dataclasses.dataclass(frozen=True)
class Score(Method):
  problems: int = 4
  samples: int = 4
  max_tokens: int = 24
  hold: float = 0.5

  @property
  def anchors(self):
    return {'base': 'frozen'}

  def attempts(self, policy, problems, samples, key):
    """Both attempts of each sample, in one rollout."""
    first_PG = policy.generate(
      [Prompt.solve(p) for p in problems],
      Sampling(samples, self.max_tokens),
      jax.random.fold_in(key, 0),
    )
    first = [r for r_G in first_PG for r in r_G]
    again = [r.prompt.text for r in first]
    both = policy.follow_up(
      first, again, Sampling(1, self.max_tokens), jax.random.fold_in(key, 1)
    )
    return [r for (r,) in both]

  def collect(self, players, problems, state, step, key):
    both = self.attempts(players['policy'], problems, self.samples, key)
    asked = [p for p in problems for _ in range(self.samples)]
    right = np.array(
      [right_at(p, r, -1) for p, r in zip(asked, both, strict=True)]
    )
    advantages = rewards.group_normalised(right.reshape(-1, self.samples))
    logps = players['base'].logprobs(both)
    rows = [
      response_row(
        r,
        weight=1.0,
        total=len(r.tokens_T),
        advantage=np.where(r.turn_T > 0, advantage, 0),
        old_logp=r.logp_T,
        anchor_logp=logp_T,
        hold=np.where(r.turn_T == 0, self.hold, 0),
      )
      for r, advantage, logp_T in zip(
        both, advantages.ravel(), logps, strict=True
      )
    ]
    names = ('advantage', 'old_logp', 'anchor_logp', 'hold')
    update = Update((RowSet('solver', rows, names),))
    told = [{'turns': [*r.earlier, r.text]} for r in both]
    tokens = sum(int((r.turn_T >= 0).sum()) for r in both)
    return Collected([update], state, {'score/right': right}, told, tokens)

  def evaluate(self, policy, problems, key):
    both = self.attempts(policy, problems, 1, key)
    return {
      f'accuracy_turn_{turn}': [
        right_at(p, r, turn - 1) for p, r in zip(problems, both, strict=True)
      ]
      for turn in (1, 2)
    }

  def loss(self, model, anchors, batch):
    f, logp = batch.fields, batch.logprobs(model)
    ratio = logp - f['old_logp']
    value = losses.clipped_policy(ratio, f['advantage'], 0.2, 0.2)
    kl = losses.k3(logp, f['anchor_logp'])
    return value + f['hold'] * kl, {'kl_base': kl}


def right_at(problem, rollout, turn):
  said = [*rollout.earlier, rollout.text]
  if rollout.finish == 'length' and turn in (-1, len(said) - 1):
    return 0.0
  answer = problem.task.parse_answer(said[min(turn, len(said) - 1)])
  return float(rewards.is_right(answer, problem.answer))

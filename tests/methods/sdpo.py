"""Self-distillation from a sibling's answer, after SDPO (arXiv 2601.20802).

The teacher is a moving average of the policy, by optimizer step, that reads the
right answer as a hint. Where no sibling is right, nothing is learned. The
divergence is over the student's k likeliest tokens and a bucket for the rest.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdistill import rewards
from jaxdistill.methods.method import Method
from jaxdistill.rollout import Sampling
from jaxdistill.types import (
  Anchor,
  Collected,
  Prompt,
  RowSet,
  Update,
  response_row,
)


@dataclasses.dataclass(frozen=True)
class Sdpo(Method):
  problems: int = 4
  samples: int = 4
  max_tokens: int = 24
  k: int = 5
  decay: float = 0.5
  minibatches: int = 2

  @property
  def anchors(self):
    rule = f'ema:{self.decay}'
    return {'teacher': Anchor(rule, in_loss=True, clock='optimizer')}

  def collect(self, players, problems, state, step, key):
    policy, rows, taught = players['policy'], [], []
    rollouts_PG = policy.generate(
      [Prompt.solve(p) for p in problems],
      Sampling(self.samples, self.max_tokens),
      key,
    )
    for problem, rollouts_G in zip(problems, rollouts_PG, strict=True):
      answers_G = rewards.answers(problem.task, rollouts_G)
      right_G = [rewards.is_right(a, problem.answer) for a in answers_G]
      for i, rollout in enumerate(rollouts_G):
        hints = [j for j, right in enumerate(right_G) if right and j != i]
        taught.append(float(bool(hints)))
        if hints:
          text = f'hint {answers_G[hints[0]]} {rollout.prompt.text}'
          rows.append(
            response_row(
              rollout,
              weight=1.0,
              total=len(rollout.tokens_T),
              teacher_prompt_T=policy.encode(Prompt('solver', text)),
            )
          )
    sets = (RowSet('solver', rows, taught=True),)
    update = Update(sets, minibatches=self.minibatches)
    return Collected([update], state, {'sdpo/taught': taught})

  def loss(self, model, anchors, batch):
    teacher = anchors['teacher']
    value = batch.over_targets(self.divergence, model, teacher)
    return value, {'kl_teacher': value}

  def divergence(self, student, teacher):
    """Reverse KL over k + 1 buckets, of logits [B, C, V], [B, C]."""
    student = jax.nn.log_softmax(student)
    teacher = jax.nn.log_softmax(teacher)
    _, ids = jax.lax.top_k(student, self.k)
    s, t = (
      with_tail(jnp.take_along_axis(x, ids, -1)) for x in (student, teacher)
    )
    return jnp.sum(jnp.exp(s) * (s - t), -1)


def with_tail(logp):
  """Log-probs of k tokens, and of all others together."""
  kept = jnp.minimum(jax.nn.logsumexp(logp, -1, keepdims=True), -1e-7)
  return jnp.concatenate([logp, jnp.log(-jnp.expm1(kept))], -1)

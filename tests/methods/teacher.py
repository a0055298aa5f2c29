"""A stronger model's k likeliest tokens on the student's own answers."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdistill.methods.method import Method
from jaxdistill.rollout import Sampling
from jaxdistill.types import (
  Collected,
  Field,
  Prompt,
  RowSet,
  Update,
  response_row,
)


@dataclasses.dataclass(frozen=True)
class Teacher(Method):
  problems: int = 8
  max_tokens: int = 24
  k: int = 4
  teacher: str = 'model:small-late?cache_gib=0.1'

  @property
  def anchors(self):
    return {'teacher': self.teacher}

  def collect(self, players, problems, state, step, key):
    rollouts_PG = players['policy'].generate(
      [Prompt.solve(p) for p in problems], Sampling(1, self.max_tokens), key
    )
    rollouts = [r for r_G in rollouts_PG for r in r_G]
    ids, logps = players['teacher'].top(rollouts, self.k)
    rows = [
      response_row(r, 1.0, len(r.tokens_T), ids=i, teacher_logp=logp)
      for r, i, logp in zip(rollouts, ids, logps, strict=True)
    ]
    fields = Field('ids', (self.k,), 'int32'), Field('teacher_logp', (self.k,))
    update = Update((RowSet('solver', rows, fields),))
    return Collected([update], state, {})

  def loss(self, model, anchors, batch):
    value = batch.over_targets(
      divergence,
      model,
      arrays=(batch.fields['ids'], batch.fields['teacher_logp']),
    )
    return value, {'kl_teacher': value}


def divergence(logits, ids, teacher_logp):
  """Forward KL over the teacher's tokens, [B, C]."""
  logp = jnp.take_along_axis(jax.nn.log_softmax(logits), ids, -1)
  return jnp.sum(jnp.exp(teacher_logp) * (teacher_logp - logp), -1)

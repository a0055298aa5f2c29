"""Learning from another model: from what it says, or what it would have said.

| | whose responses | what is learned of them |
|---|---|---|
| sequence level (1606.07947) | the teacher's | the text: `-log S(y)` |
| its distributions on its texts | the teacher's | forward KL |
| GKD (2306.13649) | the student's, a share of them | generalised JSD |
| on-policy distillation | the student's | reverse KL, the sampled token |

`SYSTEMS` has them by name. The teacher is any model, as `config.model` names
one (`model:NAME`), or a past self by an anchor's rule. Its log-probs are of use
where both have one vocabulary; its texts are where they have not. A `judge`
keeps what it takes for right of either's responses: without one, all is
learned from.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxdistill.dist.hosts import together
from jaxdistill.methods.distillation import (
  DISTANCE,
  UNTAUGHT,
  Distillation,
  by_share,
  drawn_set,
  taught_rows,
)
from jaxdistill.methods.method import (
  Method,
  check_choice,
  check_minibatches,
  check_paid,
  check_unread,
)
from jaxdistill.methods.policy_gradient import (
  REWARDS,
  UNPAID,
  UNREAD,
  PolicyGradient,
)
from jaxdistill.rollout import (
  Player,
  contexts,
  measure,
  scored_tokens,
  transcript,
)
from jaxdistill.types import Anchor, Collected, Problem, Prompt, Rollout, RowSet

LEARNED = ('distribution', 'text')
JUDGES = ('none', *contexts.JUDGES)
_NAME = {'method.name': 'teacher_distill', 'method.entropy': 0.0} | UNREAD
_TEXT = {f'method.{name}': getattr(UNTAUGHT, name) for name in DISTANCE}
_TEXT |= {'method.on_policy': 0.0, 'method.learn': 'text'}
# The keys of a config that make it one of these.
SYSTEMS: dict[str, dict[str, Any]] = {
  'sequence_kd': _NAME | _TEXT,
  'word_kd': {
    **_NAME,
    'method.on_policy': 0.0,
    'method.alpha': 0.0,
    'method.support': 'all',
  },
  'gkd': {**_NAME, 'method.on_policy': 0.5, 'method.support': 'all'},
  'on_policy_kd': {**_NAME, 'method.alpha': 1.0, 'method.support': 'sampled'},
}


@dataclasses.dataclass(frozen=True)
class TeacherDistill(Method):
  """Hyper-parameters of learning from another model.

  Attributes:
    problems: Problems per step, over all hosts.
    samples: Answers per problem.
    max_tokens: Longest answer.
    teacher: Who teaches: `model:NAME`, or the rule of a past self.
    on_policy: The share of problems that the student answers (GKD's lambda);
      the teacher answers the others.
    learn: The teacher's `distribution` over next tokens, or the `text` alone.
    judge: Whose word decides what is learned from: `none`, `known` or `vote`.
    distillation: How the student is drawn to distributions.
    policy: How answers are drawn, by either.
  """

  problems: int = 32
  samples: int = 8
  max_tokens: int = 64
  teacher: str = 'model:small-late'
  on_policy: float = 1.0
  learn: str = 'distribution'
  judge: str = 'none'
  distillation: Distillation = Distillation()
  policy: PolicyGradient = PolicyGradient(kl=0.0)

  def __post_init__(self):
    check_choice(self, 'learn', LEARNED)
    check_choice(self, 'judge', JUDGES)
    if not 0 <= self.on_policy <= 1:
      raise ValueError(
        f'method.on_policy is {self.on_policy}; it must be a share, 0 to 1'
      )
    if self.learn == 'text' and self.on_policy == 1:
      raise ValueError(
        "method.learn is 'text' and the student writes all of it "
        '(method.on_policy is 1): method rft does that'
      )
    both = self.on_policy < 1 and self.learn == 'distribution'
    if self.distillation.support == 'sampled' and both:
      raise ValueError(
        f"method.support is 'sampled' and method.on_policy {self.on_policy}: "
        "the teacher's own tokens do not estimate the reverse KL; the support "
        'must be another, or on_policy 1'
      )
    why = 'the teacher holds it'
    check_unread(self.policy, UNPAID, why, 'kl', 'reference')
    why = 'there is no policy gradient'
    check_unread(self.policy, UNPAID, why, *REWARDS)
    why = 'teacher_distill weighs no token by it'
    check_unread(self.distillation, UNTAUGHT, why, 'entropy')
    if self.learn == 'text':
      why = "method.learn is 'text'"
      check_unread(self.distillation, UNTAUGHT, why, *DISTANCE)
      check_unread(self.policy, UNPAID, why, 'importance_cap')
    if self.distillation.support == 'sampled':
      self.policy.check_whole()
    if self.judge == 'vote' and self.samples < 2:
      raise ValueError(f'method.samples is {self.samples}; a vote needs 2')
    check_minibatches(self.policy.minibatches, self.problems * self.samples)

  @property
  def anchors(self):
    return {'teacher': Anchor(self.teacher, self.learn == 'distribution')}

  def check(self, task):
    if self.judge == 'known':
      check_paid(task, "method.judge='known'")

  def collect(self, players, problems, state, step, key):
    del step
    policy, teacher = players['policy'], players['teacher']
    own, given = self._divided(problems, key)
    sampling = self.policy.sampling(self.samples, self.max_tokens)
    asked, others = ([Prompt.solve(p) for p in x] for x in (own, given))
    drawn_PG = policy.generate(asked, sampling, key)
    said_PG = teacher.generate(others, sampling, key)
    written_PG = together(
      lambda: [_of_student(policy, said_G) for said_G in said_PG]
    )
    yield  # what follows asks the policy for nothing
    drawn, written = self._kept(own, drawn_PG), self._kept(given, written_PG)
    sets = [
      taught_rows(
        rollouts,
        [self.distillation.weights(len(r.tokens_T)) for r in rollouts],
        [None] * len(rollouts),
      )
      for rollouts in (drawn, written)
    ]
    tokens = [
      sum(len(r.tokens_T) for r in rollouts) for rollouts in (drawn, written)
    ]
    by_student, by_teacher = by_share(sets, tokens)
    update = self.policy.update(
      drawn_set(by_student, self.policy.importance_cap),
      RowSet('solver', by_teacher, kind='given'),
    )
    everyone = [r for r_G in (*drawn_PG, *said_PG) for r in r_G]
    kept = len(drawn) + len(written)
    share = np.repeat([1.0, 0.0], [kept, len(everyone) - kept])
    metrics = {'train/kept': share} | measure(
      [r for r_G in drawn_PG for r in r_G]
    )
    told = together(
      lambda: [
        transcript(p, r_G, by=by)
        for by, asked, texts_PG in (
          ('student', own, drawn_PG),
          ('teacher', given, said_PG),
        )
        for p, r_G in zip(asked, texts_PG, strict=True)
      ]
    )
    return Collected(
      [update],
      state,
      metrics,
      told,
      tokens=sum(len(r.tokens_T) for r in everyone),
      scored=self.policy.epochs * sum(map(scored_tokens, sets))
      if self.learn == 'distribution'
      else 0,
    )

  def loss(self, model, anchors, batch):
    if self.learn == 'text':
      return -batch.logprobs(model), {}
    return self.distillation.loss(
      model, batch, [anchors['teacher']], self.policy.temperature
    )

  def _divided(
    self, problems: Sequence[Problem], key: jax.Array
  ) -> tuple[list[Problem], list[Problem]]:
    """Those that the student answers, and those that the teacher does."""
    seed = jax.random.key_data(key).tolist()
    own = [
      np.random.default_rng([*seed, p.address]).random() < self.on_policy
      for p in problems
    ]
    pairs = list(zip(problems, own, strict=True))
    return [p for p, o in pairs if o], [p for p, o in pairs if not o]

  def _kept(
    self,
    problems: Sequence[Problem],
    rollouts_PG: Sequence[Sequence[Rollout]],
  ) -> list[Rollout]:
    """What is learned from."""
    if self.judge == 'none':
      return [r for rollouts_G in rollouts_PG for r in rollouts_G]
    judge = contexts.JUDGES[self.judge]
    return [
      rollout
      for problem, rollouts_G in zip(problems, rollouts_PG, strict=True)
      for rollout, right in zip(
        rollouts_G, judge(problem, rollouts_G).right_G, strict=True
      )
      if right
    ]


def _of_student(policy: Player, said_G: Sequence[Rollout]) -> list[Rollout]:
  """What a teacher said, in the student's tokens.

  Of another vocabulary, a response that was cut has no end to be written.
  """
  same = policy.tokenizer.vocabulary
  return [
    policy.asked(r, r.prompt)
    if r.vocabulary == same
    else policy.written(r.prompt, r.text)
    for r in said_G
    if r.vocabulary == same or r.finish == 'stop'
  ]

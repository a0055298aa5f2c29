"""MiniLLM: the reverse KL of whole responses, from an external teacher.

(arXiv 2306.08543.) What a token does to later ones is what on-policy
distillation leaves out (`teacher_distill.py`). The gradient of
`KL(S(y|x) || T(y|x))` splits (section 2.2) into

  - the divergence of the next token, exact over the vocabulary, and
  - a policy gradient whose reward for a token is what comes after it:
    `R = sum_{i>t} gamma^(i-t-1) (log T(y_i) - log S(y_i))`.

With `gamma` 1 and `normalised` off that is the gradient itself; longer
responses weigh more by it, so the paper divides by how many tokens follow. Its
teacher-mixed sampling is not here: all is drawn by the student.
"""

import dataclasses

import numpy as np

from jaxdistill import losses, rewards
from jaxdistill.dist.hosts import together
from jaxdistill.methods.method import Method, check_minibatches, check_unread
from jaxdistill.methods.policy_gradient import UNPAID, UNREAD, PolicyGradient
from jaxdistill.rollout import measure, merged, scored_tokens, transcript
from jaxdistill.types import Anchor, Collected, Prompt, response_row

# The keys of a config that make it this one.
SYSTEMS = {'minillm': {'method.name': 'minillm'} | UNREAD}


@dataclasses.dataclass(frozen=True)
class Minillm(Method):
  """Hyper-parameters of MiniLLM.

  Attributes:
    problems: Problems per step, over all hosts.
    samples: Answers per problem.
    max_tokens: Longest answer.
    teacher: Who teaches: `model:NAME`, or the rule of a past self.
    gamma: What later tokens count for each token that is between.
    normalised: Whether rewards are divided by how much they are the sum of.
    one_step: Weight of the divergence of the next token.
    policy: How answers are drawn, and the clipped ratio.
  """

  problems: int = 32
  samples: int = 8
  max_tokens: int = 64
  teacher: str = 'model:small-late'
  gamma: float = 1.0
  normalised: bool = True
  one_step: float = 1.0
  policy: PolicyGradient = PolicyGradient(kl=0.0)

  def __post_init__(self):
    if not 0 <= self.gamma <= 1:
      raise ValueError(f'method.gamma is {self.gamma}; it must be 0 to 1')
    why = 'the teacher holds it'
    check_unread(self.policy, UNPAID, why, 'kl', 'reference')
    why = 'no reward is paid by whole answers'
    check_unread(self.policy, UNPAID, why, 'objective', 'overlong')
    self.policy.check_whole()
    check_minibatches(self.policy.minibatches, self.problems * self.samples)

  @property
  def anchors(self):
    return {'teacher': Anchor(self.teacher, in_loss=True)}

  def collect(self, players, problems, state, step, key):
    del step
    rollouts_PG = players['policy'].generate(
      [Prompt.solve(p) for p in problems],
      self.policy.sampling(self.samples, self.max_tokens),
      key,
    )
    yield  # what follows asks the policy for nothing
    rollouts = [r for rollouts_G in rollouts_PG for r in rollouts_G]
    said = players['teacher'].logprobs(rollouts, self.policy.temperature)
    rows, returns = [], []
    for r, teacher_logp_T in zip(rollouts, said, strict=True):
      reward_T = teacher_logp_T - r.logp_T
      returns.append(reward_T.sum())
      rows.append(
        response_row(
          r,
          weight=1.0,
          total=len(r.tokens_T),
          advantage=rewards.after(reward_T, self.gamma, self.normalised),
          old_logp=r.logp_T,
        )
      )
    different = merged(rows)
    told = together(lambda: [*map(transcript, problems, rollouts_PG)])
    return Collected(
      [self.policy.update(self.policy.row_set(different))],
      state,
      {'train/sequence_kl': -np.array(returns)} | measure(rollouts),
      told,
      tokens=sum(len(r.tokens_T) for r in rollouts),
      scored=scored_tokens(rows)
      + self.policy.epochs * scored_tokens(different),
    )

  def loss(self, model, anchors, batch):
    temperature = self.policy.temperature

    def next_token(student, teacher, targets):
      logp = losses.token_logp(student / temperature, targets)
      student, teacher = losses.in_common(student, teacher)
      pair = losses.over_all(student / temperature, teacher / temperature)
      return losses.summed(losses.reverse_kl(*pair)), logp

    kl, logp = batch.over_targets(
      next_token, model, anchors['teacher'], arrays=(batch.targets,)
    )
    values, metrics = self.policy.loss_of(logp, batch)
    return values + self.one_step * kl, metrics | {'kl_teacher': kl}

"""OPSA: no teacher, no reward, no label; unlikely tokens are made less likely.

(arXiv 2608.31046.) Of each response to a problem the tokens that the policy
itself thought least likely get a negative advantage, the more so where it was
least sure (equation 5):

  A = -1/2 - (H - H_min) / (2 (H_max - H_min))

with the entropy H of the next token, and its least and largest value among
these tokens of this response. All other tokens are left out. It is the control
for self-distillation: what of its gains needs a teacher at all? `encourage` is
the control of the control, which collapses.

What differs from the published code: least and largest are by response, as the
paper has them; there they are by device.
"""

import dataclasses

import numpy as np

from jaxdistill.dist.hosts import together
from jaxdistill.methods.method import Method, check_minibatches, check_unread
from jaxdistill.methods.policy_gradient import UNPAID, UNREAD, PolicyGradient
from jaxdistill.rollout import measure, merged, transcript
from jaxdistill.types import Collected, Prompt, response_row

# The keys of a config that make it this one.
SYSTEMS = {'opsa': {'method.name': 'opsa', 'method.samples': 1} | UNREAD}


@dataclasses.dataclass(frozen=True)
class Opsa(Method):
  """Hyper-parameters of OPSA.

  Attributes:
    problems: Problems per step, over all hosts.
    samples: Answers per problem.
    max_tokens: Longest answer.
    part: The share of a response's tokens that is trained, its least likely.
    penalty: What these are pushed down by midway (the paper: .75).
    spread: How much more or less by entropy (the paper: .25).
    encourage: Whether they are pushed up in place of down.
    policy: How answers are drawn and learned from.
  """

  problems: int = 32
  samples: int = 1
  max_tokens: int = 64
  part: float = 0.2
  penalty: float = 0.75
  spread: float = 0.25
  encourage: bool = False
  policy: PolicyGradient = PolicyGradient(kl=0.0)

  def __post_init__(self):
    if not 0 < self.part <= 1:
      raise ValueError(f'method.part is {self.part}; it must be in (0, 1]')
    why = 'nothing is paid or held'
    names = 'kl', 'reference', 'objective', 'overlong'
    check_unread(self.policy, UNPAID, why, *names)
    check_minibatches(self.policy.minibatches, self.problems * self.samples)

  def collect(self, players, problems, state, step, key):
    del step
    rollouts_PG = players['policy'].generate(
      [Prompt.solve(p) for p in problems],
      self.policy.sampling(self.samples, self.max_tokens),
      key,
    )
    rollouts = [r for rollouts_G in rollouts_PG for r in rollouts_G]
    entropies = players['policy'].entropies(rollouts, self.policy.temperature)
    yield  # what follows asks the policy for nothing
    rows = []
    for r, entropy_T in zip(rollouts, entropies, strict=True):
      trained, advantage = self.advantages(r.logp_T, entropy_T)
      rows.append(
        response_row(
          r,
          weight=trained / trained.sum(),
          total=1.0,
          advantage=advantage,
          old_logp=r.logp_T,
        )
      )
    told = together(lambda: [*map(transcript, problems, rollouts_PG)])
    return Collected(
      [self.policy.update(self.policy.row_set(merged(rows)))],
      state,
      measure(rollouts),
      told,
      tokens=sum(len(r.tokens_T) for r in rollouts),
    )

  def loss(self, model, anchors, batch):
    del anchors
    return self.policy.loss(model, batch)

  def advantages(
    self, logp_T: np.ndarray, entropy_T: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens of a response are trained, and by how much, float[T] each.

    Args:
      logp_T: Their log-probs.
      entropy_T: Of the policy in their places, nats.
    """
    count = max(1, int(self.part * len(logp_T)))
    chosen = np.argsort(logp_T, kind='stable')[:count]
    low, high = entropy_T[chosen].min(), entropy_T[chosen].max()
    # Where they are all as sure, all count most (the published code's choice).
    place_T = np.ones(len(logp_T), np.float32)
    if high - low > 1e-12:
      place_T = 2 * (entropy_T - low) / (high - low) - 1
    trained = np.zeros(len(logp_T), np.float32)
    trained[chosen] = 1
    push = self.penalty + self.spread * place_T
    push *= 1 if self.encourage else -1
    return trained, (trained * push).astype(np.float32)

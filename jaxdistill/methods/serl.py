"""SERL: one model answers and judges, and both are paid by its judgments.

Self-Examining Reinforcement Learning (arXiv 2511.07922). For each problem

  1. the actor gives N responses;
  2. the judge is shown every pair of them K times, half of these in each order,
     and says in words which is better;
  3. a response earns its length-controlled win rate R_A: a win over a response
     of about its length counts the loser's length by its own, any other 0;
  4. a judgment earns whether it agrees with the ranking that all of them make,
     sign(R_A(winner) - R_A(loser)), and -1 if it cannot be read;
  5. both take a step in one update: advantages within the N responses, and
     within the K judgments of a pair; clipped ratio, mean over tokens.

Labels are read only to report how often the judge was right, and by the control
`verdicts='known'`. What differs from the published code:

- A pair whose majority verdict turns with the order (`rewards.contradicted`)
  pays nobody: a judge that goes by the place earns nothing (and unlearns
  nothing). The code has no such rule (`orders='both'`), and pays for what the
  two orders have in common: of such a judge, the length of the winner.
- A response that was cut loses to every whole one, and equal ones earn their
  mean; the code judges both.
- Length is in characters (there in words): the small world has no words.
- The objective is `dapo`, which leaves out groups that are all paid alike, with
  their tokens; the code's mean is over all tokens.
- Actor and judge share the loss equally, as in the paper; in the code the
  actor's share grows over half of the run (`ramp`).

On held-out problems a fixed judge prefers the policy's responses or those it
began with (`win_rate`), and the policy judges pairs one of which is right.
"""

import dataclasses

import jax
import numpy as np

from jaxdistill import rewards
from jaxdistill.dist.hosts import together
from jaxdistill.methods.method import (
  Method,
  check_choice,
  check_minibatches,
  check_unread,
  glimpse,
)
from jaxdistill.methods.policy_gradient import UNPAID, PolicyGradient
from jaxdistill.rollout import Sampling, judge, measure, scored_tokens
from jaxdistill.types import Anchor, Collected, Prompt, RowSet

CHOICES = {
  'ask': ('judge', 'compare'),
  'orders': ('agree', 'both', 'one'),
  'verdicts': tuple(rewards.VERDICTS),
}


@dataclasses.dataclass(frozen=True)
class Serl(Method):
  """Hyper-parameters of SERL.

  Attributes:
    problems: Problems per step, over all hosts.
    samples: Responses to each (N).
    judgments: Of each pair of them (K).
    max_tokens: Longest response (paper: 1024).
    judge_tokens: Longest judgment (paper: 2048; 2 where `ask` is `compare`).
    ask: `judge`, with reasons, or `compare`, at once; see `Task.wordings`.
    orders: How pairs are shown: in `one` order, in `both`, or in both that have
      to `agree`, else the pair pays nobody.
    band: How far apart the lengths of two may be; 0 is no control of length.
    share: What the actor's loss counts; the judge's has the rest.
    ramp: Over how many steps that share grows from 0; 0 is none.
    verdicts: By whose verdicts responses are paid: the judge's `own`, or a
      control: `random` or `known`, see `rewards/judging.py`.
    examiner: The fixed judge: `frozen`, the base itself, or `model:NAME`.
    policy: How both draw and learn.
  """

  problems: int = 16
  samples: int = 4
  judgments: int = 4
  max_tokens: int = 64
  judge_tokens: int = 64
  ask: str = 'judge'
  orders: str = 'agree'
  band: float = 0.2
  share: float = 0.5
  ramp: int = 0
  verdicts: str = 'own'
  examiner: str = 'frozen'
  policy: PolicyGradient = PolicyGradient(
    temperature=0.9, top_k=50, objective='dapo', kl=0.0
  )

  roles = ('solver', 'judge')

  def __post_init__(self):
    for name, known in CHOICES.items():
      check_choice(self, name, known)
    if self.samples < 2:
      raise ValueError(f'method.samples is {self.samples}; a pair needs 2')
    if self.judgments < 2 or self.judgments % 2:
      raise ValueError(
        f'method.judgments is {self.judgments}; it must be even, half of them '
        'in each order'
      )
    for name in ('band', 'share'):
      value = getattr(self, name)
      if not 0 <= value <= 1:
        raise ValueError(f'method.{name} is {value}; it must be in [0, 1]')
    if self.examiner != 'frozen' and not self.examiner.startswith('model:'):
      raise ValueError(
        f'method.examiner is {self.examiner!r}; it must be frozen or model:NAME'
      )
    check_unread(self.policy, UNPAID, 'method.band pays for length', 'overlong')
    check_minibatches(self.policy.minibatches, self.problems * self.samples)
    self.policy.sampling(self.judgments, self.judge_tokens)

  @property
  def anchors(self):
    judge = {'examiner': Anchor(self.examiner, measured=False)}
    other = {} if self.examiner == 'frozen' else judge
    return {**self.policy.anchors, 'beginning': 'frozen', **other}

  @property
  def words(self):
    return {'policy': [self.ask], 'examiner': ['compare']}

  def check(self, task):
    asked = glimpse(task) if self.verdicts == 'known' else []
    unknown = [p.text for p in asked if p.answer is None]
    if unknown:
      raise ValueError(
        f"method.verdicts is 'known'; {unknown[0]!r} has no known answer"
      )

  def collect(self, players, problems, state, step, key):
    policy, keys = players['policy'], jax.random.split(key, 3)
    rollouts_PG, texts_PG = self._answers(policy, problems, keys[0])
    orders = 1 if self.orders == 'one' else 2
    judged_P = judge.judged(
      *(policy, problems, texts_PG),
      [judge.pairs(texts_G, orders == 2) for texts_G in texts_PG],
      self.ask,
      self.policy.sampling(self.judgments // orders, self.judge_tokens),
      keys[1],
    )
    yield  # what follows asks the policy for nothing
    right_PG = together(lambda: [*map(judge.right, problems, rollouts_PG)])
    seed = jax.random.key_data(keys[2]).tolist()
    paid_P = [
      self._paid(judged, right_G, np.random.default_rng([*seed, p.address]))
      for p, judged, right_G in zip(problems, judged_P, right_PG, strict=True)
    ]
    rollouts = [r for rollouts_G in rollouts_PG for r in rollouts_G]
    judgments = [r for judged in judged_P for r in judged.rollouts_Z]
    worth = [x for paid in paid_P for x in paid.worth_G]
    earned = [x for paid in paid_P for x in paid.earned_Z]
    share = self.share * (min(step / self.ramp, 1.0) if self.ramp else 1.0)
    base = players.get('base')
    sets = [
      self._set('actor', rollouts, worth, share, base),
      self._set('judge', judgments, earned, 1 - share, base),
    ]
    seen = judge.observed(problems, judged_P, paid_P, right_PG)
    return Collected(
      [self.policy.update(*sets)],
      state,
      {f'serl/{name}': x for name, x in seen.items()} | measure(rollouts),
      judge.transcripts(problems, rollouts_PG, judged_P, paid_P),
      tokens=sum(len(r.tokens_T) for r in [*rollouts, *judgments]),
      scored=scored_tokens([r for s in sets for r in s.rows]) if base else 0,
    )

  def _answers(self, player, problems, key):
    """Responses, and what of them a judge is shown."""
    rollouts_PG = player.generate(
      [Prompt.solve(p) for p in problems],
      self.policy.sampling(self.samples, self.max_tokens),
      key,
    )
    return rollouts_PG, [*map(judge.visible, rollouts_PG)]

  def _paid(self, judged, right_G, rng) -> rewards.Paid:
    texts_G, _, shown, said = judged
    counted = rewards.VERDICTS[self.verdicts](shown, said, right_G, rng)
    return rewards.paid(
      *(shown, said, counted, texts_G),
      *(self.judgments, self.band, self.orders == 'agree'),
    )

  def _set(self, kind, rollouts, earned, share, base) -> RowSet:
    """What one of the two learns from; every host calls it together."""
    role, group, longest = {
      'actor': ('solver', self.samples, self.max_tokens),
      'judge': ('judge', self.judgments, self.judge_tokens),
    }[kind]
    learner, earned_PG = self.policy, np.array(earned, float).reshape(-1, group)
    advantages = learner.advantages(earned_PG).ravel()
    kept = np.repeat(learner.kept(earned_PG), group)
    rows = learner.rows(rollouts, advantages, kept, base, longest)
    return learner.row_set(rows, role, kind, {'share': share})

  def loss(self, model, anchors, batch):
    del anchors
    values, metrics = self.policy.loss(model, batch)
    return values * batch.coefficients['share'], metrics

  def evaluate(self, policy, problems, key):
    """The judge on labelled pairs: its likeliest words, in both orders.

    A pair is the first right and the first wrong one of the responses to a
    problem; `labelled` is how many have one.
    """
    drawn, asked = jax.random.split(key)
    answers = self._answers(policy, problems, drawn)
    return self._on_labelled(policy, problems, answers, asked)

  def against(self, players, problems, key):
    """The policy's responses, each beside one of the base's.

    And the judge as in `evaluate`, on pairs of the base's responses, which are
    the same at every evaluation: `fixed_judge_accuracy` and so on.
    """
    policy, beginning = players['policy'], players['beginning']
    keys = jax.random.split(key, 3)
    _, own_PG = self._answers(policy, problems, keys[0])
    of_base = self._answers(beginning, problems, keys[1])
    judged = self._on_labelled(policy, problems, of_base, keys[2])
    examiner = players.get('examiner', beginning)
    return judge.contest(examiner, problems, own_PG, of_base[1]) | {
      f'fixed_{name}': values for name, values in judged.items()
    }

  def _on_labelled(self, policy, problems, answers, key):
    rollouts_PG, texts_PG = answers
    right_PG = together(lambda: [*map(judge.right, problems, rollouts_PG)])
    shown_P = [*map(judge.labelled, texts_PG, right_PG)]
    judged_P = judge.judged(
      *(policy, problems, texts_PG, shown_P, self.ask),
      *(Sampling(1, self.judge_tokens, greedy=1), key),
    )
    seen = judge.habits(judged_P, right_PG)
    return {f'judge_{name}': values for name, values in seen.items()} | {
      'labelled': [float(bool(shown)) for shown in shown_P]
    }

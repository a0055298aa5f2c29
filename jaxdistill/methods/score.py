"""SCoRe: a model learns to correct itself, on its own two attempts.

(arXiv 2409.12917.) A first attempt `y1`; the task's fixed words, which never
tell whether it was right; a second attempt `y2`. A model that learns right
corrections by heart (`pair_sft.py`) does not correct itself; one that is paid
plainly for both attempts learns to change nothing. So there are two stages:

  I.  only `y2` is paid, `r(y2)`; `y1` is held to the base by `hold` times its
      divergence (eq. 3);
  II. both are, and `y2` for its progress: `r(y1)` and
      `r(y2) + alpha (r(y2) - r(y1))` (eq. 4, section 5.2).

A reward moves the tokens of its own turn alone (gamma 0), and throughout both
turns are held by `kl`. So each turn is a response to all that stands before it,
in a row set of its own with its own weight of the divergence; what is told
between them is read, never trained. As `-alpha r(y1)` is then a baseline of
`y2`, alpha in expectation counts the second turn `1 + alpha` times.

The paper does not say: the baseline (here the mean over the samples of a
problem; `dr_grpo` is REINFORCE with it, and rewards stand to divergences as in
the paper), nor how steps are split between the stages, which are two runs: here
moments begin anew. What differs: the divergence is token by token, in the loss,
by GRPO's estimate, whose gradient on own samples is in expectation that of
KL(base || policy), not of eq. 3's KL(policy || base); `hold` is not adapted; a
cut first attempt has no second, which counts as wrong.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxdistill import rewards
from jaxdistill.dist.hosts import sum_over_hosts
from jaxdistill.methods.method import (
  Method,
  check_minibatches,
  check_paid,
  check_unread,
)
from jaxdistill.methods.policy_gradient import PolicyGradient
from jaxdistill.rollout import measure, scored_tokens, turns
from jaxdistill.types import Collected, Problem, Prompt, Rollout, RowSet

SYSTEMS: dict[str, dict[str, Any]] = {
  'score': {'method.name': 'score'}
  | {'method.objective': 'dr_grpo', 'method.kl': 0.01},
}
KINDS = ('first', 'second')


@dataclasses.dataclass(frozen=True)
class Score(Method):
  """Hyper-parameters of SCoRe.

  Attributes:
    problems: Problems per step, over all hosts.
    samples: Pairs of attempts at each; they are one group.
    max_tokens: Longest attempt.
    turns: 2; with 1 there is no second attempt and the first is paid: plain
      reinforcement learning, to be held against.
    stage1_steps: Steps of stage I; those after them are of stage II.
    alpha: What progress counts in stage II.
    hold: Weight of the first turn's divergence in stage I, besides `kl` (the
      paper's beta_2: 0.1 on MATH, 0.25 on MBPP).
    base_attempts: For this share of the problems the first attempts are those
      of the anchor `base`; they are read, not trained.
    policy: How attempts are drawn and learned from; its `kl` is the paper's
      beta_1, its `reference` what the anchor `base` is.
  """

  problems: int = 32
  samples: int = 8
  max_tokens: int = 64
  turns: int = 2
  stage1_steps: int = 20
  alpha: float = 10.0
  hold: float = 0.1
  base_attempts: float = 0.0
  policy: PolicyGradient = PolicyGradient(objective='dr_grpo', kl=0.01)

  def __post_init__(self):
    if self.samples < 2:
      raise ValueError(f'method.samples is {self.samples}; a group needs 2')
    if self.turns not in (1, 2):
      raise ValueError(f'method.turns is {self.turns}; it must be 1 or 2')
    part = self.base_attempts
    if not 0 <= part <= 1 or 0 < part * self.problems < 1:
      raise ValueError(
        f'method.base_attempts is {part}; it must be a share, 0 to 1, and if '
        f'any at least one of {self.problems} problems'
      )
    if self.turns == 1:
      why = 'with method.turns=1 there is no second attempt'
      names = 'stage1_steps', 'alpha', 'hold', 'base_attempts'
      check_unread(self, Score(), why, *names)
    if self.policy.reference.startswith('trust'):
      raise ValueError(
        f'method.reference is {self.policy.reference!r}; the divergence is '
        'measured turn by turn here, and a region has one'
      )
    check_minibatches(self.policy.minibatches, self.problems * self.samples)
    self.policy.sampling(self.samples, self.max_tokens)

  @property
  def anchors(self):
    return {'base': self.policy.reference}

  @property
  def prelude(self):
    return 'stage1_steps' if self.turns == 2 else ''

  @property
  def words(self):
    return {'policy': ['revise']}

  def check(self, task):
    check_paid(task, 'method score')

  def holds(self, step: int) -> bool:
    """Whether a step is of stage I."""
    return self.turns == 2 and step < self.stage1_steps

  def given(self, problem: Problem) -> bool:
    """Whether the base makes its first attempts: of every so many problems."""
    place, part = problem.address, self.base_attempts
    return int((place + 1) * part) > int(place * part)

  def collect(self, players, problems, state, step, key):
    first_PG = self._first(players, problems, jax.random.fold_in(key, 0))
    drawn = [first_PG]
    if self.turns == 2:
      again = self.policy.sampling(1, self.max_tokens)
      after = players['policy'], problems, first_PG, again
      drawn += [turns.revised(*after, jax.random.fold_in(key, 1))]
    yield  # what follows asks the policy for nothing
    answers = [turns.answered(problems, rollouts_PG) for rollouts_PG in drawn]
    worth = [
      turns.worth(problems, answers_PG).reshape(-1, self.samples)
      for answers_PG in answers
    ]
    earned, holding = self.earned(worth, step), self.holds(step)
    own = np.array([not self.given(p) for p in problems], bool)
    own = np.repeat(own, self.samples)
    first, *both = ([r for r_G in r_PG for r in r_G] for r_PG in drawn)
    attempts: list[list[Rollout | None]] = [
      [r if mine else None for r, mine in zip(first, own, strict=True)],
      *([turns.second_of(r) for r in rollouts] for rollouts in both),
    ]
    of_turns = zip(KINDS[: self.turns], attempts, earned, strict=True)
    sets = [self._set(*x, holding, players['base']) for x in of_turns]
    update = self.policy.update(*sets)
    if self.turns == 2 and step == self.stage1_steps > 0:
      update = dataclasses.replace(update, fresh_optimizer=True)
    said = [r for found in attempts for r in found if r]
    metrics = self._measure(worth, own, holding) | measure(said)
    scored = [s.rows for s in sets if 'anchor_logp' in s.fields]
    told = turns.transcripts(problems, drawn, answers, earned, holding)
    for record, p in zip(told, problems, strict=True):
      record['first_by'] = 'base' if self.given(p) else 'policy'
    return Collected(
      *([update], state, metrics, told),
      tokens=sum(int((r.turn_T >= 0).sum()) for r_G in drawn[-1] for r in r_G),
      scored=sum(map(scored_tokens, scored)),
    )

  def _first(self, players, problems, key) -> list[list[Rollout]]:
    """First attempts, the policy's or the base's."""
    sampling = self.policy.sampling(self.samples, self.max_tokens)
    drawn = {}
    for name in ('policy', 'base')[: 1 + (self.base_attempts > 0)]:
      given = name == 'base'
      asked = [Prompt.solve(p) for p in problems if self.given(p) == given]
      drawn[given] = iter(players[name].generate(asked, sampling, key))
    return [next(drawn[self.given(p)]) for p in problems]

  def earned(self, worth: Sequence[np.ndarray], step: int) -> list[np.ndarray]:
    """What the attempts of each turn earn at a step, float[P, G] each.

    Args:
      worth: What the task pays for them.
      step: Of the run.
    """
    first, *second = worth
    if self.holds(step):
      return [0 * first, *second]
    return [first, *(rewards.improved(first, r, self.alpha) for r in second)]

  def _set(self, kind, attempts, earned_PG, holding, base) -> RowSet:
    """The rows of a turn, and what its divergence weighs now.

    That is a number which the loss is given: nothing compiles anew with the
    second stage.
    """
    held, ever = (kind == 'first' and x for x in (holding, self.holds(0)))
    firm = self.policy.kl + self.hold * ever
    learner = dataclasses.replace(self.policy, kl=firm)
    lengths = np.array([len(r.tokens_T) if r else 0 for r in attempts], int)
    advantages_PG = learner.advantages(earned_PG, lengths, self.max_tokens)
    kept_P = learner.kept(earned_PG)
    if held:  # nobody is paid, and nobody left out for that
      advantages_PG, kept_P = 0 * earned_PG, np.ones(len(earned_PG))
    there = [i for i, r in enumerate(attempts) if r]
    rows = learner.rows(
      [attempts[i] for i in there],
      advantages_PG.ravel()[there],
      np.repeat(kept_P, self.samples)[there],
      base if learner.kl else None,
      self.max_tokens,
    )
    # As if the missing ones were there with nothing to learn: turns keep their
    # weights.
    every, those = sum_over_hosts(np.array([len(attempts), len(there)]))
    more = every / max(those, 1)
    rows = [dataclasses.replace(r, total=r.total * more) for r in rows]
    now = self.policy.kl + self.hold * held
    return learner.row_set(rows, kind=kind, coefficients={'kl': now})

  def _measure(self, worth, own, holding) -> dict[str, Any]:
    """What attempts are worth; where the base's come first, apart."""
    progress = (worth[-1] - worth[0]).ravel()[own]
    right = worth[0].ravel()[own] > 0
    out = {
      'score/stage': [2.0 - holding],
      'score/improved': (progress > 0).astype(float),
      'score/worsened': (progress < 0).astype(float),
      'score/spoilt': (progress < 0).astype(float)[right],
    }
    for turn, paid_PG in enumerate(worth, 1):
      out[f'score/worth_turn_{turn}'] = paid_PG.ravel()[own]
      out[f'score/base_worth_turn_{turn}'] = paid_PG.ravel()[~own]
    return out

  def loss(self, model, anchors, batch):
    del anchors
    return self.policy.loss(model, batch)

  def evaluate(self, policy, problems, key):
    return turns.corrections(policy, problems, self.max_tokens, key)

  def against(self, players, problems, key):
    return turns.against(players, problems, self.max_tokens, key)

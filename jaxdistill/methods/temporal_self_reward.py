"""Preferences of one's own, whose halves are drawn apart in time.

Self-rewarding (arXiv 2401.10020): a model answers each problem several times,
judges its answers itself, and learns by DPO to prefer the best to the worst. As
it improves both halves become alike, and the gradient goes. Temporal
self-rewarding (arXiv 2508.06026) draws them apart. Each round, from `M_i`:

  1. `M_i` and a past self answer; `M_i` judges all;
  2. pairs: the best of `M_i`, and the worst of the past self where that is
     below the worst of `M_i`, which it is else;
  3. a future self, `M_i` that has learned these pairs, answers; `M_i` judges;
  4. pairs: the same, chosen from the future self where its best is above that
     of `M_i`; the future self is thrown away;
  5. `M_i` learns these pairs, with itself as it was as the reference.

| | rejected | chosen |
|---|---|---|
| self-rewarding | own | own |
| `past` | of a frozen self, if worse | own |
| `future` | own | of a self that has learned the first pairs, if better |

What differs from the paper: the future self is an adapter, trained in some
full-batch steps, not a copy of the model; rounds are steps of a run, over fresh
problems, with moments that begin anew; an answer is judged once, by whatever
verifier is named (theirs, and the default, writes a check that ends in a
number). An answer that was cut, or whose check ends in no verdict, has no score
and is in no pair. beta, rates and epochs are not those of the paper, which
could not be read for them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxdistill import losses, rewards
from jaxdistill.dist.hosts import together
from jaxdistill.methods.method import (
  Method,
  check_choice,
  check_minibatches,
  check_paid,
  check_unread,
)
from jaxdistill.optimizer import OptimizerConfig
from jaxdistill.rollout import Player, Sampling, measure
from jaxdistill.rollout.judges import COMPARING, SCORERS
from jaxdistill.rollout.rows import pair_rows
from jaxdistill.rollout.transcript import preferences
from jaxdistill.rollout.verify import (
  WRITING,
  Verified,
  asked_by,
  check_verifier,
)
from jaxdistill.types import (
  Anchor,
  Collected,
  Problem,
  Prompt,
  Rollout,
  RowSet,
  Update,
)

_NAME = {'method.name': 'temporal_self_reward', 'method.samples': 7}
_NAME |= {'method.epochs': 2, 'method.minibatches': 2}
# The keys of a config that make it one of these.
SYSTEMS: dict[str, dict[str, Any]] = {
  'tsr': _NAME,
  'self_rewarding': _NAME | {'method.past': '', 'method.future': False},
}


@dataclasses.dataclass(frozen=True)
class TemporalSelfReward(Method):
  """Hyper-parameters of (temporal) self-rewarding.

  Attributes:
    problems: Problems per step, over all hosts; each gives one pair at most.
    samples: Responses per problem, of each self (the paper's K).
    max_tokens: Longest response; one that is cut is in no pair.
    judge: How the policy scores responses: one of `rollout.verify.VERIFIERS`;
      or `known` answers or `random` scores, as controls.
    judge_tokens: Longest written check.
    past: Whose worst responses are rejected: a past self by an anchor's rule
      (the paper's stays as it began, `frozen`); empty: nobody's but its own.
    future: Whether the best responses of a future self are chosen.
    future_lr: Learning rate of the future self.
    future_steps: Its optimizer steps, each on all pairs.
    future_rank: Rank of its adapter.
    preference: `dpo` or `ipo`, see `losses/preference.py`.
    beta: How strongly the policy before the step holds; IPO's tau.
    temperature: Of sampling; what is learned is at 1.
    top_k: Of sampling; 0 keeps all tokens.
    top_p: Of sampling.
    epochs: Passes over each step's pairs. With one optimizer step per run step
      the loss is that of its beginning: no margin is ever seen.
    minibatches: Optimizer steps per pass.
  """

  problems: int = 32
  samples: int = 7
  max_tokens: int = 64
  judge: str = 'score'
  judge_tokens: int = 256
  past: str = 'frozen'
  future: bool = True
  future_lr: float = 1e-3
  future_steps: int = 4
  future_rank: int = 16
  preference: str = 'dpo'
  beta: float = 0.1
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  epochs: int = 2
  minibatches: int = 2

  def __post_init__(self):
    check_choice(self, 'judge', SCORERS)
    check_choice(self, 'preference', losses.PREFERENCES)
    for name in ('beta', 'future_lr', 'future_steps', 'future_rank'):
      if (value := getattr(self, name)) <= 0:
        raise ValueError(f'method.{name} is {value}; it must be above 0')
    if self.samples < 2:
      raise ValueError(f'method.samples is {self.samples}; a pair needs 2')
    if not self.future:
      why = 'method.future is False'
      names = 'future_lr', 'future_steps', 'future_rank'
      check_unread(self, TemporalSelfReward, why, *names)
    if self.judge not in WRITING:
      why = f'method.judge {self.judge!r} writes nothing'
      check_unread(self, TemporalSelfReward, why, 'judge_tokens')
    check_minibatches(self.minibatches, self.problems)
    self.sampling()

  @property
  def anchors(self):
    earlier = Anchor(self.past, measured=False)
    return {'earlier': earlier} if self.past else {}

  @property
  def words(self):
    return {'policy': asked_by(self.judge)}

  def check(self, task):
    if self.judge == 'known':
      check_paid(task, "method.judge='known'")
    check_verifier(self.judge, task)

  def sampling(self) -> Sampling:
    """How all selves draw."""
    return Sampling.by(self, self.samples, self.max_tokens)

  def collect(self, players, problems, state, step, key):
    del step
    judged_PG, rows, checks = self._round(players, problems, key)
    yield  # what follows asks the policy for nothing
    everyone = [x.rollout for judged_G in judged_PG for x in judged_G]
    metrics = together(lambda: rewards.pair_metrics(problems, judged_PG))
    metrics['unread'] = [float(x) for c in checks for x in c.unread]
    own = [x.rollout for x_G in judged_PG for x in x_G if x.by == 'own']
    shape = self.epochs, self.minibatches
    return Collected(
      [Update((rows,), *shape, fresh_optimizer=True)],
      state,
      {f'tsr/{name}': found for name, found in metrics.items()} | measure(own),
      together(lambda: [*map(preferences, problems, judged_PG)]),
      tokens=sum(len(r.tokens_T) for r in everyone)
      + sum(check.tokens for check in checks),
      scored=sum(check.scored for check in checks),
    )

  def loss(self, model, anchors, batch):
    del anchors
    assert batch.pairs is not None, 'halves of a pair are together'
    where = batch.weight != 0, batch.segments, batch.pairs
    return losses.preference(
      *(batch.logprobs(model), *where, batch.fields),
      *(self.beta, self.preference),
    )

  def evaluate(self, policy, problems, key):
    prompts = [Prompt.solve(p) for p in problems]
    own_PG = policy.generate(prompts, self.sampling(), key)
    key = jax.random.fold_in(key, 2)
    judged_PG, _ = self._judged(policy, problems, {'own': own_PG}, key)
    seen = together(lambda: rewards.pair_metrics(problems, judged_PG))
    return {name: seen[name] for name in ('judge_auc', 'own_gap')}

  def _round(
    self, players: Mapping[str, Player], problems: Sequence[Problem], key
  ) -> tuple[list[list[rewards.Judged]], RowSet, list[Verified]]:
    """All that is asked of anybody: the present, a past and a future self.

    Returns:
      By problem all responses, judged; the pairs that are learned; and
      what the judge says of itself, by call.
    """
    policy, prompts = players['policy'], [Prompt.solve(p) for p in problems]
    keys = [key, *(jax.random.fold_in(key, i) for i in range(1, 6))]
    said = {'own': policy.generate(prompts, self.sampling(), keys[0])}
    if self.past:
      earlier = players['earlier']
      said['past'] = earlier.generate(prompts, self.sampling(), keys[1])
    judged_PG, check = self._judged(policy, problems, said, keys[2])
    rows = paired(policy, judged_PG)
    if not self.future:
      return judged_PG, rows, [check]
    how = OptimizerConfig(lr=self.future_lr), self.future_steps
    (later,) = policy.adapted(
      [rows], self.loss, *how, key=keys[3], rank=self.future_rank
    )
    new = {'future': later.generate(prompts, self.sampling(), keys[4])}
    if self.judge in COMPARING:  # all anew, or scores are of two scales
      new, judged_PG = said | new, [[] for _ in problems]
    new_PG, again = self._judged(policy, problems, new, keys[5])
    judged_PG = [a + b for a, b in zip(judged_PG, new_PG, strict=True)]
    return judged_PG, paired(policy, judged_PG), [check, again]

  def _judged(
    self,
    policy: Player,
    problems: Sequence[Problem],
    said: Mapping[str, Sequence[Sequence[Rollout]]],
    key: jax.Array,
  ) -> tuple[list[list[rewards.Judged]], Verified]:
    """By problem all responses, judged together."""
    by_G = [by for by in said for _ in range(self.samples)]
    groups_PG = [
      [r for rollouts_G in of_each for r in rollouts_G]
      for of_each in zip(*said.values(), strict=True)
    ]
    judge = SCORERS[self.judge]
    found = judge(policy, problems, groups_PG, key, self.judge_tokens)
    scores_PG = [s_G.tolist() for s_G in found.scores_PG]
    of_each = zip(groups_PG, scores_PG, strict=True)
    return [[*map(rewards.Judged, by_G, *x)] for x in of_each], found


def paired(
  policy: Player, judged_PG: Sequence[Sequence[rewards.Judged]]
) -> RowSet:
  """What is learned of judged responses: a pair of each problem, if any."""
  found = [*map(rewards.preference_pair, judged_PG)]
  pairs = [(good.rollout, bad.rollout) for good, bad in filter(None, found)]
  return pair_rows(policy, pairs)

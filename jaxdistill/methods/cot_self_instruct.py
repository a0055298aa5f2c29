"""CoT-Self-Instruct: problems of one's own, filtered, then learned from.

(arXiv 2507.23751.) In `build_steps` steps, by the weights that it begins with,
a model

  1. reads two given problems, reasons about them and writes a new one;
  2. answers it several times; the majority answer is its label;
  3. and keeps what passes a filter, see `rewards/filters.py`:

| filter             | stays                                             |
|--------------------|---------------------------------------------------|
| `none`             | every problem that has a label                    |
| `self_consistency` | where more than half of the votes agree           |
| `answer_match`     | where the writer's own answer is the label        |
| `rip`              | all but the quarter whose worst vote scores worst |

As long as fewer than `method.keep` do, it goes on writing, for as many steps
again at most. Then the set stands still and is learned from by a policy
gradient, pass after pass, each in an order of its own: an answer that is the
label earns 1. No known answer is read, except to report how often labels are
right.

`method.keep` makes the sets of several filters equally large, which the paper's
are not. What differs besides: the label is never what a reward model likes
best; what has no majority has no label, so it is in no set; a vote that the
length limit cut is none, and has no score; RIP's scores are a verifier's
(`rollout/verify.py`), there a reward model's; problems of held-out splits, and
those that were shown or written before, are not asked. A writer that was not
asked for its answer is so afterwards: its own is then the likeliest one.
Answer match drops hard problems along with wrong labels: how far its votes
agree, `set_share` beside `share`, says how much easier a set is.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxdistill import rewards
from jaxdistill.data.tasks.problems import same
from jaxdistill.dist.hosts import together
from jaxdistill.methods.method import Method, check_least, check_minibatches
from jaxdistill.methods.policy_gradient import PolicyGradient
from jaxdistill.methods.problem_set import ProblemSet
from jaxdistill.rewards import Labelled
from jaxdistill.rollout import measure, scored_tokens, transcript
from jaxdistill.rollout.verify import Verified, verify
from jaxdistill.rollout.writing import (
  in_order,
  parsed,
  rejections,
  unsaid,
  write,
)
from jaxdistill.types import Collected, Problem, Prompt, Records


@dataclasses.dataclass(frozen=True)
class CotSelfInstruct(Method):
  """Hyper-parameters of CoT-Self-Instruct.

  Attributes:
    problems: Problems per step, over all hosts; while the set is built, as many
      given ones, each the first of two that are shown.
    samples: Answers to each problem that is learned from; they are one group.
    max_tokens: Longest answer.
    written: How the set is written, labelled and filtered.
    policy: How answers are drawn (the votes as well) and learned from.
  """

  problems: int = 32
  samples: int = 8
  max_tokens: int = 64
  written: ProblemSet = ProblemSet()
  policy: PolicyGradient = PolicyGradient(temperature=0.6)

  def __post_init__(self):
    check_least(self, samples=2)
    self.written.check_size(self.problems)
    check_minibatches(self.policy.minibatches, self.problems * self.samples)

  @property
  def anchors(self):
    return {**self.policy.anchors, **self.written.anchors}

  @property
  def prelude(self):
    return 'build_steps'

  @property
  def words(self):
    return self.written.words

  def check(self, task):
    self.written.check(task)

  def init(self):
    return self.written.init()

  def collect(self, players, problems, state, step, key):
    if state['set']:
      return (yield from self._learn(players, problems, state, step, key))
    return (yield from self._build(players, problems, state, step, key))

  def loss(self, model, anchors, batch):
    del anchors
    return self.policy.loss(model, batch)

  def _build(self, players, problems, state, step, key):
    """A step in which problems are written and labelled."""
    by, policy = self.written, players['policy']
    voting = by.voting(self.policy.sampling(by.votes, self.max_tokens))
    keys = jax.random.split(key, 3)
    shown = in_order([(p.address, p.text) for p in problems])
    proposals = write(
      *(policy, problems, shown, by.write, by.each),
      *(by.writing(), keys[0]),
    )
    seeds = [*state['seeds'], *(text for _, text in shown)]
    said = [*seeds, *(x['text'] for x in state['found'])]
    proposals = unsaid(proposals, said, same)
    asked = [x for x in proposals if not x.rejected]
    new: list[Any] = [x.problem for x in asked]
    said_PG = policy.generate([Prompt.solve(p) for p in new], voting, keys[1])
    votes_PG = [said_G[voting.greedy :] for said_G in said_PG]
    scores = Verified([np.full(by.votes, np.nan)] * len(new))
    if by.filter == 'rip':
      scores = verify(
        *(by.scorer, players.get('verifier', policy), new, votes_PG),
        key=keys[2],
        max_tokens=by.check_tokens,
      )
    yield  # what follows asks the policy for nothing

    def label(x, said_G, votes_G, scores_G) -> Labelled:
      own = rewards.answers(x.problem.task, said_G[: voting.greedy]) or [x.own]
      return rewards.labelled(x.problem, votes_G, own[0], scores_G)

    quadruples = [*zip(asked, said_PG, votes_PG, scores.scores_PG, strict=True)]
    found = together(lambda: [label(*each) for each in quadruples])
    everyones = in_order(
      [(x.address, y._asdict()) for x, y in zip(asked, found, strict=True)]
    )
    state = state | {
      'seeds': Records(seeds),
      'found': Records([*state['found'], *(y for _, y in everyones)]),
    }
    metrics = _named('', rejections(proposals) | rewards.described(found))
    every = [Labelled.read(x) for x in state['found']]
    if kept := by.kept(every, step + 1):
      order = jax.random.key_data(key).tolist()  # of its passes
      kept_once = Records([x._asdict() for x in kept])
      state = state | {'set': kept_once, 'order': order, 'built': step + 1}
      more = {'size': [len(kept)]} | rewards.described(kept)
      metrics |= _named('set_', more)
    told = {
      p.address: transcript(p, votes_G)
      | {'vote': x.label, 'share': x.share, 'own': x.own, 'rip': x.rip}
      for p, votes_G, x in zip(new, votes_PG, found, strict=True)
    }
    said = [r for said_G in said_PG for r in said_G]
    drawn = [*said, *(x.rollout for x in proposals)]
    return Collected(
      [],
      state,
      metrics | measure(said),
      [
        {'topic': x.rollout.prompt.text, 'proposal': x.rollout.text}
        | ({'rejected': x.rejected} if x.rejected else told[x.address])
        for x in proposals
      ],
      tokens=sum(len(r.tokens_T) for r in drawn) + scores.tokens,
      scored=scores.scored,
    )

  def _learn(self, players, problems, state, step, key):
    """A step of a policy gradient on the set: the labels are paid for."""
    before = (step - state['built']) * self.problems
    every, order = state['set'], state['order']
    chosen = [_drawn(every, before + p.address, order) for p in problems]

    def ask(seed: Problem, x: Labelled) -> Problem:
      new: Any = parsed(seed.task, x.text)
      if new is None:
        raise ValueError(f'{x.text!r} was a problem, and is no more')
      return dataclasses.replace(new, answer=x.known, address=seed.address)

    asked = together(lambda: [*map(ask, problems, chosen)])
    rollouts_PG = players['policy'].generate(
      [Prompt.solve(p) for p in asked],
      *(self.policy.sampling(self.samples, self.max_tokens), key),
    )
    yield  # what follows asks the policy for nothing
    answers_PG = together(
      lambda: [
        rewards.answers(p.task, rollouts_G)
        for p, rollouts_G in zip(asked, rollouts_PG, strict=True)
      ]
    )
    agrees_PG = [
      [float(rewards.is_right(answer, x.label)) for answer in answers_G]
      for x, answers_G in zip(chosen, answers_PG, strict=True)
    ]
    rewards_PG = np.array(agrees_PG, float).reshape(-1, self.samples)
    rows = self.policy.rows_of_groups(
      rollouts_PG, rewards_PG, players.get('base'), self.max_tokens
    )
    rollouts = [r for rollouts_G in rollouts_PG for r in rollouts_G]
    metrics = {
      'train/reward': rewards_PG.ravel(),
      'train/learnable': 1.0 - rewards.all_equal(rewards_PG),
    } | _named('', {'passes': [before / len(state['set'])]})
    told = zip(asked, rollouts_PG, answers_PG, strict=True)
    return Collected(
      [self.policy.update(self.policy.row_set(rows))],
      state,
      metrics
      | _named('trained_', rewards.described(chosen))
      | measure(rollouts),
      [
        transcript(*said, vote=x.label, rewards=agrees_G)
        for said, x, agrees_G in zip(told, chosen, agrees_PG, strict=True)
      ],
      tokens=sum(len(r.tokens_T) for r in rollouts),
      scored=scored_tokens(rows) if self.policy.kl else 0,
    )


def _drawn(chosen: Sequence[Any], place: int, seed: Sequence[int]) -> Labelled:
  """One of a set, gone through pass after pass, each in another order."""
  done, place = divmod(place, len(chosen))
  order = np.random.default_rng([*seed, done]).permutation(len(chosen))
  return Labelled.read(chosen[order[place]])


def _named(prefix: str, observed: Mapping[str, Any]) -> dict[str, Any]:
  return {f'cot_self_instruct/{prefix}{k}': v for k, v in observed.items()}

"""SQLM: a model that writes its own problems and learns from its own vote.

Self-Questioning Language Models (arXiv 2508.03682). One model, two heads. Each
step:

  1. the proposer head writes problems on given topics;
  2. the solver head answers each of them several times;
  3. the majority answer stands in for the truth: an answer that agrees with it
     earns 1, any other 0;
  4. a problem earns its proposer 1 if the majority is not unanimous: neither
     too hard (`1 < agreeing`) nor too easy (`agreeing < n`);
  5. both heads take a GRPO step (arXiv 2402.03300): rewards normalised within
     the answers to one problem, or the proposals to one topic; clipped ratio;
     k3 divergence from a past self. The solver moves at every step, the
     proposer at every K-th.

No label is read, except to report how often the vote was right, and where a
setting says so (`solver_reward` `known`, `known` above 0, an anchor `best`).

The defaults are the paper's; what others do at each of these points is a
setting. With `given` there is no proposer: given problems are voted on, which
is TTRL (arXiv 2504.16084). What differs from the published code: an answer that
stands alone or ties for the lead is no majority and pays nobody; an answer cut
by the length limit casts no vote; malformed proposals, and those of held-out
problems, earn 0 *and* carry no gradient; answers are compared as numbers.
"""

import dataclasses
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import losses, rewards
from jaxdistill.dist.hosts import gather_texts
from jaxdistill.methods.method import (
  Method,
  check_choice,
  check_minibatches,
  glimpse,
)
from jaxdistill.methods.policy_gradient import PolicyGradient
from jaxdistill.rollout import Sampling, measure, scored_tokens
from jaxdistill.rollout.proposals import (
  Answered,
  Asked,
  Proposal,
  drawn_from,
  read_proposal,
)
from jaxdistill.rollout.verify import suits
from jaxdistill.types import (
  Anchor,
  Collected,
  Prompt,
  Records,
  Rollout,
  Update,
)

# What self-play is held against: each undoes one part of it.
CONTROLS: dict[str, dict[str, Any]] = {
  'known_answers': {'method.solver_reward': 'known'},
  'frozen_proposer': {'method.propose_every': 0},
  'fixed_bank': {'method.propose_every': 0, 'method.bank': 1536},
  'given_problems': {'method.propose_every': 0, 'method.given': True},
  'format_only': {
    'method.solver_reward': 'format',
    'method.proposer_reward': 'valid',
  },
  'random_reward': {
    'method.solver_reward': 'random',
    'method.propose_every': 0,
  },
}


@dataclasses.dataclass(frozen=True)
class Sqlm(Method):
  """Hyper-parameters of SQLM.

  Attributes:
    problems: Topics per step, over all hosts; with `given`, problems.
    proposals: Problems written on each topic; they are one group.
    samples: Answers to each problem (the paper's n); they are one group.
    propose_every: The proposer learns at every K-th step; 0 is never.
    alternate: If given, the proposer alone learns for so many steps, then the
      solver alone for so many, and so on (R-Zero: 5 and 15). What they share
      moves with either: `trainable=roles` shares nothing.
    proposer: Who writes: `policy`, or a past self by an anchor's rule
      (`league:5`, see `anchors/rules.py`), which is not trained.
    dropout: Share of the vocabulary that the proposer may not use, another at
      every step, in writing and in learning (arXiv 2604.03472). It then has no
      divergence: no past self was drawn from these words.
    guide: Who says how well proposals suit their topics, by which what they
      earn is multiplied (arXiv 2604.20209): `policy`, or another by an anchor's
      rule, such as `frozen`, the model as it began; nobody if empty.
    given: Whether the task's own problems are voted on and none is written.
    bank: If above 0, about this many proposals are written at the first step
      (as many on each topic), and all problems are drawn from those of them
      that can be asked.
    known: For this share of the proposals, a given problem with its known
      answer is asked as well; at most one per topic.
    solver_reward: `vote`, or a control: `known`, `format` or `random`, see
      `rewards/solver.py`.
    proposer_reward: `learnable` (SQLM), `uncertain` (R-Zero), `hard` (Absolute
      Zero), `varied` (SPICE) or `valid`, see `rewards/proposer.py`.
    malformed_penalty: What a malformed proposal loses (R-Zero and Absolute
      Zero: 1, SPICE: 0.1).
    repeat_penalty: Weight of what a proposal loses for having been said before.
    archive: How many past problems are kept; they count as said before.
    replay: For this share of the proposals, a problem of the archive is asked
      and voted on again, so that it is not forgotten; at most one per topic.
    band: Agreement, lowest and highest, of the problems that train the solver;
      where there is no majority it is 0.
    agreement_power: A problem weighs its agreement to this power.
    max_problem_tokens: Longest proposal.
    max_tokens: Longest answer.
    policy: How both heads draw and learn.
  """

  problems: int = 8
  proposals: int = 4
  samples: int = 8
  propose_every: int = 5
  alternate: tuple[int, ...] = ()
  proposer: str = 'policy'
  dropout: float = 0.0
  guide: str = ''
  given: bool = False
  bank: int = 0
  known: float = 0.0
  solver_reward: str = 'vote'
  proposer_reward: str = 'learnable'
  malformed_penalty: float = 0.0
  repeat_penalty: float = 0.0
  archive: int = 0
  replay: float = 0.0
  band: tuple[float, float] = (0.0, 1.0)
  agreement_power: float = 0.0
  max_problem_tokens: int = 16
  max_tokens: int = 64
  policy: PolicyGradient = PolicyGradient()

  def __post_init__(self):
    for name in ('samples', 'proposals'):
      if getattr(self, name) < 2:
        raise ValueError(
          f'method.{name} is {getattr(self, name)}; a group needs at least 2'
        )
    self._check_sources()
    check_choice(self, 'solver_reward', rewards.SOLVER_REWARDS)
    check_choice(self, 'proposer_reward', rewards.PROPOSER_REWARDS)
    if len(self.band) != 2 or not 0 <= self.band[0] <= self.band[1] <= 1:
      raise ValueError(
        f'method.band is {self.band}; it must be (lowest, highest), 0 to 1'
      )
    asked = self.problems
    if not self.given:
      asked *= self.proposals
      asked += self._beside(self.known) + self._beside(self.replay)
    check_minibatches(self.policy.minibatches, asked * self.samples)
    self.policy.sampling(self.samples, self.max_tokens)
    self._writing(self.proposals)

  def _check_sources(self) -> None:
    """That where problems come from is one thing, and possible."""
    for name in ('known', 'replay'):
      part = getattr(self, name)
      if part * self.proposals > 1:
        raise ValueError(
          f'method.{name} is {part}; with {self.proposals} proposals to a '
          f'topic it is at most {1 / self.proposals}'
        )
      if part and not self._beside(part):
        raise ValueError(
          f'method.{name} is {part}: less than one of '
          f'{self.problems * self.proposals} proposals'
        )
    if self.replay and (self.bank or not self.archive):
      raise ValueError(
        f'method.replay is {self.replay}; it draws from method.archive, which '
        f'is {self.archive} (and a bank has none)'
      )
    if self.propose_every and (
      self.given or self.bank or self.proposer != 'policy'
    ):
      raise ValueError(
        f'method.propose_every is {self.propose_every}; it must be 0 where '
        f'another writes (method.given is {self.given}, method.bank is '
        f'{self.bank}, method.proposer is {self.proposer!r})'
      )
    sizes = len(self.alternate) in (0, 2) and all(n > 0 for n in self.alternate)
    if not sizes or (self.alternate and self.propose_every != 1):
      raise ValueError(
        f'method.alternate is {self.alternate}; it must be (), or (steps of '
        'the proposer, of the solver) with method.propose_every 1'
      )
    whole = self.policy.top_k == 0 and self.policy.top_p == 1
    if self.dropout and not (0 < self.dropout < 1 and whole):
      raise ValueError(
        f'method.dropout is {self.dropout}; it must be in [0, 1), with '
        'method.top_k 0 and method.top_p 1'
      )
    if self.guide and not self.propose_every:
      raise ValueError(
        f'method.guide is {self.guide!r}; method.propose_every is 0, so nobody '
        'is paid for proposals'
      )
    if self.given:
      for name in ('bank', 'known', 'archive', 'replay', 'dropout'):
        if getattr(self, name):
          raise ValueError(
            f'method.{name} is {getattr(self, name)}; with method.given all '
            'problems are given'
          )

  @property
  def anchors(self):
    others = {'proposer': self.proposer, 'guide': self.guide}
    past = {
      name: Anchor(who, measured=False)
      for name, who in others.items()
      if who not in ('', 'policy')
    }
    return {**self.policy.anchors, **past}

  @property
  def words(self):
    return {'guide': ['suit']} if self.guide else {}

  def check(self, task):
    for p in [] if self.given else glimpse(task):
      prompt = task.proposer_prompt(p)
      other = dataclasses.replace(p, topic='?')
      if not p.topic and prompt != task.proposer_prompt(other):
        raise ValueError(
          f'method sqlm asks for a "topic"; {task.name} has none for {p.text!r}'
        )

  def init(self):
    return {'bank': Records([]), 'archive': []}

  def collect(self, players, problems, state, step, key):
    seed = jax.random.key_data(key).tolist()  # of draws on the host
    proposals = self._propose(players, problems, state, key)
    withheld = None
    if self.dropout:
      place = jax.random.fold_in(key, 0)
      withheld = players['policy'].withheld(self.dropout, place)
    if self.bank:
      texts = gather_texts([p.rollout.text for p in proposals if p.problem])
      state = state | {'bank': state['bank'] or Records(texts)}
    asked = self._ask(proposals, problems, state, seed)
    suited = self._guide(players, asked, problems)
    rollouts_PG = self._solve(players['policy'], asked, problems, key)
    yield  # what follows asks the policy for nothing
    answered = self._vote(asked, rollouts_PG, seed)
    earned, state = self._reward_proposals(proposals, answered, suited, state)

    learn_solver, learn_proposer = self._learners(step)
    updates, base = [], players.get('base')
    if learn_solver:
      updates.append(self._solver_update(answered, base))
    if learn_proposer:
      updates.append(self._proposer_update(proposals, earned, base, withheld))
    rollouts = [r for a in answered for r in a.rollouts_G]
    drawn = [*(p.rollout for p in proposals), *rollouts]
    return Collected(
      updates,
      state,
      self._measure(proposals, earned, answered)
      | {'selfplay/suited': list(suited.values())}
      | measure(rollouts),
      self._transcribe(proposals, earned, answered),
      tokens=sum(len(r.tokens_T) for r in drawn),
      scored=sum(
        scored_tokens(row_set.rows) for u in updates for row_set in u.sets
      )
      * bool(self.policy.kl)
      + sum(len(proposals[i].rollout.tokens_T) for i in suited),
      later=self._later(withheld),
    )

  def loss(self, model, anchors, batch):
    del anchors
    if 'withheld' not in batch.coefficients:
      return self.policy.loss(model, batch)
    withheld = batch.coefficients['withheld'] > 0

    def of_the_rest(logits, targets):
      # Not -inf: a padded place may stand for any token.
      logits = jnp.where(withheld, -1e9, logits / self.policy.temperature)
      return losses.token_logp(logits, targets)

    arrays = (batch.targets,)
    logp = batch.over_targets(of_the_rest, model, arrays=arrays)
    return self.policy.loss_of(logp, batch)

  def _learners(self, step: int) -> tuple[bool, bool]:
    """Whether the solver learns at a step, and whether the proposer does."""
    if self.alternate:
      first = step % sum(self.alternate) < self.alternate[0]
      return not first, first
    every = self.propose_every
    return True, bool(every) and (step + 1) % every == 0

  def _later(self, withheld) -> list[Update]:
    """Whose turn may come at another step."""
    found = [self.policy.update(self.policy.row_set([]))]
    if self.propose_every or self.alternate:
      found.append(self._of_proposer([], withheld))
    return found

  def _writing(self, count: int) -> Sampling:
    """How the proposer draws."""
    sampling = self.policy.sampling(count, self.max_problem_tokens)
    return dataclasses.replace(sampling, dropout=self.dropout)

  def _beside(self, part: float) -> int:
    """Problems of a part of the proposals per step, over all hosts."""
    return round(part * self.problems * self.proposals)

  def _propose(self, players, topics, state, key) -> list[Proposal]:
    """1. Proposals on each topic, read and checked."""
    count = 0 if self.given else self.proposals
    if self.bank:
      missing = 0 if state['bank'] else self.bank
      count = -(-missing // self.problems)
    if not count:
      return []
    written_PG = players.get('proposer', players['policy']).generate(
      [Prompt.propose(t) for t in topics],
      self._writing(count),
      jax.random.fold_in(key, 0),
    )
    return [
      read_proposal(rollout, topic, address=topic.address * self.proposals + g)
      for topic, written_G in zip(topics, written_PG, strict=True)
      for g, rollout in enumerate(written_G)
    ]

  def _ask(self, proposals, topics, state, seed) -> list[Asked]:
    """What is put to the solver. A problem's address says where it is from.

    Of proposals: their topic's place and their own. Behind them all come the
    known ones, then those of the archive.
    """
    if self.given:
      return [Asked(p, 'given') for p in topics]
    asked = [
      Asked(p.problem, 'proposed', i)
      for i, p in enumerate(proposals)
      if p.problem
    ]
    if self.bank:
      each = range(self.proposals)
      addresses = [t.address * self.proposals + g for t in topics for g in each]
      drawn = drawn_from(state['bank'], topics, addresses, seed)
      asked = [Asked(p, 'bank') for p in drawn]
    beside = self.problems * self.proposals
    if state['archive']:
      again = [t for t in topics if t.address < self._beside(self.replay)]
      addresses = [beside + self.problems + t.address for t in again]
      drawn = drawn_from(state['archive'], topics, addresses, seed)
      asked += [Asked(p, 'archive') for p in drawn]
    return asked + [
      Asked(dataclasses.replace(t, address=beside + t.address), 'known')
      for t in topics
      if t.address < self._beside(self.known)
    ]

  def _guide(self, players, asked, topics) -> dict[int, float]:
    """How well each proposal that is asked suits its topic, by its place."""
    if not self.guide:
      return {}
    shown = {
      a.proposal: dataclasses.replace(
        a.problem, topic=topics[a.proposal // self.proposals].topic
      )
      for a in asked
      if a.source == 'proposed'
    }
    guide = players.get('guide', players['policy'])
    worth = suits(guide, [*shown.values()])
    return dict(zip(shown, worth.tolist(), strict=True))

  def _solve(self, policy, asked, topics, key) -> list[list[Rollout]]:
    """2. Answers to each problem."""
    # All proposals may be valid in some step.
    parts = 1 if self.given else self.proposals
    parts += bool(self.replay) + bool(self.known)
    return policy.generate(
      [Prompt.solve(a.problem) for a in asked],
      self.policy.sampling(self.samples, self.max_tokens),
      jax.random.fold_in(key, 1),
      expected=len(topics) * parts,
    )

  def _vote(self, asked, rollouts_PG, seed) -> list[Answered]:
    """3. The vote on each problem, and what its answers earn."""
    out = []
    for a, rollouts_G in zip(asked, rollouts_PG, strict=True):
      answers_G = rewards.answers(a.problem.task, rollouts_G)
      vote = rewards.majority(answers_G)
      name = 'known' if a.source == 'known' else self.solver_reward
      draws = np.random.default_rng([*seed, a.problem.address, 1])
      earned_G = rewards.SOLVER_REWARDS[name](a.problem, answers_G, vote, draws)
      out.append(Answered(a, rollouts_G, answers_G, vote, earned_G))
    return out

  def _reward_proposals(
    self, proposals, answered, suited, state
  ) -> tuple[list[float], Any]:
    """4. What each proposal earns (nothing, in a bank), and the next state."""
    if self.bank:
      return [], state
    own = [a for a in answered if a.asked.source == 'proposed']
    texts = [a.asked.problem.text for a in own]
    everyones = gather_texts(texts)
    said = rewards.repeated(texts, everyones + state['archive'])
    earned = [-self.malformed_penalty] * len(proposals)
    for a, copies in zip(own, said, strict=True):
      worth = rewards.PROPOSER_REWARDS[self.proposer_reward](a.vote)
      worth *= suited.get(a.asked.proposal, 1.0)
      earned[a.asked.proposal] = worth - self.repeat_penalty * copies
    if self.archive:
      archive = state['archive'] + everyones
      state = state | {'archive': archive[-self.archive :]}
    return earned, state

  def _solver_update(self, answered, base):
    """5. Rows of all answers, each problem's as much as its vote is trusted."""
    rows = self.policy.rows_of_groups(
      [a.rollouts_G for a in answered],
      self._earned(answered),
      *(base, self.max_tokens, self._trust(answered)),
    )
    return self.policy.update(self.policy.row_set(rows))

  def _proposer_update(self, proposals, earned, base, withheld):
    """Rows of the valid ones; the others count in their group's mean only."""
    earned_PG = np.array(earned).reshape(-1, self.proposals)
    valid = [i for i, p in enumerate(proposals) if p.problem]
    written = [proposals[i].rollout for i in valid]
    if self.dropout:
      # Log-probs are of the words that there were, drawn and learned.
      written = [
        dataclasses.replace(r, logp_T=r.logp_T - r.kept_T) for r in written
      ]
      base = None
    rows = self.policy.rows(
      written,
      self.policy.advantages(earned_PG).ravel()[valid],
      np.repeat(self.policy.kept(earned_PG), self.proposals)[valid],
      base,
      self.max_problem_tokens,
    )
    return self._of_proposer(rows, withheld)

  def _of_proposer(self, rows, withheld):
    policy = self.policy
    if self.dropout:
      policy = dataclasses.replace(policy, kl=0.0)
    found = policy.row_set(rows, role='proposer', kind='proposer')
    if self.dropout:
      known = {**found.coefficients, 'withheld': withheld}
      found = dataclasses.replace(
        found, coefficients=known, start_temperature=None
      )
    return policy.update(found)

  def _earned(self, answered) -> np.ndarray:
    earned_PG = np.array([a.earned_G for a in answered], float)
    return earned_PG.reshape(-1, self.samples)

  def _trust(self, answered) -> np.ndarray:
    """How much each problem counts, float[P]."""
    share_P = np.array([a.vote.share for a in answered])
    trust_P = share_P**self.agreement_power
    trust_P *= (self.band[0] <= share_P) & (share_P <= self.band[1])
    trust_P[[a.asked.source == 'known' for a in answered]] = 1.0
    return trust_P * self.policy.kept(self._earned(answered))

  def _measure(self, proposals, earned, answered) -> dict[str, Any]:
    """What happened in a step. Known answers are read only to be counted.

    Of equal proposals, whichever hosts have them, each is a share of one that
    is distinct.
    """
    own = [a for a in answered if a.asked.source not in ('archive', 'known')]
    texts = [a.asked.problem.text for a in own]
    everyones = Counter(gather_texts(texts))
    return {
      'selfplay/valid': [float(p.problem is not None) for p in proposals],
      'selfplay/distinct': [1 / everyones[text] for text in texts],
      'selfplay/agreement': [a.vote.count / self.samples for a in own],
      'selfplay/majority': [float(a.vote.answer is not None) for a in own],
      'selfplay/vote_accuracy': [
        float(rewards.is_right(a.vote.answer, a.asked.problem.answer))
        for a in own
        if a.asked.problem.answer is not None
      ],
      'selfplay/proposer_reward': earned,
      'selfplay/solver_reward': self._earned(own).ravel(),
      'selfplay/trained': (self._trust(answered) > 0).astype(float),
    }

  def _transcribe(self, proposals, earned, answered) -> list[dict[str, Any]]:
    """Every proposal, asked or rejected, and then what was asked besides."""
    proposals = [] if self.bank else proposals
    told = {
      a.asked.proposal: a.transcript()
      for a in answered
      if a.asked.source == 'proposed'
    }
    return [
      {
        'topic': p.rollout.prompt.text,
        'proposal': p.rollout.text,
        'proposer_reward': worth,
      }
      | ({'rejected': p.rejected} if p.rejected else told[i])
      for i, (p, worth) in enumerate(zip(proposals, earned, strict=True))
    ] + [a.transcript() for a in answered if a.asked.source != 'proposed']

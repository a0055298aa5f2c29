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
setting. What differs from the published code: an answer that stands alone or
ties for the lead is no majority and pays nobody; an answer cut by the length
limit casts no vote; malformed proposals, and those of held-out problems, earn 0
*and* carry no gradient; answers are compared as numbers.
"""

import dataclasses

import jax
import numpy as np

from jaxdistill import losses, rewards
from jaxdistill.dist.hosts import gather_texts
from jaxdistill.methods.method import check_minibatches
from jaxdistill.rollout import Sampling, fields, measure, policy_rows
from jaxdistill.types import Collected, Problem, Prompt, RowSet, Update


@dataclasses.dataclass(frozen=True)
class Sqlm:
  """Hyper-parameters of SQLM.

  Attributes:
    problems: Topics per step, over all hosts.
    proposals: Problems written on each topic; they are one group.
    samples: Answers to each problem (the paper's n); they are one group.
    propose_every: The proposer learns at every K-th step; 0 is never.
    proposer: Who writes: `policy`, or a past self by an anchor's rule
      (`league:5`, see `anchors/rules.py`), which is not trained.
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
    temperature: Of sampling, for both heads.
    top_k: Of sampling; 0 keeps all tokens.
    top_p: Of sampling.
    objective: `grpo`, `dr_grpo`, `dapo`, `gspo` or `rloo`.
    clip_low: How far below 1 the ratio counts (GSPO's paper: 3e-4).
    clip_high: How far above 1 (DAPO's paper: 0.28; GSPO's: 4e-4).
    overlong: Tokens before the limit over which DAPO's penalty on the length
      of an answer grows to 1; 0 is none.
    kl: Weight of the divergence from the anchor; at 0 there is no anchor, and
      nothing is scored under it.
    reference: When the anchor moves, see `anchors/rules.py`.
    epochs: Passes over each step's rows.
    minibatches: Optimizer steps per pass.
  """

  problems: int = 8
  proposals: int = 4
  samples: int = 8
  propose_every: int = 5
  proposer: str = 'policy'
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
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  objective: str = 'grpo'
  clip_low: float = 0.2
  clip_high: float = 0.2
  overlong: int = 0
  kl: float = 0.001
  reference: str = 'frozen'
  epochs: int = 1
  minibatches: int = 1

  def __post_init__(self):
    for name in ('samples', 'proposals'):
      if getattr(self, name) < 2:
        raise ValueError(
          f'method.{name} is {getattr(self, name)}; a group needs at least 2'
        )
    for name in ('known', 'replay'):
      share = getattr(self, name)
      if share * self.proposals > 1:
        raise ValueError(
          f'method.{name} is {share}; with {self.proposals} proposals to a '
          f'topic it is at most {1 / self.proposals}'
        )
      if share and not self._beside(share):
        raise ValueError(
          f'method.{name} is {share}: less than one of '
          f'{self.problems * self.proposals} proposals'
        )
    if self.replay and (self.bank or not self.archive):
      raise ValueError(
        f'method.replay is {self.replay}; it draws from method.archive, which '
        f'is {self.archive} (and a bank has none)'
      )
    for name, allowed in (
      ('solver_reward', rewards.SOLVER_REWARDS),
      ('proposer_reward', rewards.PROPOSER_REWARDS),
    ):
      if getattr(self, name) not in allowed:
        raise ValueError(
          f'method.{name} is {getattr(self, name)!r}; it must be one of '
          + ', '.join(allowed)
        )
    if len(self.band) != 2 or not 0 <= self.band[0] <= self.band[1] <= 1:
      raise ValueError(
        f'method.band is {self.band}; it must be (lowest, highest), 0 to 1'
      )
    if self.propose_every and (self.bank or self.proposer != 'policy'):
      raise ValueError(
        f'method.propose_every is {self.propose_every}; it must be 0 where '
        f'another writes (method.bank is {self.bank}, method.proposer is '
        f'{self.proposer!r})'
      )
    beside = self._beside(self.known) + self._beside(self.replay)
    asked = self.problems * self.proposals + beside
    check_minibatches(self.minibatches, asked * self.samples)
    losses.objective(self.objective)
    self._sampling(self.samples, self.max_tokens)
    self._sampling(self.proposals, self.max_problem_tokens)

  @property
  def anchors(self):
    past = {} if self.proposer == 'policy' else {'proposer': self.proposer}
    base = {'base': self.reference} if self.kl else {}
    return base | past

  def init(self):
    return {'bank': [], 'archive': []}

  def collect(self, players, problems, state, step, key):
    policy, base = players['policy'], players.get('base')
    writer = players.get('proposer', policy)
    objective = losses.objective(self.objective)
    seed = jax.random.key_data(key).tolist()  # of draws on the host

    # 1. Propose. A proposal's address is its topic's place and its own.
    topics = [
      Prompt('proposer', t.task.proposer_prompt(t), row=t.row) for t in problems
    ]
    count = self.proposals
    if self.bank:
      missing = 0 if state['bank'] else self.bank
      count = -(-missing // self.problems)
    proposals_PG = [[] for _ in topics]
    if count:
      proposals_PG = writer.generate(
        topics,
        self._sampling(count, self.max_problem_tokens),
        jax.random.fold_in(key, 0),
      )
    proposals = [p for proposals_G in proposals_PG for p in proposals_G]
    read = [
      topic.task.parse_problem(p.text) if p.finish == 'stop' else None
      for topic, proposals_G in zip(problems, proposals_PG, strict=True)
      for p in proposals_G
    ]
    rejected = [_why_not(problem) for problem in read]
    valid = [i for i, reason in enumerate(rejected) if reason is None]
    written = [
      p for p, reason in zip(read, rejected, strict=True) if p and not reason
    ]
    rows = [
      t.row * self.proposals + g for t in topics for g in range(self.proposals)
    ]
    if self.bank:
      texts = gather_texts([proposals[i].text for i in valid])
      state = state | {'bank': state['bank'] or texts}
      asked = _from_bank(state['bank'], problems, rows, seed)
    else:
      asked = [
        dataclasses.replace(p, row=rows[i])
        for p, i in zip(written, valid, strict=True)
      ]
    self_made, beside = len(asked), self.problems * self.proposals
    if state['archive']:
      again = [p for p in problems if p.row < self._beside(self.replay)]
      addresses = [beside + self.problems + p.row for p in again]
      asked += _from_bank(state['archive'], problems, addresses, seed)
    voted = len(asked)
    asked += [
      dataclasses.replace(p, row=beside + p.row)
      for p in problems
      if p.row < self._beside(self.known)
    ]

    # 2. Solve.
    answered_PG = policy.generate(
      [Prompt('solver', p.task.solver_prompt(p), row=p.row) for p in asked],
      self._sampling(self.samples, self.max_tokens),
      jax.random.fold_in(key, 1),
    )

    # 3. Vote.
    answers_PG = [
      rewards.answers(p.task, answered_G)
      for p, answered_G in zip(asked, answered_PG, strict=True)
    ]
    votes_P = [rewards.majority(answers_G) for answers_G in answers_PG]
    pay = rewards.SOLVER_REWARDS[self.solver_reward]
    pays_P = [pay] * voted
    pays_P += [rewards.SOLVER_REWARDS['known']] * (len(asked) - voted)
    solver_PG = [
      pay(p, answers_G, vote, np.random.default_rng([*seed, p.row, 1]))
      for pay, p, answers_G, vote in zip(
        pays_P, asked, answers_PG, votes_P, strict=True
      )
    ]
    solver_PG = np.array(solver_PG, float).reshape(-1, self.samples)

    # 4. What a proposal is worth.
    proposer = np.full(len(proposals), -self.malformed_penalty)
    if not self.bank:
      worth = rewards.PROPOSER_REWARDS[self.proposer_reward]
      texts = [p.text for p in asked[:self_made]]
      everyones = gather_texts(texts)
      said = rewards.repeated(texts, everyones + state['archive'])
      proposer[valid] = [worth(v) for v in votes_P[:self_made]]
      proposer[valid] -= self.repeat_penalty * np.array(said)
      if self.archive:
        archive = state['archive'] + everyones
        state = state | {'archive': archive[-self.archive :]}

    # 5. Rows. Malformed proposals count in their group's mean, no more.
    answered = [r for answered_G in answered_PG for r in answered_G]
    lengths_PG = np.array([len(r.tokens_T) for r in answered], int)
    paid_PG = solver_PG + rewards.overlong(
      lengths_PG.reshape(solver_PG.shape), self.max_tokens, self.overlong
    )
    agreement_P = np.array([v.share for v in votes_P])
    scales_P = agreement_P**self.agreement_power
    scales_P *= (self.band[0] <= agreement_P) & (agreement_P <= self.band[1])
    scales_P[voted:] = 1.0
    scales_P *= 1.0 - losses.all_equal(solver_PG) * objective.drops_equal
    solver_rows = policy_rows(
      answered,
      objective.advantage(paid_PG).ravel(),
      base,
      self.temperature,
      lambda length: objective.weigh(length, self.max_tokens),
      np.repeat(scales_P, self.samples),
    )
    updates = [self._update('solver', solver_rows)]
    if self.propose_every and (step + 1) % self.propose_every == 0:
      proposer_PG = proposer.reshape(-1, self.proposals)
      kept_P = 1.0 - losses.all_equal(proposer_PG) * objective.drops_equal
      proposer_rows = policy_rows(
        [proposals[i] for i in valid],
        objective.advantage(proposer_PG).ravel()[valid],
        base,
        self.temperature,
        lambda length: objective.weigh(length, self.max_problem_tokens),
        np.repeat(kept_P, self.proposals)[valid],
      )
      updates.append(self._update('proposer', proposer_rows))

    metrics = (
      _measure(rejected, asked[:self_made], votes_P, self.samples)
      | {
        'selfplay/proposer_reward': [] if self.bank else proposer,
        'selfplay/solver_reward': solver_PG[:self_made].ravel(),
        'selfplay/trained': (scales_P > 0).astype(float),
      }
      | measure(answered)
    )
    transcripts = _transcribe(
      *(asked, answered_PG, answers_PG, votes_P, solver_PG)
    )
    if not self.bank:
      own = iter(transcripts[:self_made])
      transcripts[:self_made] = [
        {'topic': p.prompt.text, 'proposal': p.text, 'proposer_reward': worth}
        | ({'rejected': reason} if reason else next(own))
        for p, reason, worth in zip(
          proposals, rejected, proposer.tolist(), strict=True
        )
      ]
    drawn = [*proposals, *answered]
    tokens = sum(len(r.tokens_T) for r in drawn)
    return Collected(updates, state, metrics, transcripts, tokens)

  def loss(self, model, frozen, batch):
    del frozen
    logp = batch.logprobs(model, self.temperature)
    return losses.policy_gradient(
      logp,
      batch.weight != 0,
      batch.segments,
      batch.fields,
      batch.coefficients,
      losses.objective(self.objective).ratio,
    )

  def _beside(self, share: float) -> int:
    """Problems of a share of the proposals per step, over all hosts."""
    return round(share * self.problems * self.proposals)

  def _sampling(self, samples: int, max_tokens: int) -> Sampling:
    return Sampling(
      samples, max_tokens, self.temperature, self.top_k, self.top_p
    )

  def _update(self, role: str, rows: list) -> Update:
    coefficients = {
      'clip_low': self.clip_low,
      'clip_high': self.clip_high,
      'kl': self.kl,
    }
    row_set = RowSet(role, rows, fields(self.kl > 0), coefficients)
    return Update((row_set,), self.epochs, self.minibatches)


def _why_not(problem: Problem | None) -> str | None:
  """Why a proposal, as it was read, is not asked; None if it is."""
  if problem is None:
    return 'malformed'
  return 'held out' if problem.task.held_out(problem) else None


def _from_bank(bank, topics, rows, seed):
  """One problem of a bank, or of the archive, for each row."""
  if not bank:
    return []
  draws = [np.random.default_rng([*seed, row]) for row in rows]
  drawn = [bank[draw.integers(len(bank))] for draw in draws]
  return [
    dataclasses.replace(topics[0].task.parse_problem(text), row=row)
    for text, row in zip(drawn, rows, strict=True)
  ]


def _measure(rejected, asked, votes_P, samples):
  """What happened in a step. Known answers are read only to be counted.

  A proposal is distinct if this host has not seen its text before in the step.
  """
  texts = [p.text for p in asked]
  votes_P = votes_P[: len(asked)]
  return {
    'selfplay/valid': [float(reason is None) for reason in rejected],
    'selfplay/distinct': [
      float(text not in texts[:i]) for i, text in enumerate(texts)
    ],
    'selfplay/agreement': [v.count / samples for v in votes_P],
    'selfplay/majority': [float(v.answer is not None) for v in votes_P],
    'selfplay/vote_accuracy': [
      float(v.answer is not None and rewards.equal(v.answer, p.answer) is True)
      for p, v in zip(asked, votes_P, strict=True)
      if p.answer is not None
    ],
  }


def _transcribe(asked, answered_PG, answers_PG, votes_P, rewards_PG):
  return [
    {
      'problem': p.text,
      'known': p.answer,
      'vote': vote.answer,
      'answers': answers_G,
      'rewards': rewards_G.tolist(),
      'texts': [r.text for r in answered_G],
    }
    for p, answered_G, answers_G, vote, rewards_G in zip(
      asked, answered_PG, answers_PG, votes_P, rewards_PG, strict=True
    )
  ]

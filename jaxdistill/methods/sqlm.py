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

No label is read, except to report how often the vote was right.

What differs from the published code: an answer that stands alone or ties for
the lead is no majority and pays nobody; an answer cut by the length limit
casts no vote; malformed proposals, and those of held-out problems, earn 0 *and*
carry no gradient; answers are compared as numbers.
"""

import dataclasses

import jax
import numpy as np

from jaxdistill import losses, rewards
from jaxdistill.rollout import FIELDS, Sampling, policy_rows
from jaxdistill.types import Collected, Problem, Prompt, RowSet, Update


@dataclasses.dataclass(frozen=True)
class Sqlm:
  """Hyper-parameters of SQLM.

  Attributes:
    problems: Topics per step, over all hosts.
    proposals: Problems written on each topic; they are one group.
    samples: Answers to each problem (the paper's n); they are one group.
    propose_every: The proposer learns at every K-th step; 0 is never.
    max_problem_tokens: Longest proposal.
    max_tokens: Longest answer.
    temperature: Of sampling, for both heads.
    top_k: Of sampling; 0 keeps all tokens.
    top_p: Of sampling.
    clip: Clip range of the ratio.
    kl: Weight of the divergence from the anchor.
    reference: When the anchor moves: `frozen` or `every:K`.
    epochs: Passes over each step's rows.
    minibatches: Optimizer steps per pass.
  """

  problems: int = 8
  proposals: int = 4
  samples: int = 8
  propose_every: int = 5
  max_problem_tokens: int = 16
  max_tokens: int = 64
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  clip: float = 0.2
  kl: float = 0.001
  reference: str = 'frozen'
  epochs: int = 1
  minibatches: int = 1

  def __post_init__(self):
    if self.samples < 2:
      raise ValueError(
        f'method.samples is {self.samples}; a majority needs at least 2'
      )
    self._sampling(self.samples, self.max_tokens)
    self._sampling(self.proposals, self.max_problem_tokens)

  @property
  def anchors(self):
    return {'base': self.reference}

  def init(self):
    return {}

  def collect(self, players, problems, state, step, key):
    policy, base = players['policy'], players['base']

    # 1. Propose. A proposal's address is its topic's place and its own.
    topics = [
      Prompt('proposer', t.task.proposer_prompt(t), row=t.row) for t in problems
    ]
    proposals_PG = policy.generate(
      topics,
      self._sampling(self.proposals, self.max_problem_tokens),
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
    rows = [
      t.row * self.proposals + g for t in topics for g in range(self.proposals)
    ]
    asked = [
      dataclasses.replace(problem, row=row)
      for problem, row, reason in zip(read, rows, rejected, strict=True)
      if problem and not reason
    ]

    # 2. Solve.
    answered_PG = policy.generate(
      [Prompt('solver', p.task.solver_prompt(p), row=p.row) for p in asked],
      self._sampling(self.samples, self.max_tokens),
      jax.random.fold_in(key, 1),
    )

    # 3. Vote, and 4. what a proposal is worth.
    answers_PG = [
      rewards.answers(p.task, answered_G)
      for p, answered_G in zip(asked, answered_PG, strict=True)
    ]
    votes_P = [rewards.majority(answers_G) for answers_G in answers_PG]
    solver_PG = np.array([v.agrees_G for v in votes_P], float)
    solver_PG = solver_PG.reshape(-1, self.samples)
    proposer = np.zeros(len(proposals))
    proposer[valid] = [rewards.learnable(v) for v in votes_P]
    proposer_PG = proposer.reshape(-1, self.proposals)

    # 5. Rows. Malformed proposals count in their group's mean, no more.
    solver_rows = policy_rows(
      [r for answered_G in answered_PG for r in answered_G],
      losses.group_normalised(solver_PG).ravel(),
      base,
      self.temperature,
    )
    updates = [self._update('solver', solver_rows)]
    if self.propose_every and (step + 1) % self.propose_every == 0:
      proposer_rows = policy_rows(
        [proposals[i] for i in valid],
        losses.group_normalised(proposer_PG).ravel()[valid],
        base,
        self.temperature,
      )
      updates.append(self._update('proposer', proposer_rows))

    metrics, transcripts = _account(
      proposals, rejected, asked, answered_PG, answers_PG, votes_P, proposer
    )
    drawn = [*proposals, *(r for rows_G in answered_PG for r in rows_G)]
    tokens = sum(len(r.tokens_T) for r in drawn)
    return Collected(updates, state, metrics, transcripts, tokens)

  def loss(self, model, frozen, batch):
    del frozen
    logp = model.logprobs(
      batch.tokens,
      batch.positions,
      batch.segments,
      role=batch.role,
      temperature=self.temperature,
    )
    return losses.grpo(
      logp, batch.weight != 0, batch.fields, batch.coefficients
    )

  def _sampling(self, samples: int, max_tokens: int) -> Sampling:
    return Sampling(
      samples, max_tokens, self.temperature, self.top_k, self.top_p
    )

  def _update(self, role: str, rows: list) -> Update:
    coefficients = {'clip': self.clip, 'kl': self.kl}
    row_set = RowSet(role, rows, FIELDS, coefficients)
    return Update((row_set,), self.epochs, self.minibatches)


def _why_not(problem: Problem | None) -> str | None:
  """Why a proposal, as it was read, is not asked; None if it is."""
  if problem is None:
    return 'malformed'
  return 'held out' if problem.task.held_out(problem) else None


def _account(
  proposals, rejected, asked, answered_PG, answers_PG, votes_P, proposer
):
  """Metrics and transcripts of one step. Known answers are read only here.

  A proposal is distinct if this host has not seen its text before in the step.
  """
  right = [
    v.answer is not None and rewards.equal(v.answer, p.answer) is True
    for p, v in zip(asked, votes_P, strict=True)
    if p.answer is not None
  ]
  texts = [p.text for p in asked]
  answered = [r for answered_G in answered_PG for r in answered_G]
  samples = len(answered_PG[0]) if answered_PG else 1
  metrics = {
    'selfplay/valid': [float(reason is None) for reason in rejected],
    'selfplay/distinct': [
      float(text not in texts[:i]) for i, text in enumerate(texts)
    ],
    'selfplay/agreement': [v.count / samples for v in votes_P],
    'selfplay/majority': [float(v.answer is not None) for v in votes_P],
    'selfplay/vote_accuracy': [float(r) for r in right],
    'selfplay/proposer_reward': proposer,
    'selfplay/solver_reward': [float(a) for v in votes_P for a in v.agrees_G],
    'rollout/length': [len(r.tokens_T) for r in answered],
    'rollout/cut': [float(r.finish == 'length') for r in answered],
  }
  place = iter(range(len(asked)))
  transcripts = []
  for proposal, reason, reward in zip(
    proposals, rejected, proposer, strict=True
  ):
    record = {'topic': proposal.prompt.text, 'proposal': proposal.text}
    if reason:
      record['rejected'] = reason
    else:
      i = next(place)
      record |= {
        'known': asked[i].answer,
        'vote': votes_P[i].answer,
        'answers': answers_PG[i],
        'rewards': [float(a) for a in votes_P[i].agrees_G],
        'texts': [r.text for r in answered_PG[i]],
      }
    transcripts.append(record | {'proposer_reward': float(reward)})
  return metrics, transcripts

"""GRPO: learn from known answers, each sample compared with its siblings.

(arXiv 2402.03300.) Several answers to each problem; the task pays 1 for a right
one; the advantage is the reward normalised within the problem's group, so no
value network is needed. Its kin (`losses/objective.py`) differ in three small
choices, named by `objective`.
"""

import dataclasses

import numpy as np

from jaxdistill import losses, rewards
from jaxdistill.methods.method import check_minibatches
from jaxdistill.rollout import Sampling, fields, measure, policy_rows
from jaxdistill.types import Collected, Prompt, RowSet, Update


@dataclasses.dataclass(frozen=True)
class Grpo:
  """Hyper-parameters of GRPO.

  Attributes:
    problems: Problems per step, over all hosts.
    samples: Answers per problem.
    max_tokens: Longest answer.
    temperature: Of sampling.
    top_k: Of sampling; 0 keeps all tokens.
    top_p: Of sampling.
    objective: `grpo`, `dr_grpo`, `dapo`, `gspo` or `rloo`.
    clip_low: How far below 1 the ratio counts (GSPO's paper: 3e-4).
    clip_high: How far above 1 (DAPO's paper: 0.28; GSPO's: 4e-4).
    overlong: Tokens before the limit over which DAPO's penalty on length grows
      to 1; 0 is none.
    kl: Weight of the divergence from the anchor; at 0 there is no anchor, and
      nothing is scored under it.
    reference: When the anchor moves, see `anchors/rules.py`.
    epochs: Passes over each step's answers.
    minibatches: Optimizer steps per pass.
  """

  problems: int = 32
  samples: int = 8
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
    if self.samples < 2:
      raise ValueError(
        f'method.samples is {self.samples}; a comparison needs at least 2'
      )
    check_minibatches(self.minibatches, self.problems * self.samples)
    losses.objective(self.objective)
    self.sampling()

  @property
  def anchors(self):
    return {'base': self.reference} if self.kl else {}

  def sampling(self) -> Sampling:
    return Sampling(
      self.samples, self.max_tokens, self.temperature, self.top_k, self.top_p
    )

  def init(self):
    return {}

  def collect(self, players, problems, state, step, key):
    del step
    objective = losses.objective(self.objective)
    prompts = [
      Prompt('solver', p.task.solver_prompt(p), row=p.row) for p in problems
    ]
    rollouts_PG = players['policy'].generate(prompts, self.sampling(), key)
    answers_PG = [
      rewards.answers(p.task, rollouts_G)
      for p, rollouts_G in zip(problems, rollouts_PG, strict=True)
    ]
    rewards_PG = [
      p.task.reward(p, answers_G)
      for p, answers_G in zip(problems, answers_PG, strict=True)
    ]
    rewards_PG = np.array(rewards_PG, float).reshape(-1, self.samples)
    rollouts = [r for rollouts_G in rollouts_PG for r in rollouts_G]
    lengths_PG = np.array([len(r.tokens_T) for r in rollouts], int)
    paid_PG = rewards_PG + rewards.overlong(
      lengths_PG.reshape(rewards_PG.shape), self.max_tokens, self.overlong
    )
    equal_P = losses.all_equal(rewards_PG)  # whatever lengths cost
    scales_P = 1.0 - equal_P * objective.drops_equal
    rows = policy_rows(
      rollouts,
      objective.advantage(paid_PG).ravel(),
      players.get('base'),
      self.temperature,
      lambda length: objective.weigh(length, self.max_tokens),
      np.repeat(scales_P, self.samples),
    )
    coefficients = {
      'clip_low': self.clip_low,
      'clip_high': self.clip_high,
      'kl': self.kl,
    }
    update = Update(
      (RowSet('solver', rows, fields(self.kl > 0), coefficients),),
      self.epochs,
      self.minibatches,
    )
    metrics = {
      'train/reward': rewards_PG.ravel(),
      'train/learnable': 1.0 - equal_P,
    } | measure(rollouts)
    transcripts = [
      {
        'problem': p.text,
        'known': p.answer,
        'answers': answers_G,
        'rewards': rewards_G.tolist(),
        'texts': [r.text for r in rollouts_G],
      }
      for p, answers_G, rewards_G, rollouts_G in zip(
        problems, answers_PG, rewards_PG, rollouts_PG, strict=True
      )
    ]
    return Collected(
      [update], state, metrics, transcripts, int(lengths_PG.sum())
    )

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

"""GRPO: learn from known answers, each sample compared with its siblings.

(arXiv 2402.03300.) Several answers to each problem; the reward is 1 for a
right one; the advantage is the reward normalised within the problem's group,
so no value network is needed. It is the upper bound that self-play is held
against: the same update, with the truth in the place of the vote.
"""

import dataclasses

import numpy as np

from jaxdistill import losses, rewards
from jaxdistill.rollout import FIELDS, Sampling, policy_rows
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
    clip: Clip range of the ratio.
    kl: Weight of the divergence from the anchor.
    reference: When the anchor moves: `frozen` or `every:K`.
    epochs: Passes over each step's answers.
    minibatches: Optimizer steps per pass.
  """

  problems: int = 32
  samples: int = 8
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
    self.sampling()

  @property
  def anchors(self):
    return {'base': self.reference}

  def sampling(self) -> Sampling:
    return Sampling(
      self.samples, self.max_tokens, self.temperature, self.top_k, self.top_p
    )

  def init(self):
    return {}

  def collect(self, players, problems, state, step, key):
    del step
    prompts = [
      Prompt('solver', p.task.solver_prompt(p), row=p.row) for p in problems
    ]
    rollouts_PG = players['policy'].generate(prompts, self.sampling(), key)
    answers_PG = [
      rewards.answers(p.task, rollouts_G)
      for p, rollouts_G in zip(problems, rollouts_PG, strict=True)
    ]
    rewards_PG = [
      [float(a is not None and rewards.equal(a, p.answer) is True) for a in a_G]
      for p, a_G in zip(problems, answers_PG, strict=True)
    ]
    rewards_PG = np.array(rewards_PG).reshape(-1, self.samples)
    advantages_PG = losses.group_normalised(rewards_PG)
    rollouts = [r for rollouts_G in rollouts_PG for r in rollouts_G]
    rows = policy_rows(
      rollouts, advantages_PG.ravel(), players['base'], self.temperature
    )
    coefficients = {'clip': self.clip, 'kl': self.kl}
    update = Update(
      (RowSet('solver', rows, FIELDS, coefficients),),
      self.epochs,
      self.minibatches,
    )
    metrics = {
      'train/reward': rewards_PG.ravel(),
      'train/learnable': (rewards_PG.std(-1) > 0).astype(float),
      'rollout/length': [len(r.tokens_T) for r in rollouts],
      'rollout/cut': [float(r.finish == 'length') for r in rollouts],
    }
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
    tokens = sum(len(r.tokens_T) for r in rollouts)
    return Collected([update], state, metrics, transcripts, tokens)

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

"""SEAL: learn to write what one learns from (arXiv 2506.10943).

A model reads a passage and writes an *edit* of it, a text to be trained on. An
edit is worth what the model answers about the passage, which it is not shown,
once it has learned the edit; the inner trainings of all edits are one program,
see `inner_training.py`. A step is a round of ReST-EM (sec. 3.1, Alg. 1): edits
are drawn by the policy as it is, scored with it as it is, and the best one of
each passage is learned by heart.

With `settings` an edit may say how it is to be learned, as those of the paper
on ARC do.

What differs from the published code:

- An edit is kept only if it is worth more than what the model has without it:
  the passage learned alone, or nothing where the passage is not learned. The
  code keeps the best edit of a passage, also of five that harm. `gain=False`
  does that.
- An edit that is empty, that was cut, or whose settings are absurd is never
  learned: it is worth what no training is. The code draws again.
- An answer is right by the task's own word, not by another model's.
- The outer training moves what `config.trainable` says, by
  `config.optimizer`; the paper's is a LoRA of rank 64, alpha 128, rate 3e-4.
"""

import dataclasses

import jax
import numpy as np

from jaxdistill import rewards
from jaxdistill.dist.hosts import agree_max
from jaxdistill.methods.edit_writer import EditWriter
from jaxdistill.methods.inner_training import InnerTraining
from jaxdistill.methods.method import (
  Method,
  check_choice,
  check_minibatches,
)
from jaxdistill.rewards.edits import ORDERS
from jaxdistill.rollout import measure, transcript
from jaxdistill.types import Collected, RowSet, Update, response_row


@dataclasses.dataclass(frozen=True)
class Seal(Method):
  """Hyper-parameters of SEAL.

  Attributes:
    problems: Passages per step, over all hosts.
    samples: Edits of each.
    choice: Which are kept of a passage: the `best`, or as many at `random`.
    keep: Most that are kept of a passage.
    gain: Whether only edits are kept that are worth more than none.
    epochs: Passes over the edits that are kept.
    minibatches: Optimizer steps per pass.
    edits: Who writes them, and how (`edit_writer.py`: `method.writer`, ...);
      the policy learns what is kept of them.
    inner: How an edit is learned and what is asked then (`inner_training.py`:
      `method.seeds`, `method.inner_lr`, ...).
  """

  problems: int = 50
  samples: int = 5
  choice: str = 'best'
  keep: int = 1
  gain: bool = True
  epochs: int = 2
  minibatches: int = 5
  edits: EditWriter = EditWriter()
  inner: InnerTraining = InnerTraining()

  def __post_init__(self):
    check_choice(self, 'choice', ORDERS)
    if not 1 <= self.keep <= self.samples:
      raise ValueError(
        f'method.keep is {self.keep}; it must be from 1 to method.samples, '
        f'{self.samples}'
      )
    if self.edits.writer == 'given' and self.samples > 1:
      raise ValueError(
        f"method.samples is {self.samples}; with method.writer 'given' there "
        'is one edit of each passage: method.samples=1'
      )
    check_minibatches(self.minibatches, self.problems * self.keep)
    self.edits.sampling(self.samples)

  @property
  def anchors(self):
    return self.edits.anchors

  @property
  def words(self):
    return self.edits.words

  def check(self, task):
    self.edits.check(task, 'seal')

  def collect(self, players, problems, state, step, key):
    policy = players['policy']
    writing, key = (jax.random.fold_in(key, i) for i in (0, 1))
    edits_PE = self.edits.written(players, problems, self.samples, writing)
    without_P, asked = self.inner.answered(policy, problems, key)
    size = self.problems, self.samples + 1
    # The passage alone is learned beside the edits, from the same beginnings.
    lessons_PE = self.edits.lessons(policy, problems, edits_PE, self.inner)
    found = self.inner.scores(
      policy, problems, lessons_PE, size, self.loss, key
    )
    yield  # what follows asks the policy for nothing
    scores_PES, alone_PS = found.scores_PES[:, :-1], found.scores_PES[:, -1]
    least_P = alone_PS.mean(1) if self.inner.with_passage else without_P
    seed = jax.random.key_data(key).tolist()
    kept_PE = [
      rewards.chosen(
        scores_PES[i].mean(-1),
        np.array([bool(x.rows) for x in lessons_PE[i][:-1]]),
        least_P[i] if self.gain else -np.inf,
        self.keep,
        ORDERS[self.choice],
        np.random.default_rng([*seed, p.address]),
      )
      for i, p in enumerate(problems)
    ]
    kept = [
      edits_E[e]
      for edits_E, kept_E in zip(edits_PE, kept_PE, strict=True)
      for e in kept_E
    ]
    rows = [response_row(r, 1.0, len(r.tokens_T)) for r in kept]
    edits = [r for edits_E in edits_PE for r in edits_E]
    spreads = [rewards.spreads(scores_ES) for scores_ES in scores_PES]
    between, within = np.array(spreads).reshape(-1, 2).T
    metrics = {
      'seal/no_edit': without_P,
      'seal/passage': alone_PS.ravel(),
      'seal/score': scores_PES.ravel(),
      'seal/best': scores_PES.mean(-1).max(-1),
      'seal/kept': [float(bool(kept_E)) for kept_E in kept_PE],
      'seal/void': [float(not x.rows) for x_E in lessons_PE for x in x_E[:-1]],
      'seal/edit_length': [len(r.tokens_T) for r in edits],
      'seal/kept_length': [len(r.tokens_T) for r in kept],
      'seal/between_edits': between[~np.isnan(between)],
      'seal/within_edit': within[~np.isnan(within)],
      'seal/inner_tokens': [found.learned / max(len(problems), 1)]
      * bool(problems),
    } | measure(edits)
    told = [
      transcript(
        *(p, edits_PE[i], [None] * len(edits_PE[i])),
        topic=p.topic,
        no_edit=float(without_P[i]),
        passage=float(alone_PS[i].mean()),
        **({'kept_above': float(least_P[i])} if self.gain else {}),
        by_text={
          'scores': scores_PES[i].mean(-1).tolist(),
          'kept': [e in kept_PE[i] for e in range(self.samples)],
        },
      )
      for i, p in enumerate(problems)
    ]
    update = Update(
      (RowSet('solver', rows),),
      self.epochs,
      self.minibatches,
      fresh_optimizer=True,  # a new adapter each round, in the paper
    )
    tokens = sum(len(r.tokens_T) for r in edits) * (
      self.edits.writer != 'given'
    )
    return Collected(
      [update], state, metrics, told, tokens=tokens + asked + found.tokens
    )

  def loss(self, model, anchors, batch):
    del anchors
    return -batch.logprobs(model), {}

  def evaluate(self, policy, problems, key):
    """Answers without the passage, after one edit of each is learned.

    `accuracy_edited` is of one edit, drawn and not chosen: the paper's figure
    for a single passage. `accuracy_passage` has learned the passage alone,
    `accuracy_nothing` nothing; all three by the share of its questions that are
    right by the task's word, which may be milder than the known answer's
    letter, by which `accuracy_greedy` goes. Where another model writes for
    training, it is the policy that writes here, as it has learned to from it:
    of the other's edits `seal/score` tells, on the passages of each step.
    """
    (last,) = agree_max(max((p.address for p in problems), default=-1))
    size = last + 1, 2
    writing = jax.random.fold_in(key, 1)
    edits_PE = self.edits.written({'policy': policy}, problems, 1, writing)
    lessons_PE = self.edits.lessons(policy, problems, edits_PE, self.inner)
    found = self.inner.scores(
      policy, problems, lessons_PE, size, self.loss, key
    )
    scores_PES = found.scores_PES
    without_P, _ = self.inner.answered(policy, problems, key)
    return {
      'accuracy_edited': scores_PES[:, 0].ravel().tolist(),
      'accuracy_passage': scores_PES[:, -1].ravel().tolist(),
      'accuracy_nothing': without_P.tolist(),
      'edit_length': [len(r.tokens_T) for (r,) in edits_PE],
    }

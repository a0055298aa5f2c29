"""One edit after another: what does a model forget of those before?

(SEAL, arXiv 2506.10943, sec. 5.) A step is a passage: the model writes an edit
of it, learns it in an inner training, and what it learned is added to its
weights. Then it is asked about every passage so far: row k of a matrix, whose
entry i is what is left of passage i after k edits. The published run has no
cure; by its own results it ends below where it began. Here there are two:

- `replay`: documents of earlier edits are learned again beside each new one;
- `kl`: the forward KL from the model as the run began, on the documents'
  tokens, over its `kl_top` likeliest and the rest.

The policy's weights change by the edits alone; there is no other update.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxdistill import losses
from jaxdistill.dist.hosts import gather_texts
from jaxdistill.methods.edit_writer import EditWriter
from jaxdistill.methods.inner_training import InnerTraining, Lesson
from jaxdistill.methods.method import Method, check_choice
from jaxdistill.optimizer import OptimizerConfig
from jaxdistill.rollout import Player, measure, transcript
from jaxdistill.types import (
  Collected,
  Field,
  Problem,
  Prompt,
  Records,
  Rollout,
  Row,
  RowSet,
)


@dataclasses.dataclass(frozen=True)
class SequentialEdits(Method):
  """Hyper-parameters of edits in sequence.

  Attributes:
    problems: Passages per step: one.
    learn: What is learned of each: its `edit`, or the `passage` alone.
    replay: Earlier edits that are learned again beside each, at most.
    kl: Coefficient of the divergence from the first model; 0 is none.
    kl_top: Of how many of its likeliest tokens.
    edits: Who writes them, and how.
    inner: How they are learned; each once, so `seeds` is 1.
  """

  problems: int = 1
  learn: str = 'edit'
  replay: int = 0
  kl: float = 0.0
  kl_top: int = 20
  edits: EditWriter = EditWriter()
  inner: InnerTraining = InnerTraining(seeds=1)

  def __post_init__(self):
    if self.problems != 1 or self.inner.seeds != 1:
      raise ValueError(
        f'method.problems is {self.problems} and method.seeds '
        f'{self.inner.seeds}; one passage after another is learned, once: '
        'both must be 1'
      )
    check_choice(self, 'learn', ('edit', 'passage'))
    if self.replay < 0 or self.kl < 0 or self.kl_top < 1:
      raise ValueError(
        f'method.replay is {self.replay}, method.kl {self.kl} and '
        f'method.kl_top {self.kl_top}; they must be at least 0, 0 and 1'
      )

  @property
  def anchors(self):
    first = {'base': 'frozen'} if self.kl else {}
    writer = self.edits.anchors if self.learn == 'edit' else {}
    return {**writer, **first}

  @property
  def words(self):
    alone = {'policy': ['edit', 'tell']}
    return self.edits.words if self.learn == 'edit' else alone

  def check(self, task):
    self.edits.check(task, 'sequential_edits')

  def init(self):
    return {'edits': Records([])}

  def collect(self, players, problems, state, step, key):
    policy, earlier = players['policy'], list(state['edits'])
    (before_P, asked) = self.inner.answered(policy, problems, key)
    writing, key = (jax.random.fold_in(key, i) for i in (0, 1))
    edits_PE: list[list[Rollout]] = [[] for _ in problems]
    if self.learn == 'edit':
      edits_PE = self.edits.written(players, problems, 1, writing)
    lessons_PE = self.edits.lessons(policy, problems, edits_PE, self.inner)
    # The first is of the edit, the last of the passage alone.
    place = 0 if self.learn == 'edit' else -1
    mine = lessons_PE[0][place] if problems else Lesson()
    rows = [*mine.rows, *_again(earlier, self.replay, step, key, problems)]
    row_set = self._row_set(rows, players.get('base'))
    said = [json.dumps([mine.epochs, mine.lr_scale])] * len(problems)
    epochs, scale = json.loads(gather_texts(said)[0])
    (edited,) = policy.adapted(
      [row_set],
      self.loss,
      OptimizerConfig(lr=self.inner.inner_lr),
      [epochs],
      key=key,
      rank=self.inner.inner_rank,
      alpha=self.inner.inner_alpha,
      scales=[scale],
    )
    passages = [
      Problem(r['text'], p.task, topic=r['topic'])
      for p in problems
      for r in [*earlier, {'text': p.text, 'topic': p.topic}]
    ]
    now_P, told = self.inner.answered(edited, passages, key)
    found = [
      json.dumps(_record(p, mine.rows, before_P[0], now_P.tolist()))
      for p in problems
    ]
    (record,) = map(json.loads, gather_texts(found))
    kept = Records([*earlier, record])
    metrics = {
      'edits/before': before_P,
      'edits/now': now_P[-1:],
      'edits/earlier': now_P[:-1],
      'edits/all': now_P,
      # Of the earlier passages, less than right after their own edits.
      'edits/forgotten': [
        r['row'][-1] - now for r, now in zip(earlier, now_P, strict=False)
      ],
      # And more than before them.
      'edits/gained': [
        now - r['before'] for r, now in zip(kept, now_P, strict=False)
      ],
      'edits/void': [float(not mine.rows)] * len(problems),
    }
    edits = [r for edits_E in edits_PE for r in edits_E]
    records = [
      transcript(
        *(p, edits_E, [None] * len(edits_E)), topic=p.topic, row=now_P.tolist()
      )
      for p, edits_E in zip(problems, edits_PE, strict=True)
    ]
    drawn = sum(len(r.tokens_T) for r in edits)
    return Collected(
      [],
      {'edits': kept},
      metrics | measure(edits),
      records,
      tokens=asked + told + drawn * (self.edits.writer != 'given'),
      adopt=edited,
      scored=sum(len(r.response_R) for r in rows) if self.kl else 0,
    )

  def _row_set(self, rows: list[Row], base: Player | None) -> RowSet:
    """The documents, and what the first model makes of their tokens."""
    if not self.kl or base is None:
      return RowSet('solver', rows)
    shown = [_as_rollout(row) for row in rows]
    ids, logps = base.top(shown, self.kl_top)
    rows = [
      dataclasses.replace(row, fields={'ids': i, 'base_logp': logp})
      for row, i, logp in zip(rows, ids, logps, strict=True)
    ]
    fields = (
      Field('ids', (self.kl_top,), 'int32'),
      Field('base_logp', (self.kl_top,)),
    )
    return RowSet('solver', rows, fields)

  def loss(self, model, anchors, batch):
    del anchors
    nll = -batch.logprobs(model)
    if not self.kl:
      return nll, {}

    def apart(logits, ids, base_logp):
      pair = losses.over_given(logits, ids, base_logp)
      return losses.summed(losses.forward_kl(*pair))

    arrays = batch.fields['ids'], batch.fields['base_logp']
    return nll + self.kl * batch.over_targets(apart, model, arrays=arrays), {}


def _again(
  earlier: list[dict[str, Any]],
  most: int,
  step: int,
  key: jax.Array,
  problems: Any,
) -> list[Row]:
  """Documents of some earlier edits, where the new passage is."""
  if not len(problems):
    return []
  seed = jax.random.key_data(key).tolist()
  rng = np.random.default_rng([*seed, step])
  places = rng.permutation(len(earlier))[:most]
  return [
    _row(np.array(asked, np.int32), np.array(said, np.int32))
    for i in places
    for asked, said in earlier[i]['rows']
  ]


def _row(prompt_T: np.ndarray, response_R: np.ndarray) -> Row:
  """A document that counts as much as any other."""
  weight_R = np.full(len(response_R), 1 / len(response_R), np.float32)
  return Row(prompt_T, response_R, weight_R, 1.0)


def _as_rollout(row: Row) -> Rollout:
  zeros = np.zeros(len(row.response_R), np.float32)
  asked = Prompt('solver', '')
  return Rollout(
    *(asked, row.prompt_T, row.response_R, zeros, zeros, 'stop', '')
  )


def _record(
  problem: Problem, rows: Sequence[Row], before: float, row: list[float]
) -> dict[str, Any]:
  """What is kept of a step: JSON."""
  return {
    'text': problem.text,
    'topic': problem.topic,
    'before': float(before),
    'row': row,
    'rows': [[r.prompt_T.tolist(), r.response_R.tolist()] for r in rows],
  }

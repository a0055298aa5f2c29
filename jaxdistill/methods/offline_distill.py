"""Learning from a teacher that is not there: its targets were written down.

`jaxdistill targets` asks a teacher the problems of a pool once, and keeps its
responses with the k likeliest tokens in each place (`data/targets.py`). Each
step takes those of its problems, and the student is drawn towards the teacher
over these k (`losses.over_given`): word-level distillation (1606.07947, sec.
3.1) on the teacher's own texts, where alpha is 0. What the teacher has cost is
in the manifest of the folder; a run that reads it pays no more.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdistill import losses
from jaxdistill.data.targets import Target, Targets, read
from jaxdistill.dist.hosts import together
from jaxdistill.methods.distillation import check_alpha
from jaxdistill.methods.method import Method, check_minibatches
from jaxdistill.rollout import merged
from jaxdistill.types import Collected, Field, Prompt, Row, RowSet, Update

SYSTEMS: dict[str, dict[str, Any]] = {
  'offline_kd': {'method.name': 'offline_distill', 'method.alpha': 0.0},
}


@dataclasses.dataclass(frozen=True)
class OfflineDistill(Method):
  """Hyper-parameters of learning from targets that were written down.

  Attributes:
    problems: Problems per step, over all hosts.
    targets: The folder, from `jaxdistill targets`.
    support_k: How many of a token's likeliest are learned from; 0 is all that
      are there.
    alpha: 0 is the forward KL, 1 the reverse, what is between them the
      generalised JSD, see `losses/distill.py`.
    rescaled: Whether that is divided by `alpha (1 - alpha)`.
    tail: Whether all other tokens count as one more, or not at all.
    epochs: Passes over each step's rows.
    minibatches: Optimizer steps per pass.
  """

  problems: int = 32
  targets: str = ''
  support_k: int = 0
  alpha: float = 0.0
  rescaled: bool = False
  tail: bool = True
  epochs: int = 1
  minibatches: int = 1

  def __post_init__(self):
    check_alpha(self.alpha)

  @property
  def written(self) -> Targets:
    """The folder, found to be whole."""
    return read(self.targets)

  def check(self, task):
    del task
    if not self.targets:
      raise ValueError(
        'method.targets is empty; it must be a folder that jaxdistill targets '
        'has written'
      )
    written = self.written.manifest
    if self.support_k > written['k']:
      raise ValueError(
        f'method.support_k is {self.support_k}; {self.targets} has the '
        f'{written["k"]} likeliest'
      )
    check_minibatches(self.minibatches, self.problems * written['samples'])

  def check_given(self, problems, vocabulary):
    written = self.written
    if written.manifest['vocabulary'] != vocabulary:
      teacher = written.manifest['teacher']['name']
      raise ValueError(
        f'{self.targets} is of {teacher}, which has another tokenizer than '
        'config.model: its log-probs say nothing of the tokens of that'
      )
    written.check_has(problems[i].text for i in range(len(problems)))

  def init(self):
    return {'shards': self.written.manifest['shards']}

  def collect(self, players, problems, state, step, key):
    del step, key
    policy, written = players['policy'], together(lambda: self._same(state))
    k = self.support_k or written.manifest['k']
    size, tokenizer = policy.config.vocab_size, policy.tokenizer
    prompts = together(
      lambda: [policy.encode(Prompt.solve(p)) for p in problems]
    )
    yield  # what follows asks the policy for nothing
    known = together(lambda: [written[p.text] for p in problems])
    together(lambda: _check_ids(known, k, size))
    rows = merged(
      [
        _row(prompt_T, target, k)
        for prompt_T, targets_G in zip(prompts, known, strict=True)
        for target in targets_G
      ]
    )
    fields = Field('ids', (k,), 'int32'), Field('teacher_logp', (k,))
    how = {'temperature': written.manifest['temperature']}
    update = Update(
      (RowSet('solver', rows, fields, how),), self.epochs, self.minibatches
    )
    texts_PG = [
      [tokenizer.decode(t.tokens_T.tolist()) for t in targets_G]
      for targets_G in known
    ]
    told = together(
      lambda: [
        {
          'problem': p.text,
          'known': p.answer,
          'answers': [p.task.parse_answer(text) for text in texts_G],
          'texts': texts_G,
        }
        for p, texts_G in zip(problems, texts_PG, strict=True)
      ]
    )
    paid = {'train/targets_tokens': [written.manifest['tokens']]}
    return Collected([update], state, paid, told)

  def _same(self, state: Any) -> Targets:
    """The folder, found to be what the run began with."""
    if state != self.init():
      raise ValueError(f'{self.targets} is not what the run began with')
    return self.written

  def loss(self, model, anchors, batch):
    del anchors
    between = losses.divergence(self.alpha, self.rescaled)

    def distance(student, ids, teacher_logp):
      logits = student / batch.coefficients['temperature']
      pair = losses.over_given(logits, ids, teacher_logp, self.tail)
      kl = losses.summed(losses.reverse_kl(*pair))
      return losses.summed(between(*pair)), kl

    names = 'ids', 'teacher_logp'
    arrays = [batch.fields[name] for name in names]
    value, kl = batch.over_targets(distance, model, arrays=arrays)
    return value, {'kl_teacher': kl}


def _row(prompt_T: np.ndarray, target: Target, k: int) -> Row:
  """A row whose every token counts the same."""
  length = len(target.tokens_T)
  return Row(
    prompt_T=prompt_T,
    response_R=target.tokens_T,
    weight_R=np.ones(length, np.float32),
    total=length,
    fields={'ids': target.ids_Tk[:, :k], 'teacher_logp': target.top_Tk[:, :k]},
  )


def _check_ids(known: Sequence[Sequence[Target]], k: int, size: int) -> None:
  """Finds a token that only the teacher has room for.

  Models of one tokenizer may have different room for what it lacks.
  """
  most = max(
    (int(t.ids_Tk[:, :k].max()) for targets_G in known for t in targets_G),
    default=0,
  )
  if most >= size:
    raise ValueError(
      f'the targets have token {most}; the student has {size} tokens'
    )

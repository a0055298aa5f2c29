"""Supervised fine-tuning: maximise the likelihood of given responses.

Each token of a response counts the same: `-log p(token | before)`, averaged
over all response tokens of the step. It pretrains the shipped bases and is the
step that other methods take on data of their own making.
"""

import dataclasses

from jaxdistill.dist.hosts import together
from jaxdistill.methods.method import Method, check_minibatches, glimpse
from jaxdistill.types import Collected, Prompt, RowSet, Update, response_row


@dataclasses.dataclass(frozen=True)
class Sft(Method):
  """Hyper-parameters of supervised fine-tuning.

  Attributes:
    problems: Demonstrations per step, over all hosts.
    epochs: Passes over each step's demonstrations.
    minibatches: Optimizer steps per pass.
  """

  problems: int = 128
  epochs: int = 1
  minibatches: int = 1

  asks = False

  def __post_init__(self):
    check_minibatches(self.minibatches, self.problems)

  def check(self, task):
    if any(p.demonstration is None for p in glimpse(task)):
      raise ValueError(
        f'method sft needs responses (a "response" in each line of a file); '
        f'task {task.name} has none'
      )

  def collect(self, players, problems, state, step, key):
    del step, key
    policy = players['policy']
    shown = [p.demonstration for p in problems if p.demonstration]
    assert len(shown) == len(problems), 'seen by `check`'
    rollouts = together(
      lambda: [policy.written(Prompt('solver', p), r) for p, r in shown]
    )
    rows = [response_row(r, 1.0, len(r.tokens_T)) for r in rollouts]
    metrics = {'train/tokens': [len(row) for row in rows]}
    sets = (RowSet('solver', rows),)
    update = Update(sets, self.epochs, self.minibatches)
    return Collected([update], state, metrics, [])

  def loss(self, model, anchors, batch):
    del anchors
    return -batch.logprobs(model), {}

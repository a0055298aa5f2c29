"""Who writes edits of passages, and what is read out of them."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax

from jaxdistill import rewards
from jaxdistill.data.tasks.passages import Passages
from jaxdistill.dist.hosts import together
from jaxdistill.methods.inner_training import (
  InnerTraining,
  Lesson,
  passages_of,
)
from jaxdistill.methods.method import check_least, glimpse
from jaxdistill.rollout import Player, Sampling
from jaxdistill.types import Anchor, Problem, Prompt, Rollout, Task


@dataclasses.dataclass(frozen=True)
class EditWriter:
  """How edits come about.

  Attributes:
    writer: The `policy`; whoever wrote the `given` ones, which the task has; or
      another by an anchor's rule: `model:NAME`, `frozen`.
    max_tokens: Longest edit; one that is cut is none.
    temperature: Of sampling.
    top_p: Of sampling.
    settings: Whether an edit may say how it is learned, see
      `rewards.read_settings`.
    most_scale: Largest multiple of the learning rate that it may ask for, and
      of its inverse. Beyond this and the next an edit is void.
    most_epochs: Most epochs that it may ask for.
  """

  writer: str = 'policy'
  max_tokens: int = 512
  temperature: float = 1.0
  top_p: float = 0.95
  settings: bool = False
  most_scale: float = 10.0
  most_epochs: int = 30

  def __post_init__(self):
    check_least(self, most_scale=1)

  @property
  def anchors(self) -> Mapping[str, Anchor]:
    if self.writer in ('policy', 'given'):
      return {}
    return {'writer': Anchor(self.writer, measured=False)}

  @property
  def words(self) -> Mapping[str, Sequence[str]]:
    """See `Method.words`."""
    asked = ['edit', *(['settings'] if self.settings else [])]
    # Who learns an edit reads what asked for it, and tells the passage.
    return {'policy': [*asked, 'tell'], 'writer': asked}

  def check(self, task: Task, method: str) -> None:
    """Finds that a task has no passages, or lacks words or edits.

    Raises:
      ValueError: Says what is missing.
    """
    if not isinstance(task, Passages):
      raise ValueError(
        f'method {method} needs passages with questions on each; task '
        f'{task.name} has none (small:passages, passages, passages:FILE.jsonl)'
      )
    given = self.writer == 'given'
    if given and any(p.demonstration is None for p in glimpse(task)):
      raise ValueError(
        f"method.writer is 'given', but task {task.name} gives no edits"
      )

  def sampling(self, samples: int) -> Sampling:
    """How edits are drawn."""
    return Sampling(
      samples, self.max_tokens, temperature=self.temperature, top_p=self.top_p
    )

  def written(
    self,
    players: Mapping[str, Player],
    problems: Sequence[Problem],
    count: int,
    key: jax.Array,
  ) -> list[list[Rollout]]:
    """Edits of each passage, as if the policy had written them.

    Every process calls it together.

    Args:
      players: `policy`, and `writer` where that is an anchor.
      problems: This host's passages.
      count: Edits of each; of the given ones there is one.
      key: What they are drawn by.
    """
    policy = players['policy']
    prompts = together(
      lambda: [Prompt('solver', self.request(p), p.address) for p in problems]
    )
    if self.writer == 'given':
      given = [(p.demonstration or ('', ''))[1] for p in problems]
      pairs = zip(prompts, given, strict=True)
      return together(lambda: [[policy.written(*pair)] for pair in pairs])
    writer = players.get('writer', policy)
    said_PE = writer.generate(prompts, self.sampling(count), key)
    if writer is policy:
      return said_PE
    return together(
      lambda: [[_of(policy, r) for r in said_E] for said_E in said_PE]
    )

  def request(self, problem: Problem) -> str:
    """The text that asks for an edit."""
    task = passages_of(problem)
    asked = task.asking('edit', problem)
    if not self.settings:
      return asked
    return f'{asked}\n\n{task.asking("settings", problem)}'

  def lessons(
    self,
    policy: Player,
    problems: Sequence[Problem],
    edits_PE: Sequence[Sequence[Rollout]],
    inner: InnerTraining,
  ) -> list[list[Lesson]]:
    """What each edit of a passage is learned as, and last the passage alone.

    Every process calls it together.
    """

    def of(problem, edits_E):
      found = [self._lesson(policy, problem, r, inner) for r in edits_E]
      return [*found, inner.lesson(policy, problem, None)]

    pairs = zip(problems, edits_PE, strict=True)
    return together(lambda: [of(*pair) for pair in pairs])

  def _lesson(
    self, policy: Player, problem: Problem, edit: Rollout, inner: InnerTraining
  ) -> Lesson:
    """Of one edit; nothing is learned of one that is void."""
    text, said = edit.text, rewards.Settings()
    if self.settings:
      text, said = rewards.read_settings(text)
    absurd = said.absurd(self.most_scale, self.most_epochs)
    if edit.finish != 'stop' or not text.strip() or absurd:
      return Lesson()
    epochs, scale = int(said.epochs or 0), said.lr_scale or 1.0
    return inner.lesson(policy, problem, text, epochs, scale)


def _of(policy: Player, said: Rollout) -> Rollout:
  """What another wrote, in the policy's tokens; what was cut stays so."""
  written = policy.written(said.prompt, said.text)
  return dataclasses.replace(written, finish=said.finish)

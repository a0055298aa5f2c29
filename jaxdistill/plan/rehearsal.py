"""A step of a method without a model: who is asked what, and what is trained.

The method's own `collect` runs, with players that say what they are handed at
the full length that it allows. So whatever a method asks is counted, and no
method is known by name here.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdistill import dist
from jaxdistill.batch import Shapes
from jaxdistill.data.text.tokenizer import Tokenizer
from jaxdistill.methods.method import Method, anchors_of
from jaxdistill.models import DecoderConfig
from jaxdistill.rollout.player import Player
from jaxdistill.rollout.samplers import Sampling
from jaxdistill.rollout.score import Entropy, Grade, Of, Top
from jaxdistill.run.pending import drawn
from jaxdistill.types import Problem, Prompt, Rollout, Update


class Asked(NamedTuple):
  """A call that draws.

  Attributes:
    who: Of the players.
    prompts: Tokens of each prompt.
    sampling: How it draws.
  """

  who: str
  prompts: tuple[int, ...]
  sampling: Sampling

  @property
  def tokens(self) -> int:
    """Drawn at most."""
    return len(self.prompts) * self.sampling.samples * self.sampling.max_tokens


class Scored(NamedTuple):
  """A call that reads.

  Attributes:
    who: Of the players.
    tokens: Read, prompts included.
  """

  who: str
  tokens: int


class Rehearsed(NamedTuple):
  """What a step comes to.

  Attributes:
    asked: Calls that draw, in turn.
    scored: Calls that read.
    updates: What is trained.
  """

  asked: list[Asked]
  scored: list[Scored]
  updates: list[Update]


@dataclasses.dataclass(frozen=True)
class StandIn(Player):
  """A player that has no weights.

  Attributes:
    who: Its name.
    model: Sizes of what it stands in for.
    notes: Where it notes what it is asked.
    problems: Whose solutions it knows.
  """

  who: str = ''
  model: Any = None
  notes: Any = None
  problems: tuple[Problem, ...] = ()

  @property
  def config(self) -> DecoderConfig:
    return self.model

  def adapted(self, sets_E, *args: Any, **kwargs: Any) -> list[Player]:
    """As many players as there are candidates, none of them adapted."""
    del args, kwargs
    return [self] * len(sets_E)

  def _generate(self, prompts_P, ids_P, sampling, key, expected=0):
    del key, expected
    lengths = tuple(map(len, ids_P))
    self.notes.asked.append(Asked(self.who, lengths, sampling))
    return [
      [self._said(p, ids, sampling, g) for g in range(sampling.samples)]
      for p, ids in zip(prompts_P, ids_P, strict=True)
    ]

  def _said(
    self, prompt: Prompt, ids: np.ndarray, sampling: Sampling, g: int
  ) -> Rollout:
    # One answer in four is another, so that a vote has something to decide.
    text = '0' if g % 4 == 3 else self._answer(prompt)
    n = sampling.max_tokens
    zeros = np.zeros(n, np.float32)
    return Rollout(
      prompt=prompt,
      prompt_T=ids,
      tokens_T=np.zeros(n, np.int32),
      logp_T=zeros - 1,
      kept_T=zeros,
      finish='stop',
      text=text,
      vocabulary=self.tokenizer.vocabulary,
      markers=self.markers,
    )

  def _answer(self, prompt: Prompt) -> str:
    if prompt.role == 'proposer' and self.problems:
      return self.problems[prompt.address % len(self.problems)].text
    about = [p for p in self.problems if p.text and p.text in prompt.text]
    for p in about:
      if p.demonstration:
        return p.demonstration[1]
      if p.answer is not None:
        return f'\\boxed{{{p.answer}}}'
    return self.problems[0].text if self.problems else ''

  def _score(self, rollouts, what, temperature, ids=None):
    del temperature
    read = sum(len(r.prompt_T) + len(r.tokens_T) for r in rollouts)
    self.notes.scored.append(Scored(self.who, read))
    sizes = [len(r.tokens_T) for r in rollouts]
    if isinstance(what, Grade):
      return [np.zeros(max(n, 1), np.float32) for n in sizes]
    if isinstance(what, Top):
      k = what.k
      return (
        [np.tile(np.arange(k, dtype=np.int32), (n, 1)) for n in sizes],
        [np.full((n, k), -1.0, np.float32) for n in sizes],
      )
    if isinstance(what, Of):
      return [np.full(i.shape, -1.0, np.float32) for i in ids or ()]
    level = 1.0 if isinstance(what, Entropy) else -1.0
    return [np.full(n, level, np.float32) for n in sizes]


def rehearse(
  method: Method,
  problems: Sequence[Problem],
  model: DecoderConfig,
  tokenizer: Tokenizer,
  step: int = 0,
) -> Rehearsed:
  """One step of a method.

  Args:
    method: Whose step.
    problems: Of the step, each with its address.
    model: Sizes of the policy.
    tokenizer: Of all players.
    step: Which.
  """
  notes = Rehearsed([], [], [])
  mesh = dist.make_mesh(devices=jax.devices()[:1])
  nothing: Any = None
  players: dict[str, Player] = {
    name: StandIn(
      graphdef=nothing,
      params=(),
      roles=method.roles,
      tokenizer=tokenizer,
      mesh=mesh,
      shapes=Shapes(),
      who=name,
      model=model,
      notes=notes,
      problems=tuple(problems),
    )
    for name in (*anchors_of(method), 'policy')
  }
  with jax.set_mesh(mesh):
    collected = drawn(
      *(method, players, problems, method.init(), step, jax.random.key(0))
    )()
  return notes._replace(updates=list(collected.updates))

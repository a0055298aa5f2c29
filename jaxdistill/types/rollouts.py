"""What is asked of a player, and what it says."""

import dataclasses
from typing import Literal, NamedTuple

import numpy as np

from jaxdistill.types.tasks import Problem


class Message(NamedTuple):
  """What somebody said.

  Attributes:
    author: `system`, `user` or `assistant`.
    text: What.
  """

  author: Literal['system', 'user', 'assistant']
  text: str


@dataclasses.dataclass(frozen=True)
class Prompt:
  """What a player is given: a role (whose deltas are used) and messages.

  Attributes:
    role: Who answers.
    text: What is asked, the last message.
    address: What the samples' randomness is folded from, of its own in a call.
    before: The messages before it.
    think: Whether a model that can think first does; None is as the run says.
  """

  role: str
  text: str
  address: int = 0
  before: tuple[Message, ...] = ()
  think: bool | None = None

  @property
  def messages(self) -> tuple[Message, ...]:
    """All of them, in turn."""
    return (*self.before, Message('user', self.text))

  @classmethod
  def solve(cls, problem: Problem) -> 'Prompt':
    """What asks the solver for an answer."""
    return cls('solver', problem.task.solver_prompt(problem), problem.address)

  @classmethod
  def propose(cls, topic: Problem) -> 'Prompt':
    """What asks the proposer for a problem."""
    return cls('proposer', topic.task.proposer_prompt(topic), topic.address)


@dataclasses.dataclass(frozen=True)
class Rollout:
  """What a player said to a prompt: a response, or several turns of them.

  Attributes:
    prompt: What was asked.
    prompt_T: Prompt token ids, int32[P].
    tokens_T: Response token ids, the end mark included, int32[T]. Of several
      turns, all of them with the observations between.
    logp_T: log-prob of each response token under the *full* softmax at the
      sampling temperature, float32[T].
    kept_T: log of the probability mass that top-k and top-p kept, float32[T];
      `logp_T - kept_T` is the log-prob under which the token was drawn.
    finish: `'stop'` or `'length'` (cut: such a response has no vote).
    text: The (last) response as text.
    turn_T: Which response a token is of, from 0; -1 for an observation, whose
      log-probs are 0, int32[T]. All 0, if not given.
    earlier: The responses before the last.
    vocabulary: What the ids are of, see `Tokenizer.vocabulary`.
    markers: The words of doubt that are counted in it; None: those that are
      by default.
  """

  prompt: Prompt
  prompt_T: np.ndarray
  tokens_T: np.ndarray
  logp_T: np.ndarray
  kept_T: np.ndarray
  finish: Literal['stop', 'length']
  text: str
  turn_T: np.ndarray = dataclasses.field(default_factory=lambda: _ALL_FIRST)
  earlier: tuple[str, ...] = ()
  vocabulary: str = ''
  markers: tuple[str, ...] | None = None

  def __post_init__(self):
    if self.turn_T is _ALL_FIRST:
      zeros = np.zeros(len(self.tokens_T), np.int32)
      object.__setattr__(self, 'turn_T', zeros)


_ALL_FIRST = np.zeros(0, np.int32)

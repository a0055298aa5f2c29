"""How a model's own set of problems is written, labelled and filtered."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdistill.methods.method import (
  check_choice,
  check_least,
  check_unread,
  glimpse,
)
from jaxdistill.rewards import FILTERS, Labelled
from jaxdistill.rollout import Sampling
from jaxdistill.rollout.verify import (
  VERIFIERS,
  asked_by,
  check_verifier,
  unread_by,
)
from jaxdistill.rollout.writing import WAYS, parsed
from jaxdistill.types import Anchor, Records, Task

AGAIN = 2  # times `build_steps`, by when the set must be there
LEVELS = {'self_consistency': 'agreement', 'rip': 'drop'}  # what each reads


@dataclasses.dataclass(frozen=True)
class ProblemSet:
  """How a set comes about.

  Attributes:
    build_steps: Steps in which problems are written and nothing is learned;
      up to twice as many where too few pass.
    each: Problems written per given one and step.
    write: How one is asked for: `instruct_and_answer` (reason, write it, answer
      it), `instruct` (reason, write it), `instruct_plainly` (no reasoning), in
      the words of the task; or `propose`, the task's own way.
    filter: One of `rewards/filters.py`.
    agreement: Of `self_consistency`: the share of votes that is to be exceeded.
    drop: Of `rip`: the share that is dropped (0.5 where labels are weak).
    keep: How large the set is, the first that pass; 0 takes all that do.
    votes: Answers to each written problem, for its label.
    scorer: Of `rip`: what scores the votes, see `rollout/verify.py`.
    verifier: Who does: the `policy`, or another by an anchor's rule.
    check_tokens: Longest check that a verifier writes.
    write_temperature: Of writing problems.
    write_top_p: Of writing problems.
    max_problem_tokens: Longest response that writes one, with its reasoning.
  """

  build_steps: int = 8
  each: int = 4
  write: str = 'instruct_and_answer'
  filter: str = 'answer_match'
  agreement: float = 0.5
  drop: float = 0.25
  keep: int = 0
  votes: int = 16
  scorer: str = 'yes'
  verifier: str = 'policy'
  check_tokens: int = 256
  write_temperature: float = 0.6
  write_top_p: float = 0.95
  max_problem_tokens: int = 512

  def __post_init__(self):
    check_least(self, build_steps=1, each=1, keep=0, votes=2)
    check_choice(self, 'write', WAYS)
    check_choice(self, 'filter', FILTERS)
    check_choice(self, 'scorer', VERIFIERS)
    for name in LEVELS.values():
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(
          f'method.{name} is {getattr(self, name)}; it must be a share, 0 to '
          'below 1'
        )
    why = f'method.filter is {self.filter!r}'
    unread = [v for k, v in LEVELS.items() if k != self.filter]
    if self.filter == 'rip':
      unread += unread_by(self.scorer)
    else:
      unread += ['scorer', 'verifier', 'check_tokens']
    check_unread(self, ProblemSet, why, *unread)
    self.writing()

  def check_size(self, problems: int) -> None:
    """Finds that so many given problems per step are too few.

    Raises:
      ValueError: Says for what.
    """
    if self.write != 'propose' and problems < 2:
      raise ValueError(
        f'method.problems is {problems}; {self.write!r} shows 2 of them'
      )
    most = AGAIN * self.build_steps * problems * self.each
    if self.keep > most:
      raise ValueError(
        f'method.keep is {self.keep}; only {most} problems are written at most'
      )

  @property
  def anchors(self) -> Mapping[str, Anchor]:
    other = Anchor(self.verifier, measured=False)
    return {} if self.verifier == 'policy' else {'verifier': other}

  @property
  def words(self) -> Mapping[str, Sequence[str]]:
    """See `Method.words`."""
    way = [] if self.write == 'propose' else [self.write]
    scorer = asked_by(self.scorer) if self.filter == 'rip' else []
    return {'policy': way, 'verifier': scorer}

  def check(self, task: Task) -> None:
    """Finds that a task cannot be asked for problems, or cannot read them.

    Raises:
      ValueError: Says what is missing.
    """
    first = glimpse(task)[0]
    if self.write == 'propose':
      task.proposer_prompt(first)
    if parsed(task, first.text) is None:
      raise ValueError(
        f'method cot_self_instruct reads written problems back; {task.name} '
        f'cannot read even its own {first.text!r}'
      )
    if self.filter == 'rip':
      check_verifier(self.scorer, task)

  def init(self) -> dict[str, Any]:
    """State before anything is written."""
    none = {'seeds': Records([]), 'found': Records([]), 'set': Records([])}
    return none | {'order': [], 'built': 0}

  def writing(self) -> Sampling:
    """How a problem is drawn."""
    return Sampling(
      *(1, self.max_problem_tokens),
      temperature=self.write_temperature,
      top_p=self.write_top_p,
    )

  def voting(self, votes: Sampling) -> Sampling:
    """How votes are drawn; behind a greedy answer, where that is needed."""
    if self.filter != 'answer_match' or self.write == 'instruct_and_answer':
      return votes
    return dataclasses.replace(votes, samples=self.votes + 1, greedy=1)

  def kept(self, found: Sequence[Labelled], steps: int) -> list[Labelled]:
    """The set: those that have a label and pass the filter.

    Args:
      found: All that were written.
      steps: In how many steps.

    Returns:
      Nothing while more are to be written.

    Raises:
      ValueError: They are too few, and no more are written.
    """
    if steps < self.build_steps:
      return []
    named = [x for x in found if x.label is not None]
    level = getattr(self, LEVELS.get(self.filter, ''), 0.0)
    passed = FILTERS[self.filter](named, level)
    kept = [x for x, passes in zip(named, passed, strict=True) if passes]
    if len(kept) < max(self.keep, 1):
      if steps < AGAIN * self.build_steps:
        return []
      raise ValueError(
        f'method.keep is {self.keep}; of {len(found)} written problems '
        f'{len(named)} have a label and {len(kept)} pass method.filter '
        f'{self.filter!r}: write more (method.each, method.build_steps)'
      )
    return kept[: self.keep or None]

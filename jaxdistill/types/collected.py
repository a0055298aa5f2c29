"""What a method needs, keeps and hands to the loop."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxdistill.types.rows import Update


@dataclasses.dataclass(frozen=True)
class Anchor:
  """A frozen self, or a teacher, that a method needs.

  Attributes:
    rule: When it moves, see `anchors/rules.py`.
    in_loss: Whether the loss itself reads it: `loss` gets it as a decoder.
    clock: What its rule counts: steps of the run, or of the optimizer.
    measured: Whether the loss logs how far the policy is from it, `kl_NAME`,
      which the rule `trust` goes by.
  """

  rule: str
  in_loss: bool = False
  clock: Literal['run', 'optimizer'] = 'run'
  measured: bool = True


class Records(Sequence[Any]):
  """What a method has built once: JSON, with numpy arrays in it if need be.

  In a method's state it is kept as a file of the run, named by its hash and
  checked against it; a checkpoint holds the hash only.

  Args:
    records: One JSON value a line. They are not to be changed.
  """

  def __init__(self, records: Iterable[Any]):
    self._records = tuple(records)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: Any) -> Any:
    return self._records[index]

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Records) and self._records == other._records

  __hash__ = None  # pyright: ignore[reportAssignmentType]


class Collected(NamedTuple):
  """What a method's `collect` hands to the loop.

  Attributes:
    updates: In the order in which they are applied.
    state: The method's next state (JSON, numpy and `Records`, equal on every
      host).
    metrics: name -> observations of this host; the loop averages them over
      all observations of all hosts. Every host gives the same names.
    transcripts: JSON objects for `rollouts/`, on disk before the metrics.
    tokens: How many tokens this host generated, whoever generated them.
    adopt: A player from `Player.adapted` whose adapter is added to the trunk
      before the updates; not a step ahead, where the trunk has moved since.
    scored: How many response tokens it had others than the policy score,
      anchors and teachers, in the loss or before; of what a teacher grades,
      all that it read. Those too that anybody, the policy itself as well, read
      to verify them.
    later: Updates like those of other steps, without rows. Their programs are
      compiled with those of a run's first step.
  """

  updates: Sequence[Update]
  state: Any
  metrics: Mapping[str, Sequence[float] | np.ndarray]
  transcripts: Sequence[Mapping[str, Any]] = ()
  tokens: int = 0
  adopt: Any = None
  scored: int = 0
  later: Sequence[Update] = ()

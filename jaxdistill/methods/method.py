"""What a method is. The file to read first.

A method is one frozen dataclass in one file of this folder. Its fields are its
hyper-parameters and, by name, the keys of `config.method`; it holds no state.
A run goes round

  collect (host) -> rows -> arrays -> loss (compiled) -> new parameters

and `loop.py` knows nothing of a method but the members below. Each file defines
one such class, and every field has a default; `grpo.py` is the one to copy.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float

from jaxdistill.batch import Batch
from jaxdistill.models.decoder import Decoder
from jaxdistill.rollout.player import Player
from jaxdistill.types import Collected, Problem


@runtime_checkable
class Method(Protocol):
  """The contract between an algorithm and the machinery."""

  @property
  def problems(self) -> int:
    """Problems per step, over all hosts."""
    ...

  @property
  def anchors(self) -> Mapping[str, str]:
    """The frozen selves it needs: name -> rule (see `anchors/rules.py`)."""
    ...

  def init(self) -> Any:
    """The state before step 0: JSON and numpy, equal on every host."""
    ...

  def collect(
    self,
    players: Mapping[str, Player],
    problems: Sequence[Problem],
    state: Any,
    step: int,
    key: jax.Array,
  ) -> Collected:
    """Generates, verifies, scores, and returns rows; never arrays.

    Args:
      players: `policy`, and one per anchor.
      problems: This host's share of the step's problems.
      state: From `init` or the step before.
      step: The run's step, from 0.
      key: PRNG key of this step, equal on every host.
    """
    ...

  def loss(
    self, model: Decoder, frozen: Mapping[str, Any], batch: Batch
  ) -> tuple[Float[Array, 'B T'], dict[str, Float[Array, 'B T']]]:
    """One value per token, and metrics per token; traced.

    Args:
      model: The policy, differentiated.
      frozen: Parameters of anchors that the loss itself needs; empty for the
        methods here, which read an anchor's log-probs from the batch.
      batch: One microbatch.
    """
    ...


def check_minibatches(count: int, rows: int) -> None:
  """Refuses more optimizer steps per pass than there can be rows.

  Raises:
    ValueError: Names both numbers.
  """
  if count > rows:
    raise ValueError(
      f'method.minibatches is {count}; a step has {rows} rows at most'
    )

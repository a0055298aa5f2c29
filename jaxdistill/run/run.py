"""What a run is made of."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping

import jax

from jaxdistill import dist
from jaxdistill.batch import Shapes
from jaxdistill.eval import Alarm, GuardConfig
from jaxdistill.methods.method import Method
from jaxdistill.models.int8 import Formats
from jaxdistill.models.linear import precise
from jaxdistill.models.store import Loaded
from jaxdistill.optimizer import OptimizerConfig
from jaxdistill.rollout.markers import MARKERS
from jaxdistill.types import Task


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """What is measured on held-out problems.

  Attributes:
    splits: Of the task; the first is shown in the progress bar.
    problems: Most problems per split.
    samples: Responses per problem.
    max_tokens: Longest response.
    markers: The words of doubt that are counted, there and in training.
  """

  splits: tuple[str, ...] = ('test', 'ood')
  problems: int = 500
  samples: int = 4
  max_tokens: int = 64
  markers: tuple[str, ...] = MARKERS


@dataclasses.dataclass(frozen=True)
class Teacher:
  """Another model that a method asks.

  Attributes:
    loaded: It, with its own tokenizer.
    cache_gib: Of each device, for what it generates; 0: what is left.
  """

  loaded: Loaded
  cache_gib: float


@dataclasses.dataclass(frozen=True)
class Run:
  """Everything a run is made of, built from its config by `config.build`."""

  seed: int
  pool: int
  steps: int
  tokens: int
  eval_every: int
  checkpoint_every: int
  keep_checkpoints: int
  keep_anchors: int
  trainable: str
  ahead: bool
  foresee: bool
  method: Method
  task: Task
  loaded: Loaded
  optimizer: OptimizerConfig
  shapes: Shapes
  cache_gib: float
  formats: Formats
  mesh: jax.sharding.Mesh
  anchors: Mapping[str, str]
  teachers: Mapping[str, Teacher]
  eval: EvalConfig
  guard: GuardConfig
  alarms: Mapping[str, Alarm]
  programs: dist.Programs = dataclasses.field(
    default_factory=dist.Programs, compare=False
  )

  @contextlib.contextmanager
  def computing(self) -> Iterator[None]:
    """Where all is computed: on its mesh, float32 as such."""
    with jax.set_mesh(self.mesh), precise(self.loaded.model.config.dtype):
      yield

"""Training, whole or a step at a time."""

import os
import weakref
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from jaxdistill import config as configs
from jaxdistill import dist
from jaxdistill.api.model import Model
from jaxdistill.api.refusing import in_one_line
from jaxdistill.api.result import Result
from jaxdistill.run import caches
from jaxdistill.run.loop import Loop
from jaxdistill.run.memory import peak as peak
from jaxdistill.run.workdir import Workdir


class Steps(Iterator[dict[str, float]]):
  """A run, a step at a time; gives the lines of `metrics.jsonl`.

  Left early it saves, and the same config and folder go on from there. Several
  processes must take, and leave, the same steps.

  Attributes:
    loop: The run itself.
  """

  def __init__(self, loop: Loop):
    self.loop, self._lines = loop, loop.steps()
    # Also where it is forgotten, or the program ends.
    self._leave = weakref.finalize(self, _leave, loop, self._lines)

  def __next__(self) -> dict[str, float]:
    with self.loop.run.computing():
      return next(self._lines)

  def close(self) -> None:
    """Leaves the run: saves it if it has not ended, and unlocks its folder."""
    self._leave()

  def __enter__(self) -> 'Steps':
    return self

  def __exit__(self, *_) -> None:
    self.close()

  @property
  def model(self) -> Model:
    """The model as it is now, to be asked before the next step is taken."""
    loop = self.loop
    name = str(loop.workdir.path)
    with loop.run.computing():
      player = loop.player(loop.state.params)
    return Model(name, loop.run, player, loop.run.task)

  @property
  def result(self) -> Result:
    """What the run has come to so far."""
    return Result(self.loop.workdir.path)

  def finish(self) -> Result:
    """Takes the steps that are left, and draws the figures."""
    for _ in self:
      pass
    if jax.process_index() == 0:
      self.result.draw()
    return self.result


def _leave(loop: Loop, lines: Generator) -> None:
  with loop.run.computing():
    lines.close()
  loop.workdir.close()


def train(
  config: epath.PathLike | ConfigDict,
  workdir: epath.PathLike,
  **overrides: Any,
) -> Result:
  """Trains a model as a config says; goes on where it stopped.

  Args:
    config: The file of a config, or a config (`base_config('sqlm')`).
    workdir: Where the run lives, local, `gs://...` or `s3://...`; made if
      needed. A folder that holds another run is refused.
    **overrides: Keys of the config: `steps=5`, `**{'method.samples': 16}`.

  Returns:
    What it came to; it shows itself in a notebook.

  Raises:
    ConfigError: Something is wrong with the config or the folder; nothing was
      compiled or overwritten.
    Stopped: The process was asked to stop (SIGTERM), and the run is saved.
  """
  with steps(config, workdir, **overrides) as taken:
    return taken.finish()


def steps(
  config: epath.PathLike | ConfigDict,
  workdir: epath.PathLike,
  **overrides: Any,
) -> Steps:
  """The same a step at a time, for a loop of one's own.

      with jd.steps('config.py', 'runs/a') as steps:
        for line in steps:
          if line['selfplay/agreement'] > 0.95:
            break

  The line of the last step is followed by one of the end. It may be left at
  any step: the run is saved there, and goes on by the same call.

  Args:
    config: As for `train`.
    workdir: As for `train`.
    **overrides: As for `train`.

  Raises:
    ConfigError: As `train`.
  """
  return begin(configure(config, overrides.items()), workdir)


def configure(
  config: epath.PathLike | ConfigDict, overrides: Iterable[tuple[str, Any]]
) -> Any:
  """A complete config, checked; see `train`."""
  if isinstance(config, ConfigDict):
    found = configs.complete(config, overrides)
  else:
    found = configs.read_config(os.fspath(config), overrides)
  configs.check(found)
  return found


def begin(config: Any, workdir: epath.PathLike) -> Steps:
  """Opens the run of a checked config; see `steps`."""
  caches.cache_compilations()
  with in_one_line():  # before anything is loaded
    folder = Workdir(workdir)
    dist.by_first(lambda: folder.check(config.to_dict()))
    dist.by_first(folder.free)
  configs.prepare(config)
  run = configs.build(config)
  with run.computing(), in_one_line():
    return Steps(Loop(run, workdir, config.to_dict()))

"""What a run has come to, read from its folder."""

import dataclasses
import functools
from typing import Any

from etils import epath

from jaxdistill import plots
from jaxdistill.api.model import Model, load_run
from jaxdistill.api.refusing import in_one_line
from jaxdistill.plots import files, notebook
from jaxdistill.plots.verdict import verdict
from jaxdistill.rollout.player import Player


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
  """A run, finished or not, by what is in its folder.

  Attributes:
    workdir: The folder.
  """

  workdir: epath.PathLike

  @property
  def metrics(self) -> list[dict[str, float]]:
    """The lines of `metrics.jsonl`; `pandas.DataFrame(result.metrics)`."""
    with in_one_line():
      return files.read_metrics(self.workdir)

  @property
  def alarms(self) -> list[dict[str, Any]]:
    """What went off, in the order of the steps."""
    return files.read_alarms(self.workdir)

  @property
  def config(self) -> dict[str, Any]:
    """Every value that the run began with."""
    return files.read_json(self._path / 'config.json')

  @property
  def summary(self) -> dict[str, Any]:
    """First, last and best values; empty while the run is not finished."""
    return files.read_json(self._path / 'summary.json')

  @property
  def verdict(self) -> str:
    """Whether it got better, in a sentence."""
    return self._verdict()['headline']

  def transcripts(self, step: int) -> list[dict[str, Any]]:
    """What was proposed, answered, voted and paid in a step."""
    found = sorted((self._path / 'rollouts').glob(f'{step:06d}.*'))
    return [record for path in found for record in files.read_lines(path)]

  @property
  def figure(self) -> notebook.Picture:
    """The curves."""
    drawn = self._path / 'curves.png'
    if self.summary and drawn.exists():
      return notebook.Picture(drawn.read_bytes())
    return plot(self)

  @functools.cached_property
  def model(self) -> Model:
    """Its newest checkpoint, to be asked; `load` has its anchors, too."""
    return load_run(self.workdir)

  @property
  def player(self) -> Player:
    """Who answers."""
    return self.model.player

  def draw(self) -> None:
    """Writes `curves.png` and `report.html` into the folder."""
    plots.draw_curves([self.workdir], self._path / 'curves.png')
    plots.write_report(self.workdir)

  @property
  def _path(self) -> epath.Path:
    return epath.Path(self.workdir)

  def _verdict(self) -> dict[str, Any]:
    return verdict(self.config, self.metrics, self.alarms, self.summary)

  def __str__(self) -> str:
    return f'{self.workdir}: {notebook.verdict_text(self._verdict())}'

  __repr__ = __str__

  def _repr_html_(self) -> str:
    return notebook.verdict_html(self._verdict()) + self.figure.html


def plot(*runs: Result | epath.PathLike) -> notebook.Picture:
  """The curves of runs in one figure; seeds of one config as their mean.

  Args:
    *runs: Results, or folders of runs.

  Raises:
    ConfigError: A folder holds no run.
  """
  folders = [r.workdir if isinstance(r, Result) else r for r in runs]
  with in_one_line():
    return notebook.curves(folders)

"""Arms over seeds under one budget."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from jaxdistill import config as configs
from jaxdistill import dist, plots
from jaxdistill.api.refusing import in_one_line
from jaxdistill.api.result import Result
from jaxdistill.api.training import begin
from jaxdistill.config import Comparison, ConfigError
from jaxdistill.plots import notebook
from jaxdistill.run import compare as comparing
from jaxdistill.spelling import among


@dataclasses.dataclass(frozen=True, repr=False)
class Compared:
  """What the finished runs of a comparison came to.

  Attributes:
    workdir: Where they live.
    summary: As it is in `summary.json`.
    runs: Every run by arm and seed, finished or not.
  """

  workdir: epath.PathLike
  summary: Mapping[str, Any]
  runs: Mapping[tuple[str, int], Result]

  @property
  def table(self) -> str:
    """What each arm came to, as Markdown."""
    return comparing.table(self.summary)

  @property
  def records(self) -> list[dict[str, Any]]:
    """A record for each arm and metric; `pandas.DataFrame(found.records)`."""
    return [
      {
        'arm': arm,
        'metric': name,
        **{k: v for k, v in metric.items() if isinstance(v, float)},
        'interval': metric['interval'],
        'rise': metric['rise']['mean'],
        'difference': metric.get('difference', {}).get('mean'),
      }
      for arm, found in self.summary['arms'].items()
      for name, metric in found.items()
      if isinstance(metric, Mapping) and 'rise' in metric
    ]

  @property
  def figure(self) -> notebook.Picture:
    """Curves over tokens, and where each arm ended."""
    return notebook.picture(
      lambda file: plots.draw_comparison(self.summary, file)
    )

  def __str__(self) -> str:
    done, planned = self.summary['finished'], self.summary['planned']
    said = f'Of the whole comparison {done} of {planned} runs are finished.'
    return f'{self.table}\n{said}'

  __repr__ = __str__

  def _repr_html_(self) -> str:
    return notebook.tables_html(self.table) + self.figure.html


@dataclasses.dataclass(frozen=True)
class Next:
  """A run of a comparison that comes next.

  Attributes:
    number: Which of those that are asked for, from 1.
    total: How many these are.
    arm: Its arm.
    seed: Its seed.
    finished: Whether it has ended already, and is only read.
  """

  number: int
  total: int
  arm: str
  seed: int
  finished: bool


def compare(
  config: epath.PathLike | Comparison,
  workdir: epath.PathLike,
  *,
  arms: Sequence[str] = (),
  seeds: Sequence[int] = (),
  announce: Callable[[Next], None] = lambda run: None,
  **overrides: Any,
) -> Compared:
  """Trains arms with several seeds under one budget; goes on where it stopped.

  Args:
    config: The file of a comparison, or a `Comparison`.
    workdir: Where the runs live, each in `ARM/SEED`.
    arms: Only these; all if empty.
    seeds: Only these; all if empty.
    announce: Called with each run before it is trained.
    **overrides: Keys of the base, as for `train`.

  Returns:
    What all finished runs came to; `table.md`, `compare.png` and `summary.json`
    in the folder say the same.

  Raises:
    ConfigError: Something is wrong with an arm or a folder; nothing has begun.
    Stopped: The process was asked to stop (SIGTERM), and the run is saved.
  """
  return carry_out(
    plan(config, overrides.items(), arms, seeds), workdir, announce
  )


@dataclasses.dataclass(frozen=True)
class Plan:
  """A checked comparison, and what of it is asked for.

  Attributes:
    comparison: The whole of it.
    arms: Names of arms.
    seeds: Seeds, as text.
  """

  comparison: Comparison
  arms: Sequence[str]
  seeds: Sequence[str]


def plan(
  config: epath.PathLike | Comparison,
  overrides: Iterable[tuple[str, Any]],
  arms: Iterable[str],
  seeds: Iterable[Any],
) -> Plan:
  """What `compare` is to do; every arm is checked."""
  if isinstance(config, Comparison):
    found = configs.complete_comparison(config, overrides, 'the comparison')
  else:
    found = configs.read_comparison(os.fspath(config), overrides)
  names = _chosen('arm', arms, found.arms)
  every_seed = {s for arm in names for s in found.seeds_of(arm)}
  chosen = _chosen('seed', map(str, seeds), {str(s): s for s in every_seed})
  for arm in found.arms:
    try:
      of_arm = found.config(arm, found.seeds_of(arm)[0])
      configs.check(of_arm)
      configs.check_training(of_arm)
    except ConfigError as e:
      raise ConfigError(f'arm {arm}: {e}') from None
  return Plan(found, names, chosen)


def carry_out(
  plan: Plan, workdir: epath.PathLike, announce: Callable[[Next], None]
) -> Compared:
  """Trains what a plan asks for, and says what all runs came to."""
  comparison, root = plan.comparison, epath.Path(workdir)
  with in_one_line():
    comparing.check_folders(comparison, workdir)
  every = list(comparing.runs(comparison, workdir))
  asked = [
    found
    for found in every
    if found[0] in plan.arms and str(found[1]) in plan.seeds
  ]
  for i, (arm, seed, folder) in enumerate(asked, 1):
    done = comparing.finished(folder)
    announce(Next(i, len(asked), arm, seed, done))
    if not done:
      with begin(comparison.config(arm, seed), folder) as steps:
        for _ in steps:
          pass
      dist.forget_programs()  # an arm's are of no use to the next
  with in_one_line():
    summary = comparing.summarise(comparison, workdir)
    if jax.process_index() == 0:
      comparing.write(summary, workdir)
      plots.draw_comparison(summary, root / 'compare.png')
  runs = {(arm, seed): Result(folder) for arm, seed, folder in every}
  return Compared(workdir, summary, runs)


def _chosen(what: str, names: Iterable[str], known: Iterable[str]) -> list[str]:
  """The names that are asked for, all of them if none is."""
  known = list(known)
  chosen = list(names) or known
  for name in chosen:
    if name not in known:
      raise ConfigError(f'there is no {what} {name!r}{among(name, known)}')
  return chosen

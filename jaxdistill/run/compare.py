"""Arms x seeds under one budget: the runs, and what they came to.

Every run is an ordinary run in `ROOT/ARM/SEED`, so what is cut goes on where it
was, and what is finished is only read.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from etils import epath

from jaxdistill import dist
from jaxdistill.checkpoint import (
  RefusedError,
  check_writable,
  write_atomically,
)
from jaxdistill.plots.comparison import measured
from jaxdistill.plots.files import read_metrics
from jaxdistill.plots.intervals import estimate
from jaxdistill.run.workdir import Workdir

GRID = 21  # points of a curve
CAPTION = """\
Means over seeds of the first, best and last value in a run, and of the value
where the same accuracy on `dev` was best. 95% is Student's t over seeds: with
two or three it is wide, and may leave the range that a share can have. Bold: it
leaves out 0, and seeds differ."""
ROUNDING = 1e-9
SLACK = 0.05  # of a budget, that a last step may go beyond it


@runtime_checkable
class Comparison(Protocol):
  """Arms and their seeds, as `config.Comparison` has them."""

  @property
  def base(self) -> Any: ...

  @property
  def arms(self) -> Mapping[str, Mapping[str, Any]]: ...

  def seeds_of(self, arm: str) -> tuple[int, ...]: ...

  def config(self, arm: str, seed: int) -> Any: ...


# What a step took: see COSTS.
SPENT = ('time/', 'rollout/tokens', 'rollout/scored')
COSTS = ('tokens', 'scored', 'optimizer_steps', 'wall_s')


def runs(comparison: Comparison, root: epath.PathLike) -> Iterator[tuple]:
  """`(arm, seed, folder)` of every run; the first seed of all arms first."""
  most = max(len(comparison.seeds_of(arm)) for arm in comparison.arms)
  for i in range(most):
    for arm in comparison.arms:
      for seed in comparison.seeds_of(arm)[i : i + 1]:
        yield arm, seed, epath.Path(root) / arm / str(seed)


def finished(folder: epath.PathLike) -> bool:
  """Whether a run has come to its end; process 0 looks, all agree."""
  there = False
  with contextlib.suppress(FileNotFoundError, ValueError):  # damaged: no
    json.loads((epath.Path(folder) / 'summary.json').read_text())
    there = True
  return bool(dist.agree_max(int(there and jax.process_index() == 0))[0])


def check_folders(comparison: Comparison, root: epath.PathLike) -> None:
  """Looks at what is there before anything runs.

  Raises:
    RefusedError: A folder holds a run of another config, or is itself a run's.
    ValueError: Nothing can be written.
  """
  try:
    check_writable(root)
  except OSError as e:
    why = (e.strerror or str(e)).lower()
    raise ValueError(f'--workdir {root} cannot be written: {why}') from None
  except ValueError as e:  # of an object store
    raise ValueError(f'--workdir {e}') from None
  if (epath.Path(root) / 'config.json').exists():
    raise RefusedError(
      f'{root} holds a single run (config.json); choose another --workdir'
    )
  for arm, seed, folder in runs(comparison, root):
    if (folder / 'config.json').exists():
      Workdir(folder).check(comparison.config(arm, seed).to_dict())


def summarise(comparison: Comparison, root: epath.PathLike) -> dict[str, Any]:
  """What the finished runs came to, as it is written to `summary.json`.

  `arms` has for each arm its `seeds`, its `overrides`, `tokens`, `scored`,
  `optimizer_steps` and `wall_s` (means over seeds) and for every metric but
  those of time and tokens:

  - `first`, `last`, and of accuracies `best` and `dev_selected`: means over
    seeds. `dev_selected` is the value where the same accuracy on `dev` was
    best, the earliest where that was so more than once;
  - `mean` and `interval`: of the last value, with the 95% interval of Student's
    t over seeds (None for a single seed);
  - `by_seed`: the same four values for each seed;
  - `rise`: last value minus first, over seeds: `mean` and `interval`;
  - `difference`: last value minus that of the first arm, over the seeds that
    both have: `mean` and `interval`.

  `curves` has for each arm, of accuracies, win rates and of what self-play
  measures, the mean and interval over seeds at equal numbers of tokens
  (generated, and scored by others than the policy), and `by_seed` the values
  of each.
  """
  logged: dict[str, dict[int, list[dict]]] = {a: {} for a in comparison.arms}
  records: dict[str, list[dict]] = {arm: [] for arm in comparison.arms}
  for arm, seed, folder in runs(comparison, root):
    if finished(folder):
      logged[arm][seed] = read_metrics(folder)
      records[arm].append(json.loads((folder / 'summary.json').read_text()))
  logged = {arm: by_seed for arm, by_seed in logged.items() if by_seed}
  values = {
    arm: {seed: _values(lines) for seed, lines in by_seed.items()}
    for arm, by_seed in logged.items()
  }
  reference = values.get(next(iter(comparison.arms)), {})
  arms = {}
  for arm, by_seed in values.items():
    arms[arm] = {
      'seeds': list(by_seed),
      'overrides': dict(comparison.arms[arm]),
      **{n: _mean(r.get(n, 0) for r in records[arm]) for n in COSTS},
    }
    for name in sorted({n for found in by_seed.values() for n in found}):
      arms[arm][name] = _over_seeds(name, by_seed, reference)
  return {
    'arms': arms,
    'curves': {arm: _curves(by_seed) for arm, by_seed in logged.items()},
    'finished': sum(len(by_seed) for by_seed in logged.values()),
    'planned': len(list(runs(comparison, root))),
    'base': comparison.base.to_dict(),
    'versions': _all_of(r['versions'] for a in arms for r in records[a]),
    'device': _all_of(r['device'] for a in arms for r in records[a]),
  }


def _all_of(values) -> Any:
  """What all runs agree on, or a list of all there is."""
  found = []
  for value in values:
    if value not in found:
      found.append(value)
  return found[0] if len(found) == 1 else found


def _values(lines: Sequence[Mapping]) -> dict[str, dict[str, float]]:
  """First, last, best and dev-selected value of every metric of a run."""
  series: dict[str, list[tuple[int, float]]] = {}
  for line in lines:
    for name, value in line.items():
      if '/' in name and not name.startswith(SPENT) and value is not None:
        series.setdefault(name, []).append((line['step'], value))
  out = {}
  for name, points in series.items():
    out[name] = {'first': points[0][1], 'last': points[-1][1]}
    if name.startswith('eval/') and 'accuracy' in name:
      _, split, *rest = name.split('/')
      dev = dict(series.get('/'.join(('eval', 'dev', *rest)), ()))
      out[name]['best'] = max(value for _, value in points)
      if dev and split != 'dev':
        chosen = max(points, key=lambda point: (dev[point[0]], -point[0]))
        out[name]['dev_selected'] = chosen[1]
  return out


def _over_seeds(name, by_seed, reference):
  if not all(name in v for v in by_seed.values()):
    return {}
  kinds = ('first', 'best', 'dev_selected', 'last')
  found = {
    kind: {s: v[name][kind] for s, v in by_seed.items() if kind in v[name]}
    for kind in kinds
  }
  found = {kind: values for kind, values in found.items() if values}
  out: dict[str, Any] = {
    kind: _mean(values.values()) for kind, values in found.items()
  }
  out |= _estimated(found['last'].values()) | {'by_seed': found}
  out['rise'] = _estimated(
    found['last'][s] - found['first'][s] for s in found['last']
  )
  shared = [s for s in by_seed if name in reference.get(s, {})]
  if shared:
    out['difference'] = _estimated(
      found['last'][s] - reference[s][name]['last'] for s in shared
    )
  return out


def _estimated(values) -> dict[str, Any]:
  mean, interval = estimate(list(values))
  return {'mean': mean, 'interval': interval}


def _curves(by_seed):
  """Mean and interval of each evaluated metric at equal tokens."""
  curves = {}
  names = {n for lines in by_seed.values() for line in lines for n in line}
  drawn = 'accuracy', 'win_rate', 'selfplay/'
  for name in sorted(n for n in names if any(part in n for part in drawn)):
    points = {s: _by_tokens(lines, name) for s, lines in by_seed.items()}
    points = {s: p for s, p in points.items() if p}
    end = max(p[-1][0] for p in points.values())
    grid = np.linspace(0, end, GRID)
    values = np.array(
      [
        np.interp(grid, [x for x, _ in p], [y for _, y in p])
        for p in points.values()
      ]
    )
    estimates = [estimate(column) for column in values.T.tolist()]
    curves[name] = {
      'tokens': grid.round().astype(int).tolist(),
      'mean': [round(mean, 4) for mean, _ in estimates],
      'interval': [
        bounds and [round(x, 4) for x in bounds] for _, bounds in estimates
      ],
      'by_seed': dict(zip(points, values.round(4).tolist(), strict=True)),
    }
  return curves


def _by_tokens(lines, name):
  """Values of a metric by the tokens that were spent before."""
  before, out = 0, []
  for line in lines:
    if line.get(name) is not None:
      out.append((before, line[name]))
    before = line['rollout/tokens'] + line.get('rollout/scored', 0)
  return out


def _mean(values) -> float:
  return float(np.mean(list(values)))


def table(summary: Mapping[str, Any]) -> str:
  """The comparison as Markdown: what it cost, and one table per accuracy.

  A rise or a difference whose interval does not contain 0 is bold, unless all
  seeds have the very same one, which says nothing of how much it varies.
  """
  arms, blocks = summary['arms'], [CAPTION]
  reference = next(iter(arms), '')
  for name, title in measured(arms).items():
    rows = [
      f'| {title} | seeds | first | best | on dev | **last** | 95% '
      f'| last - first | last - {reference} | its 95% |',
      '|' + '---|' * 10,
    ]
    for arm, found in arms.items():
      if not found.get(name):
        continue
      metric = found[name]
      cells = [arm, len(found['seeds'])]
      cells += [
        _figure(metric.get(k)) for k in ('first', 'best', 'dev_selected')
      ]
      cells += [f'**{metric["last"]:.3f}**', _interval(metric['interval'])]
      cells.append(_change(metric['rise']))
      apart = metric.get('difference')
      if apart is None or arm == reference:
        cells += ['', '']
      else:
        cells += [_change(apart), _interval(apart['interval'], '+')]
      rows.append('| ' + ' | '.join(map(str, cells)) + ' |')
    blocks.append('\n'.join(rows))
  rows = [
    '| arm | tokens generated | scored | optimizer steps | minutes |',
    '|' + '---|' * 5,
  ]
  for arm, found in arms.items():
    cells = (
      arm,
      f'{found["tokens"]:,.0f}',
      f'{found["scored"]:,.0f}',
      f'{found["optimizer_steps"]:.1f}',
      f'{found["wall_s"] / 60:.1f}',
    )
    rows.append('| ' + ' | '.join(cells) + ' |')
  blocks.append('\n'.join(rows))
  budget = summary['base']['tokens']
  beyond = [
    arm
    for arm, found in arms.items()
    if found['tokens'] + found['scored'] > (1 + SLACK) * budget
  ]
  if beyond:
    blocks.append(
      f'Steps are taken whole: the last one took {", ".join(beyond)} more than '
      f'{SLACK:.0%} beyond the budget of {budget:,} tokens, so arms differ in '
      'what they spent. With a larger budget they differ less.'
    )
  return '\n\n'.join(blocks) + '\n'


def _change(found) -> str:
  (low, high), mean = found['interval'] or (0, 0), f'{found["mean"]:+.3f}'
  return f'**{mean}**' if low * high > 0 and high - low > ROUNDING else mean


def _figure(value) -> str:
  return '' if value is None else f'{value:.3f}'


def _interval(bounds, sign='') -> str:
  return (
    '' if bounds is None else '{:{s}.3f} to {:{s}.3f}'.format(*bounds, s=sign)
  )


def write(summary: Mapping[str, Any], root: epath.PathLike) -> None:
  """Writes `summary.json` and `table.md`."""
  root = epath.Path(root)
  write_atomically(root / 'summary.json', json.dumps(summary, indent=1))
  write_atomically(root / 'table.md', table(summary))

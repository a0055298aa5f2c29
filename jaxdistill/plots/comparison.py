"""A comparison in one figure: curves over tokens, and where each arm ended."""

from collections.abc import Mapping
from typing import Any

import matplotlib
from etils import epath
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxdistill.plots.measured import MEASURES, SPLITS

# What is of no single run, or is read beside another figure.
_OTHERS = {
  'teacher_order_accuracy': 'order of pairs, the teacher',
  'accuracy_corrected_sampled': 'own attempt corrected',
  'fixed_accuracy_corrected_sampled': "the base's attempt corrected",
  'judge_flips': 'judge turns with the order',
}
_MEASURED = (
  *('test/accuracy_greedy', 'test/accuracy_sampled'),
  *('ood/accuracy_greedy', 'ood/accuracy_sampled'),
  *('test/order_accuracy', 'ood/order_accuracy'),
  *('test/teacher_order_accuracy', 'ood/teacher_order_accuracy'),
  *('test/accuracy_turn_2', 'test/accuracy_turn_2_sampled'),
  *('ood/accuracy_turn_2', 'ood/accuracy_turn_2_sampled'),
  *('ood/accuracy_corrected_sampled', 'ood/fixed_accuracy_corrected_sampled'),
  *('test/judge_accuracy', 'ood/judge_accuracy', 'test/judge_flips'),
  *('test/win_rate', 'test/accuracy_edited', 'test/accuracy_passage'),
  *('ood/win_rate', 'dev/accuracy_greedy', 'dev/accuracy_sampled'),
)


def _title(split: str, name: str) -> str:
  return f'{SPLITS[split]}, {_OTHERS.get(name) or MEASURES[name].short}'


# Metric -> its title in tables and figures.
ACCURACIES = {f'eval/{name}': _title(*name.split('/')) for name in _MEASURED}
# What a figure shows: as much as can be read in one.
SHOWN = {
  name: title
  for name, title in ACCURACIES.items()
  if name != 'eval/ood/accuracy_sampled'
  and not name.endswith('turn_2')
  and not any(
    part in name
    for part in ('/teacher_', 'corrected', 'flips', 'ood/judge', 'ood/win')
  )
} | {'selfplay/vote_accuracy': 'self-play: the vote is right'}


def measured(
  arms: Mapping[str, Any], titles: Mapping[str, str] = ACCURACIES
) -> dict[str, str]:
  """The metrics that some arm has, with their titles.

  Those on `dev` are left out where there is a test split: dev is to choose by.

  Args:
    arms: Of a comparison's summary.
    titles: Metric -> its title.
  """
  found = {
    name: title
    for name, title in titles.items()
    if any(arm.get(name) for arm in arms.values())
  }
  tested = any(name.startswith('eval/test/') for name in found)
  return {
    name: title
    for name, title in found.items()
    if not (tested and name.startswith('eval/dev/'))
  }


def draw_comparison(summary: Mapping[str, Any], out: epath.PathLike) -> None:
  """Draws a comparison's `summary.json`.

  Above, the mean over seeds by generated tokens, with its 95% interval (of two
  seeds, whose interval would fill the panel, a thin line each instead); below,
  for each arm its last value with the interval, the single seeds, and (hollow)
  the best and the dev-selected value. The dashed line is where the first arm
  began, the dotted ones what teachers are worth, where that was measured.

  Args:
    summary: What `jaxdistill compare` writes.
    out: The PNG file to write.

  Raises:
    ValueError: No arm has anything to show.
  """
  arms = list(summary['arms'])
  columns = measured(summary['arms'], SHOWN)
  if not columns:
    raise ValueError('nothing to draw: no run was evaluated and finished')
  size = 3.9 * len(columns), 3.9 + 0.3 * len(arms)
  figure = Figure(figsize=size, layout='constrained')
  axes = figure.subplots(
    2,
    len(columns),
    height_ratios=(3.1, 0.8 + 0.3 * len(arms)),
    squeeze=False,
  )
  tints = [*range(0, 20, 2), *range(1, 20, 2)]  # strong ones first
  tab20 = matplotlib.colormaps['tab20']
  colours = {arm: tab20(tints[i % 20]) for i, arm in enumerate(arms)}
  for column, (name, title) in enumerate(columns.items()):
    _draw_curves(axes[0, column], name, summary['curves'], colours)
    axes[0, column].set_title(title, fontsize=11)
    _draw_ends(axes[1, column], name, summary['arms'], colours)
    if column:
      axes[1, column].tick_params(labelleft=False)
  marks = [
    Line2D([], [], color='0.3', marker='o', ls='-'),
    Line2D([], [], color='0.3', marker='|', ls=''),
    Line2D([], [], color='0.3', marker='^', mfc='none', ls=''),
    Line2D([], [], color='0.3', marker='s', mfc='none', ls=''),
    Line2D([], [], color='0.3', ls='--', lw=1),
  ]
  labels: tuple[str, ...] = (
    *('last, mean and 95% interval', 'last, each seed', 'best'),
    *('selected on dev', 'before training'),
  )
  if any(_teachers(summary['arms'], name) for name in columns):
    marks.append(Line2D([], [], color='0.3', ls=':', lw=1.2))
    labels += ('teachers',)
  figure.legend(
    handles=marks,
    labels=labels,
    loc='outside lower center',
    ncols=max(1, min(len(marks), int(size[0] / 2.5))),
    fontsize=9,
  )
  with epath.Path(out).open('wb') as file:
    figure.savefig(file, format='png', dpi=110)


def _draw_curves(axis, name, curves, colours):
  for arm, found in curves.items():
    if name not in found:
      continue
    curve = found[name]
    axis.plot(curve['tokens'], curve['mean'], color=colours[arm], lw=1.6)
    bounds = [b for b in curve['interval'] if b is not None]
    seeds = curve.get('by_seed', {})
    if len(seeds) == 2:
      for values in seeds.values():
        axis.plot(curve['tokens'], values, color=colours[arm], lw=0.6)
    elif len(bounds) == len(curve['mean']):
      low, high = zip(*bounds, strict=True)
      axis.fill_between(
        curve['tokens'], low, high, color=colours[arm], alpha=0.12, lw=0
      )
  low, high = axis.get_ylim()
  axis.set_ylim(max(low, -0.02), min(high, 1.02))
  axis.set_xlabel('tokens generated and scored')
  axis.xaxis.get_major_locator().set_params(nbins=5)
  axis.xaxis.set_major_formatter(lambda x, _: f'{x / 1000:g}k')
  axis.grid(alpha=0.3)


def _draw_ends(axis, name, arms, colours):
  starts = [found[name]['first'] for found in arms.values() if found.get(name)]
  axis.axvline(starts[0], color='0.3', ls='--', lw=1)
  taught = _teachers(arms, name)
  for value in taught:
    axis.axvline(value, color='0.3', ls=':', lw=1.2)
  for place, (arm, found) in enumerate(arms.items()):
    if not found.get(name):
      continue
    metric, colour = found[name], colours[arm]
    if metric['interval']:
      axis.plot(metric['interval'], [place, place], color=colour, lw=2.5)
    axis.plot(metric['last'], place, 'o', color=colour, ms=6, zorder=3)
    seeds = list(metric['by_seed']['last'].values())
    axis.plot(seeds, [place] * len(seeds), '|', color='0.2', ms=7, zorder=4)
    for kind, mark in (('best', '^'), ('dev_selected', 's')):
      if kind in metric:
        axis.plot(metric[kind], place - 0.28, mark, color=colour, mfc='none')
  # Where the values are; an interval from two or three seeds may go beyond.
  shown = [v for found in arms.values() for v in _ends(found.get(name))]
  shown += taught
  margin = 0.08 * (max(shown) - min(shown)) + 0.005
  axis.set_xlim(min(shown) - margin, max(shown) + margin)
  axis.set_yticks(range(len(arms)), list(arms), fontsize=9)
  axis.set_ylim(len(arms) - 0.4, -0.7)
  axis.grid(alpha=0.3, axis='x')


def _teachers(arms, name):
  """What the teachers of arms are worth by a metric, each value once."""
  split, _, metric = name.rpartition('/')
  found = [arm.get(f'{split}/teacher_{metric}') for arm in arms.values()]
  return sorted({x['last'] for x in found if x})


def _ends(metric):
  if not metric:
    return []
  kinds = ('first', 'best', 'dev_selected', 'last')
  values = [metric[kind] for kind in kinds if kind in metric]
  return values + list(metric['by_seed']['last'].values())

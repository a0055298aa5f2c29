"""The curves of one or more runs, by step; runs of several seeds as one."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxdistill.plots.files import (
  points_of,
  read_alarms,
  read_json,
  read_metrics,
)
from jaxdistill.plots.intervals import half_width

# Panel title -> what it shows: metric, label, line style.
PANELS = {
  'Held-out accuracy': (
    ('eval/test/accuracy_sampled', 'sampled', '-'),
    ('eval/test/accuracy_greedy', 'greedy', '--'),
    ('eval/test/vote_accuracy', 'vote of the samples', ':'),
  ),
  'Out-of-distribution accuracy': (
    ('eval/ood/accuracy_sampled', 'sampled', '-'),
    ('eval/ood/accuracy_greedy', 'greedy', '--'),
    ('eval/ood/vote_accuracy', 'vote of the samples', ':'),
  ),
  'Two attempts: held-out accuracy, sampled': (
    ('eval/test/accuracy_turn_1_sampled', 'first', '-'),
    ('eval/test/accuracy_turn_2_sampled', 'second', '--'),
    ('eval/test/fixed_accuracy_turn_2_sampled', "after the base's first", ':'),
  ),
  'Two attempts: out-of-distribution accuracy, sampled': (
    ('eval/ood/accuracy_turn_1_sampled', 'first', '-'),
    ('eval/ood/accuracy_turn_2_sampled', 'second', '--'),
  ),
  'Two attempts: what the second changes, sampled': (
    ('eval/test/wrong_to_right_sampled', 'wrong to right', '-'),
    ('eval/test/right_to_wrong_sampled', 'right to wrong', '--'),
  ),
  'Passages: held-out accuracy, untold': (
    ('eval/test/accuracy_edited', 'an edit learned', '-'),
    ('eval/test/accuracy_passage', 'the passage learned', '--'),
    ('eval/test/accuracy_nothing', 'nothing learned', ':'),
  ),
  'Edits: answers right once one is learned': (
    ('seal/score', 'mean edit', '-'),
    ('seal/best', 'best edit', '--'),
    ('seal/passage', 'the passage', ':'),
    ('seal/no_edit', 'nothing', '-.'),
  ),
  'Edits one after another: answers right': (
    ('edits/now', 'of the passage just learned', '-'),
    ('edits/earlier', 'of those before', '--'),
  ),
  'Edits one after another: forgotten': (('edits/forgotten', 'share', '-'),),
  'The judge, on held-out pairs': (
    ('eval/test/judge_accuracy', 'right', '-'),
    ('eval/test/fixed_judge_accuracy', "right of the base's", '--'),
    ('eval/test/judge_flips', 'turns with the order', ':'),
    ('eval/test/judge_longer', 'names the longer', '-.'),
  ),
  'Win rate over what it began as': (('eval/test/win_rate', 'win rate', '-'),),
  'Preference pairs: gap of their scores': (
    ('tsr/score_gap', 'chosen less rejected', '-'),
    ('tsr/own_gap', 'own best less own worst', '--'),
  ),
  'Preference pairs: shares': (
    ('tsr/pairs', 'problems with a pair', '-'),
    ('tsr/chosen_right', 'chosen is right', '--'),
    ('tsr/rejected_right', 'rejected is right', ':'),
  ),
  'Refined responses: right': (
    ('reflection/right_original', 'original', '-'),
    ('reflection/right_refined', 'refined', '--'),
    ('reflection/right_learned', 'learned', ':'),
  ),
  'Written problems': (
    ('cot_self_instruct/label_right', 'label is right', '-'),
    ('cot_self_instruct/labelled', 'labelled', '--'),
  ),
  'The verifier: kept answers less all': (('train/gap', 'gap', '-'),),
  'Pairs of items in the right order': (
    ('eval/test/order_accuracy', 'held out', '-'),
    ('eval/ood/order_accuracy', 'out of distribution', '--'),
    ('eval/test/teacher_order_accuracy', 'its teacher, held out', ':'),
  ),
  'Calibration error of the vote': (
    ('eval/test/calibration_error', 'held out', '-'),
    ('eval/ood/calibration_error', 'out of distribution', '--'),
  ),
  'Self-play: is the vote right?': (
    ('selfplay/vote_accuracy', 'vote is right', '-'),
    ('selfplay/agreement', 'agreement', '--'),
  ),
  'Self-play: what is proposed': (
    ('selfplay/valid', 'valid', '-'),
    ('selfplay/distinct', 'distinct', '--'),
    ('selfplay/proposer_reward', 'proposer reward', ':'),
  ),
  'The probe: a few held-out problems': (
    ('probe/accuracy_sampled', 'sampled', '-'),
    ('probe/accuracy_greedy', 'greedy', '--'),
    ('probe/vote_accuracy', 'vote of the samples', ':'),
    ('probe/overconfidence', 'overconfidence', '-.'),
  ),
  'Reward': (('train/reward', 'reward', '-'),),
  'KL to the anchor (nats per token)': (
    ('train/kl_base', 'solver', '-'),
    ('train/proposer_kl_base', 'proposer', '--'),
  ),
  'KL to the teacher (nats per token)': (
    ('train/kl_teacher', 'reverse KL over the support', '-'),
  ),
  'Response length (tokens)': (('rollout/length', 'length', '-'),),
  'Entropy (nats per token)': (('rollout/entropy', 'entropy', '-'),),
  'Doubt words per response': (('rollout/markers', 'doubt words', '-'),),
  'Doubt words per 1,000 tokens': (
    ('rollout/markers_per_1k', 'in training', '-'),
    ('eval/test/markers_per_1k', 'held out', '--'),
    ('eval/ood/markers_per_1k', 'out of distribution', ':'),
  ),
  'Training loss': (('train/loss', 'loss', '-'),),
  'The guard': (
    ('guard/rollbacks', 'rollbacks', '-'),
    ('guard/lr_scale', 'learning rate x', '--'),
  ),
}
# Panels of what lies between 0 and 1, and is drawn so.
SHARES = {
  'Held-out accuracy',
  'Out-of-distribution accuracy',
  'Two attempts: held-out accuracy, sampled',
  'Two attempts: out-of-distribution accuracy, sampled',
  'Two attempts: what the second changes, sampled',
  'Passages: held-out accuracy, untold',
  'Edits: answers right once one is learned',
  'Edits one after another: answers right',
  'The judge, on held-out pairs',
  'Win rate over what it began as',
  'Preference pairs: shares',
  'Refined responses: right',
  'Written problems',
  'Self-play: is the vote right?',
  'Self-play: what is proposed',
  'The probe: a few held-out problems',
}
# Panels of what is as good as always 0 where a model has none of it.
OFTEN_NONE = {'Doubt words per response', 'Doubt words per 1,000 tokens'}
# What an alarm did -> the colour of its mark.
ALARMS = {'warn': '#b8860b', 'rollback': '#c2185b', 'stop': '#c2185b'}


class Group(NamedTuple):
  """What is drawn as one: the metrics of a run, or of a config's seeds."""

  name: str
  runs: Sequence[Sequence[Mapping[str, float]]]


def group_runs(workdirs: Sequence[epath.PathLike]) -> list[Group]:
  """Runs whose configs differ only in the seed are one group.

  A group is named by those values of its config in which the groups differ,
  where these are at most two, or by its folders; single runs beside no group
  by their folders alone.
  """
  found: dict[str, list[epath.Path]] = {}
  configs: dict[str, dict[str, Any]] = {}
  for workdir in map(epath.Path, workdirs):
    config = _flat(read_json(workdir / 'config.json'))
    key = str(workdir)
    if (seed := config.pop('seed', None)) is not None:
      key = json.dumps(config, sort_keys=True)
    seeds = [_seed(other) for other in found.get(key, [])]
    if seed in seeds:  # the same run twice is not two seeds
      key = str(workdir)
    configs[key] = config
    found.setdefault(key, []).append(workdir)
  if len(found) == sum(map(len, found.values())):
    folders = _folders([folder for (folder,) in found.values()])
    names = dict(zip(found, folders, strict=True))
  else:
    names = _names(found, configs)
  return [
    Group(names[key], [read_metrics(folder) for folder in folders])
    for key, folders in found.items()
  ]


def _seed(workdir):
  return read_json(workdir / 'config.json').get('seed')


def _folders(folders):
  names = [folder.name for folder in folders]
  if len({*names}) < len(names):  # runs of a comparison: by arm and seed
    names = ['/'.join(folder.parts[-2:]) for folder in folders]
  return names


def _names(found, configs):
  keys = {k for config in configs.values() for k in config}
  apart = [
    k
    for k in sorted(keys)
    if len({json.dumps(config.get(k)) for config in configs.values()}) > 1
  ]
  names = {}
  for key, folders in found.items():
    if 0 < len(apart) <= 2 and all(k in configs[key] for k in apart):
      name = ', '.join(f'{k}={_plain(configs[key][k])}' for k in apart)
    elif all(folder.name.isdecimal() for folder in folders):
      name = folders[0].parent.name  # runs of a comparison: ARM/SEED
    else:
      name = ', '.join(folder.name for folder in folders)
    count = len(folders)
    names[key] = f'{name} ({count} seed{"s" if count > 1 else ""})'
  return names


def _flat(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  out = {}
  for key, value in config.items():
    inner = isinstance(value, Mapping)
    out |= _flat(value, f'{prefix}{key}.') if inner else {prefix + key: value}
  return out


def _plain(value):
  return value if isinstance(value, str) else json.dumps(value)


def draw_curves(
  workdirs: Sequence[epath.PathLike], out: epath.PathLike
) -> None:
  """Draws the panels for which some run has values.

  Runs that differ only in their seed are drawn as their mean, with the 95%
  interval of Student's t as a band; two of them as the mean and a thin line
  each. The alarms of a single run are marked at their steps.

  Args:
    workdirs: Folders of runs; one colour each, or each group of seeds, where
      there are several.
    out: The PNG file to write.
  """
  groups = group_runs(workdirs)
  panels = panels_of(groups)
  if not panels:
    raise ValueError(f'nothing to draw yet in {", ".join(map(str, workdirs))}')
  marks = {}
  if len(workdirs) == 1:
    marks = marks_of(read_alarms(workdirs[0]), panels)
  columns = min(3, len(panels))
  rows = -(-len(panels) // columns)
  size = 5 * columns, 3.4 * rows
  # A legend beside all panels needs the layout that finds room for it.
  layout = 'constrained' if len(workdirs) > 1 else None
  figure = Figure(figsize=size, layout=layout)
  axes = figure.subplots(rows, columns, squeeze=False)
  if not layout:
    make_room(figure, rows, columns)
  for axis in axes.flat[len(panels) :]:
    axis.axis('off')
  for axis, title in zip(axes.flat, panels, strict=False):
    draw_panel(axis, title, panels[title], groups, marks.get(title, ()))
  if len(workdirs) > 1:
    many = len(groups) > 1
    handles = [
      Line2D([], [], color=f'C{i}' if many else '0.3', lw=3)
      for i in range(len(groups))
    ]
    figure.legend(
      handles,
      [group.name for group in groups],
      loc='outside upper center',
      ncols=min(len(groups), 6),
    )
  with epath.Path(out).open('wb') as file:
    figure.savefig(file, format='png', dpi=130)


def make_room(figure: Figure, rows: int, columns: int) -> None:
  """Margins for titles and ticks: half the time of a layout that looks."""
  (left, right), (bottom, top) = (0.65, 0.15), (0.5, 0.35)  # inches, a panel
  width, height = figure.get_size_inches()
  figure.subplots_adjust(
    left=left / width,
    right=1 - right / width,
    bottom=bottom / height,
    top=1 - top / height,
    wspace=(left + right) / (width / columns - left - right),
    hspace=(bottom + top) / (height / rows - bottom - top),
  )


def panels_of(groups: Sequence[Group]) -> dict[str, list[tuple]]:
  """The panels, and of each the series, for which some run has values."""
  found = [x for group in groups for lines in group.runs for x in lines]
  names = {name for x in found for name in x if x[name] is not None}
  some = {name for x in found for name in x if x[name]}
  panels = {
    title: [s for s in series if s[0] in names]
    for title, series in PANELS.items()
    if title not in OFTEN_NONE or some & {s[0] for s in series}
  }
  return {title: series for title, series in panels.items() if series}


def marks_of(
  alarms: Sequence[Mapping[str, Any]], panels: Mapping[str, Sequence[tuple]]
) -> dict[str, list[tuple[int, str, str]]]:
  """What is marked in each panel: `(step, name, action)`.

  An alarm is named in the panel of its metric, or in the first. One that
  changed the run is a line in all others, too, without its name.
  """
  marks: dict[str, list] = {title: [] for title in panels}
  shown = {s[0]: title for title, series in panels.items() for s in series}
  for alarm in alarms:
    action = alarm.get('action', 'warn')
    own = shown.get(alarm.get('metric', ''), next(iter(panels), None))
    for title, found in marks.items():
      if title == own or action != 'warn':
        name = str(alarm.get('alarm', '')) if title == own else ''
        found.append((alarm['step'], name, action))
  return marks


def draw_panel(
  axis: Any,
  title: str,
  series: Sequence[tuple[str, str, str]],
  groups: Sequence[Group],
  marks: Sequence[tuple[int, str, str]] = (),
) -> None:
  """Draws one panel.

  Args:
    axis: Where.
    title: Its title.
    series: Metric, label and line style of each.
    groups: Whose; with several, colours tell groups and styles tell series.
    marks: Step, name and action of what is marked.
  """
  many = len(groups) > 1
  for i, group in enumerate(groups):
    for j, (name, _, style) in enumerate(series):
      runs = [points for x in group.runs if (points := points_of(x, name))]
      if runs:
        _draw_runs(axis, runs, style, f'C{i if many else j}')
  axis.set_title(title, fontsize=11)
  axis.set_xlabel('step')
  axis.xaxis.get_major_locator().set_params(integer=True)
  if title in SHARES:
    axis.set_ylim(min(axis.dataLim.y0, 0) - 0.03, 1.03)
  elif 'error' in title:
    axis.set_ylim(bottom=0)
  axis.grid(alpha=0.3)
  _draw_marks(axis, marks)
  styles = [
    Line2D([], [], color='0.3' if many else f'C{j}', ls=style)
    for j, (_, _, style) in enumerate(series)
  ]
  labels = [label for _, label, _ in series]
  axis.legend(styles, labels, fontsize=8, framealpha=0.6)


def _draw_runs(axis, runs, style, color):
  line = {'linestyle': style, 'color': color}
  if len(runs) == 1:
    marker = 'o' if len(runs[0]) < 15 else None
    axis.plot(
      *zip(*runs[0], strict=True), **line, marker=marker, markersize=3.5
    )
    return
  steps, values = common_steps(runs)
  axis.plot(steps, values.mean(0), **line)
  if len(runs) == 2:
    for row in values:
      axis.plot(steps, row, **line, lw=0.6)
  elif len(steps):
    mean, half = values.mean(0), half_width(values)
    axis.fill_between(
      steps, mean - half, mean + half, color=color, alpha=0.15, lw=0
    )


def common_steps(
  runs: Sequence[Sequence[tuple[float, float]]],
) -> tuple[np.ndarray, np.ndarray]:
  """Runs at the same steps: all that any has, as far as each of them reaches.

  Args:
    runs: Points of each.

  Returns:
    The steps, and a row of values for each run; in between its own steps a run
    is interpolated.
  """
  first = max(points[0][0] for points in runs)
  last = min(points[-1][0] for points in runs)
  steps = sorted(
    {x for points in runs for x, _ in points if first <= x <= last}
  )
  rows = [
    np.interp(steps, [x for x, _ in points], [y for _, y in points])
    for points in runs
  ]
  return np.array(steps), np.array(rows)


def _draw_marks(axis, marks):
  named: dict[int, list[str]] = {}
  for step, name, action in marks:
    color = ALARMS.get(action, ALARMS['warn'])
    axis.axvline(step, color=color, lw=0.9, ls=(0, (2, 2)), zorder=1)
    if name and name not in named.setdefault(step, []):
      named[step].append(name)
  low, high = axis.get_xlim()
  free = -np.inf
  for step, names in sorted(named.items()):
    if names and step - free > 0.045 * (high - low):  # where it can be read
      axis.annotate(
        ', '.join(names)[:40],  # longer ones leave no room for the curves
        xy=(step, 0.02),
        xycoords=('data', 'axes fraction'),
        xytext=(-2, 0),
        textcoords='offset points',
        rotation=90,
        parse_math=False,
        ha='right',
        va='bottom',
        fontsize=7.5,
      )
      free = step

"""The curves of one or more runs."""

import json
from collections.abc import Sequence

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt
from etils import epath
from matplotlib.lines import Line2D

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
  'Self-play: is the vote right?': (
    ('selfplay/vote_accuracy', 'vote is right', '-'),
    ('selfplay/agreement', 'agreement', '--'),
  ),
  'Self-play: what is proposed': (
    ('selfplay/valid', 'valid', '-'),
    ('selfplay/distinct', 'distinct', '--'),
    ('selfplay/proposer_reward', 'proposer reward', ':'),
  ),
  'Reward': (('train/reward', 'reward', '-'),),
  'KL to the anchor (nats per token)': (
    ('train/kl_base', 'solver', '-'),
    ('train/proposer_kl_base', 'proposer', '--'),
  ),
  'Response length (tokens)': (('rollout/length', 'length', '-'),),
  'Training loss': (('train/loss', 'loss', '-'),),
}


def read_metrics(workdir: epath.PathLike) -> list[dict[str, float]]:
  """The lines of a run's `metrics.jsonl`.

  Raises:
    FileNotFoundError: The folder holds no run.
    ValueError: A line is damaged.
  """
  path = epath.Path(workdir) / 'metrics.jsonl'
  if not path.exists():
    raise FileNotFoundError(f'{workdir} holds no run (no metrics.jsonl)')
  try:
    lines = path.read_text().splitlines()
    # A run that is being written, or that died, may end in half a line.
    found = [json.loads(line) for line in lines if line.endswith('}')]
  except ValueError as e:
    raise ValueError(f'{path} is damaged: {e}') from None
  if not all(isinstance(line, dict) and 'step' in line for line in found):
    raise ValueError(f'{path} is damaged: a line has no step')
  return found


def draw_curves(
  workdirs: Sequence[epath.PathLike], out: epath.PathLike
) -> None:
  """Draws the panels for which some run has values.

  Args:
    workdirs: Folders of runs; one colour each where there are several.
    out: The PNG file to write.
  """
  runs = {str(w): read_metrics(w) for w in workdirs}
  names = {k for lines in runs.values() for line in lines for k in line}
  panels = {
    title: [s for s in series if s[0] in names]
    for title, series in PANELS.items()
  }
  panels = {title: series for title, series in panels.items() if series}
  if not panels:
    raise ValueError(f'nothing to draw yet in {", ".join(runs)}')
  columns = min(3, len(panels))
  rows = -(-len(panels) // columns)
  figure, axes = plt.subplots(
    rows,
    columns,
    figsize=(5 * columns, 3.4 * rows),
    squeeze=False,
    layout='constrained',
  )
  for axis in axes.flat[len(panels) :]:
    axis.axis('off')
  for axis, (title, series) in zip(axes.flat, panels.items(), strict=False):
    _draw_panel(axis, title, series, runs)
  colours = [Line2D([], [], color=f'C{i}', lw=3) for i in range(len(runs))]
  if len(runs) > 1:
    names = [epath.Path(run).name for run in runs]
    if len({*names}) < len(names):  # runs of a comparison: by arm and seed
      names = ['/'.join(epath.Path(run).parts[-2:]) for run in runs]
    figure.legend(
      colours, names, loc='outside upper center', ncols=min(len(runs), 6)
    )
  with epath.Path(out).open('wb') as file:
    figure.savefig(file, format='png', dpi=130)
  plt.close(figure)


def _draw_panel(axis, title, series, runs):
  many = len(runs) > 1
  for i, lines in enumerate(runs.values()):
    for j, (name, _, style) in enumerate(series):
      points = [(x['step'], x[name]) for x in lines if x.get(name) is not None]
      if not points:
        continue
      axis.plot(
        *zip(*points, strict=True),
        style,
        color=f'C{i if many else j}',
        marker='o' if len(points) < 15 else None,
        markersize=3.5,
      )
  axis.set_title(title, fontsize=11)
  axis.set_xlabel('step')
  axis.xaxis.get_major_locator().set_params(integer=True)
  if 'accuracy' in title or 'Self-play' in title:
    axis.set_ylim(-0.03, 1.03)
  axis.grid(alpha=0.3)
  # With several runs, colours tell runs and styles tell series apart.
  styles = [
    Line2D([], [], color='0.3' if many else f'C{j}', ls=style)
    for j, (_, _, style) in enumerate(series)
  ]
  labels = [label for _, label, _ in series]
  axis.legend(styles, labels, fontsize=8, framealpha=0.6)

"""What a model does when it is told more, by what it is told."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from matplotlib.figure import Figure

PANELS = {
  'right': 'Right answers',
  'length': 'Tokens of an answer',
  'markers_per_1k': 'Doubt words per 1,000 tokens',
  'kl_fork': 'KL (untold | told), nats per token',
}
# Drawn beside one of these: what, and what the two are called.
BESIDE = {
  'right': ('untold', ('told', 'untold, in the same places')),
  'kl_fork': ('kl_other', ('where it is least sure', 'elsewhere')),
}


def draw_ladder(found: Mapping[str, Any], out: epath.PathLike) -> None:
  """Draws the ladder of contexts, a bar for each rung.

  Args:
    found: What `jaxdistill context --json` prints.
    out: The PNG file to write.
  """
  rungs = found['rungs']
  names = list(rungs)
  figure = Figure(figsize=(3.3 * len(PANELS) + 1, 3.6), layout='constrained')
  axes = figure.subplots(1, len(PANELS), sharey=True)
  for axis, (key, title) in zip(axes, PANELS.items(), strict=True):
    values = [rungs[name].get(key, 0.0) for name in names]
    places = np.arange(len(names))
    beside = key in BESIDE and all(BESIDE[key][0] in r for r in rungs.values())
    axis.barh(places - 0.2 * beside, values, height=0.6 - 0.2 * beside)
    if beside:
      other, labels = BESIDE[key]
      others = [rungs[name].get(other, 0.0) for name in names]
      axis.barh(places + 0.2, others, height=0.4)
      below = (0.5, -0.1)
      axis.legend(
        labels, loc='upper center', bbox_to_anchor=below, ncols=2, fontsize=8
      )
    axis.set_yticks(places, names)
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.3, axis='x')
    axis.margins(x=0.2)
    for place, value in zip(places - 0.2 * beside, values, strict=True):
      text = f' {value:.3g}'
      axis.annotate(text, (value, place), va='center', fontsize=8, color='0.3')
  axes[0].invert_yaxis()
  title = f'{found["model"]} on {found["task"]}, by what it is told'
  figure.suptitle(title, fontsize=11)
  with epath.Path(out).open('wb') as file:
    figure.savefig(file, format='png', dpi=110)

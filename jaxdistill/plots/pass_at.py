"""The chance that any of k samples is right, by k."""

from collections.abc import Mapping
from typing import Any

from etils import epath
from matplotlib.figure import Figure


def draw_pass_at(
  found: Mapping[str, Mapping[str, Any]], out: epath.PathLike
) -> None:
  """Draws pass@k of several models; one panel per split.

  Args:
    found: File -> what `jaxdistill eval --pass_k --out` wrote to it. Files
      whose names differ only in what follows the last `-` (`late-0.json`,
      `late-1.json`) are seeds of one thing and share a colour.
    out: The PNG file to write.

  Raises:
    ValueError: A file has no pass@k.
  """
  curves: dict[str, list[tuple[str, dict[int, float]]]] = {}
  for path, record in found.items():
    by_split: dict[str, dict[int, float]] = {}
    for name, value in record.items():
      _, _, rest = name.partition('eval/')
      split, _, k = rest.partition('/pass_at/')
      if k.isdecimal() and isinstance(value, int | float):
        by_split.setdefault(split, {})[int(k)] = value
    if not by_split:
      raise ValueError(f'{path} has no pass@k; eval --pass_k writes it')
    for split, curve in by_split.items():
      label = epath.Path(path).stem.rpartition('-')[0] or epath.Path(path).stem
      curves.setdefault(split, []).append((label, curve))
  labels = sorted({label for found in curves.values() for label, _ in found})
  figure = Figure(figsize=(5.5 * len(curves), 4.2), layout='constrained')
  axes = figure.subplots(1, len(curves), squeeze=False)
  for axis, (split, lines) in zip(axes.flat, curves.items(), strict=True):
    seen = set()
    for label, curve in lines:
      ks = sorted(curve)
      axis.plot(
        ks,
        [curve[k] for k in ks],
        marker='o',
        ms=3.5,
        color=f'C{labels.index(label)}',
        label=None if label in seen else label,
      )
      seen.add(label)
    axis.set_xscale('log', base=2)
    ks = sorted({k for _, curve in lines for k in curve})
    axis.set_xticks(ks, [str(k) for k in ks])
    axis.minorticks_off()
    axis.set_title(f'{split}: any of k samples is right', fontsize=11)
    axis.set_xlabel('k')
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9)
  with epath.Path(out).open('wb') as file:
    figure.savefig(file, format='png', dpi=110)

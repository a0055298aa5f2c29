"""Figures and reports from the files of a run. Never imports JAX."""

import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from jaxdistill.plots.comparison import draw_comparison
from jaxdistill.plots.curves import draw_curves
from jaxdistill.plots.ladder import draw_ladder
from jaxdistill.plots.pass_at import draw_pass_at
from jaxdistill.plots.report import write_report
from jaxdistill.storage import check_store

__all__ = [
  'draw',
  'draw_comparison',
  'draw_curves',
  'draw_ladder',
  'draw_pass_at',
  'write_report',
]


def draw(paths: Sequence[epath.PathLike], out: epath.PathLike) -> None:
  """Draws what the paths hold: runs, a comparison, or pass@k; or a report.

  Args:
    paths: Folders of runs; or one `summary.json` of a comparison; or files
      that `jaxdistill eval --pass_k --out` wrote.
    out: The PNG file to write; or for one run an `.html` file, its report.

  Raises:
    ValueError: A file is none of these.
    FileNotFoundError: It is not there, or a folder holds no run.
  """
  for path in paths:
    check_store(path)
  files = [p for p in map(epath.Path, paths) if p.suffix == '.json']
  if str(out).endswith('.html'):
    if len(paths) > 1 or files:
      raise ValueError(f'{out} is a report, which is of one run')
    write_report(paths[0], out)
    return
  if not files:
    return draw_curves(paths, out)
  if len(files) < len(paths):
    raise ValueError('folders of runs and .json files are not drawn together')
  found = {str(p): _read(p) for p in files}
  name, first = next(iter(found.items()))
  if 'arms' not in first:
    return draw_pass_at(found, out)
  if len(paths) > 1:
    raise ValueError(f'{name} is a comparison: it is drawn by itself')
  try:
    return draw_comparison(first, out)
  except (AttributeError, KeyError, TypeError) as e:
    raise ValueError(f'{name} is damaged: {type(e).__name__} {e}') from None


def _read(path: epath.Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text())
  except ValueError as e:
    raise ValueError(f'{path} is not JSON: {e}') from None
  if not isinstance(found, dict):
    raise ValueError(f'{path} is not a JSON object')
  return found

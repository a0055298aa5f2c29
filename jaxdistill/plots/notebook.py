"""What a notebook shows of runs: figures, verdicts and tables."""

import base64
import html
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from jaxdistill.plots.curves import draw_curves


class Picture(bytes):
  """The bytes of a PNG; a notebook shows it."""

  def _repr_png_(self) -> bytes:
    return bytes(self)

  def __repr__(self) -> str:
    return f'<PNG of {len(self)} bytes; save(path) writes it>'

  def save(self, path: epath.PathLike) -> None:
    """Writes the file."""
    epath.Path(path).write_bytes(self)

  @property
  def html(self) -> str:
    """It, inside a page."""
    data = base64.b64encode(self).decode()
    return f'<img style="max-width:100%" src="data:image/png;base64,{data}">'


def picture(draw: Callable[[epath.Path], Any]) -> Picture:
  """What `draw` writes to the file that it is given."""
  with tempfile.TemporaryDirectory() as folder:
    file = epath.Path(folder) / 'drawn.png'
    draw(file)
    return Picture(file.read_bytes())


def curves(workdirs: Sequence[epath.PathLike]) -> Picture:
  """The curves of one or more runs; see `draw_curves`."""
  return picture(lambda file: draw_curves(workdirs, file))


def verdict_text(found: Mapping[str, Any]) -> str:
  """What `verdict` found, for a terminal."""
  return '\n'.join(
    (found['headline'], *found['lead'], *(said for _, said in found['notes']))
  )


def verdict_html(found: Mapping[str, Any]) -> str:
  """What `verdict` found, for a notebook."""
  lead = ' '.join(map(html.escape, found['lead']))
  notes = ''.join(f'<li>{html.escape(said)}</li>' for _, said in found['notes'])
  return (
    f'<h3>{html.escape(found["headline"])}</h3><p>{lead}</p><ul>{notes}</ul>'
  )


def tables_html(markdown: str) -> str:
  """Tables of Markdown, with bold in their cells and nothing else, as HTML."""
  blocks = []
  for block in markdown.strip().split('\n\n'):
    rows = [
      ''.join(f'<td>{_bold(cell)}</td>' for cell in line.split('|')[1:-1])
      for line in block.split('\n')
      if not line.startswith('|---')
    ]
    rows[0] = rows[0].replace('td>', 'th>')
    blocks.append(f'<table><tr>{"</tr><tr>".join(rows)}</tr></table>')
  return ''.join(blocks)


def _bold(cell: str) -> str:
  return re.sub(r'\*\*(.+?)\*\*', r'<b>\1</b>', html.escape(cell.strip()))

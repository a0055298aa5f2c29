"""The notebook, from its first cell to its last."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import nbclient
import nbformat
import pytest

COLABS = pathlib.Path(__file__).parents[1] / 'colabs'


@pytest.fixture
def notebook():
  return nbformat.read(COLABS / 'quickstart.ipynb', as_version=4)


def shown(cell):
  """What a cell prints, and what its last line is as text."""
  return ''.join(
    x.text if x.get('name') == 'stdout' else x.data['text/plain']
    for x in cell.outputs
    if x.get('name') != 'stderr'
  )


def test_quickstart(notebook, monkeypatch):
  # A user has one device; of a flag the last counts.
  flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=1'
  monkeypatch.setenv('XLA_FLAGS', flags)
  assert not any(cell.get('outputs') for cell in notebook.cells)
  where = {'metadata': {'path': str(COLABS)}}
  nbclient.NotebookClient(notebook, timeout=600, resources=where).execute()
  cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
  said = {cell.source: shown(cell) for cell in cells}

  def of(words):
    return next(text for source, text in said.items() if words in source)

  assert 'Self-play helps' in of("gap('small-late'")
  assert 'Self-play does not help' in of("gap('small-early'")
  assert 'right' in of('late = jd.train')
  assert of('late.transcripts(3)').count('vote ') == 8
  assert of('late.model.ask').splitlines()[-1].startswith('vote: 132')
  before, *_, after = re.findall(r'0\.\d+', of('guard.act'))
  assert float(after) < float(before) - 0.1
  assert 'Went back to the version of step 0' in of('guarded.alarms')
  kinds = [x.get('data', {}) for c in cells for x in c.outputs]
  assert sum('image/png' in x for x in kinds) == 1
  pages = [x['text/html'] for x in kinds if 'text/html' in x]
  assert sum('data:image/png;base64' in x for x in pages) == 1
  assert sum('<h3>small-' in x for x in pages) == 2


def test_the_first_cell_installs_where_nothing_is(notebook, monkeypatch):
  first = next(c.source for c in notebook.cells if c.cell_type == 'code')
  ran = []
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  monkeypatch.setattr(subprocess, 'run', lambda a, check: ran.append(a))
  monkeypatch.setattr(sys, 'path', list(sys.path))
  monkeypatch.chdir(COLABS)
  exec(first, {})
  (command,) = ran
  assert command[:5] == [sys.executable, '-m', 'pip', 'install', '-q']
  assert command[-1] == COLABS.parent and str(COLABS.parent) == sys.path[0]

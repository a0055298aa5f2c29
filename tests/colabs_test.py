"""The notebook, from its first cell to its last."""

import importlib.util
import pathlib
import subprocess
import sys

import nbclient
import nbformat
import pytest

COLABS = pathlib.Path(__file__).parents[1] / 'colabs'
# What `conftest.py` sets to compile fast: programs run slowly by it.
OURS = ('XLA_FLAGS', 'JAX_DISABLE_MOST_OPTIMIZATIONS')
OURS += (
  'JAX_COMPILATION_CACHE_DIR',
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS',
)


@pytest.fixture
def notebook():
  return nbformat.read(COLABS / 'quickstart.ipynb', as_version=4)


def printed(cell):
  return ''.join(x.text for x in cell.outputs if x.get('name') == 'stdout')


def test_quickstart(notebook, monkeypatch):
  for name in OURS:  # its kernel is a user's
    monkeypatch.delenv(name)
  assert not any(cell.get('outputs') for cell in notebook.cells)
  where = {'metadata': {'path': str(COLABS)}}
  nbclient.NotebookClient(notebook, timeout=600, resources=where).execute()
  cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
  said = {cell.source: printed(cell) for cell in cells}

  def of(words):
    return next(text for source, text in said.items() if words in source)

  assert 'Self-play helps' in of('gap --model small-late')
  assert 'Self-play does not help' in of('gap --model small-early')
  assert of('000004.jsonl').count('vote ') == 8
  assert 'Went back to the version of step 0' in of('alarms.jsonl')
  shown = [x for c in cells for x in c.outputs if x.output_type != 'stream']
  assert sum('image/png' in x.get('data', {}) for x in shown) == 2


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

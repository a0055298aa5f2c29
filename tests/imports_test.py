"""Who may import whom, and what stays free of JAX."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

from jaxdistill.config.keys import SHARED

ROOT = pathlib.Path(__file__).parents[1] / 'jaxdistill'

# Part -> what it may import besides itself. An entry with a dot allows that
# module only.
TABLE = {
  # Nouns and tools that all may use.
  '__init__': ('api',),
  'spelling': (),
  'types': (),
  'dist': (),
  'losses': (),
  'plots': ('storage',),
  'storage': (),
  'checkpoint': ('storage', 'dist'),
  'optimizer': (),
  # From problems to rows, and from rows to arrays.
  'rewards': ('types',),
  'data': ('types', 'rewards', 'spelling', 'storage'),
  'batch': ('types', 'dist'),
  'models': ('dist', 'data.text', 'data.small', 'spelling', 'storage'),
  'anchors': ('checkpoint', 'dist', 'spelling', 'storage'),
  'rollout': (
    *('models', 'data.text', 'batch', 'optimizer', 'types', 'spelling'),
    *('rewards', 'dist'),
  ),
  'eval': ('rollout', 'rewards', 'types', 'dist.hosts', 'spelling'),
  'methods': (
    *('data', 'rollout', 'rewards', 'losses', 'types', 'spelling'),
    *('optimizer', 'dist.hosts'),
  ),
  # What goes round, and what it is told.
  'run': (
    *('methods.method', 'eval', 'anchors', 'rollout', 'models', 'optimizer'),
    *('batch', 'checkpoint', 'plots', 'types', 'dist', 'storage'),
  ),
  'config': (
    *('run', 'methods', 'eval', 'anchors', 'models', 'data', 'optimizer'),
    *('batch', 'types', 'spelling', 'dist'),
  ),
  # What a run would take.
  'plan': (
    *('config', 'run', 'methods.method', 'rollout', 'anchors', 'batch'),
    *('models', 'data', 'optimizer', 'types', 'dist', 'spelling'),
  ),
  # What people and commands call.
  'api': (
    *('config', 'run', 'plan', 'eval', 'models', 'rollout', 'rewards', 'data'),
    *('plots', 'types', 'spelling', 'dist'),
  ),
  'cli': (
    *('api', 'config', 'run', 'models', 'checkpoint', 'plots', 'spelling'),
    *('dist', 'storage'),
  ),
}
# The contract names what goes through it.
EXTRA = {
  'methods.method': ('batch', 'models'),
  'methods.policy_gradient': ('batch', 'models'),
  'methods.distillation': ('batch', 'models'),
  'methods.temporal_self_reward': ('optimizer',),  # of the future self
}

# Every module by its name inside the package, e.g. `methods.sqlm`.
MODULES = {
  '.'.join(path.relative_to(ROOT).with_suffix('').parts): path
  for path in sorted(ROOT.rglob('*.py'))
}


def imported(source, package, modules):
  """Modules of jaxdistill that a source imports, anywhere in it.

  Args:
    source: Python text.
    package: Names that relative imports start from, e.g. `('data',)`.
    modules: Names of all modules; packages are `NAME.__init__`.

  Returns:
    Names without `jaxdistill.`; a package, or the name of something inside a
    module, counts as the module or package.
  """
  found = set()

  def add(parts):
    while parts and '.'.join(parts) not in modules:
      if '.'.join((*parts, '__init__')) in modules:
        break
      parts = parts[:-1]
    if parts:
      found.add('.'.join(parts))

  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      for alias in node.names:
        if alias.name.startswith('jaxdistill.'):
          add(tuple(alias.name.split('.')[1:]))
    elif isinstance(node, ast.ImportFrom):
      parts = tuple(node.module.split('.')) if node.module else ()
      if node.level:
        parts = (*package[: len(package) + 1 - node.level], *parts)
      elif parts[:1] != ('jaxdistill',):
        continue
      else:
        parts = parts[1:]
      for alias in node.names:
        add((*parts, alias.name))
  return found


def edges(module):
  package = tuple(module.split('.')[:-1])
  return imported(MODULES[module].read_text(), package, MODULES)


def covers(entry, target):
  return target == entry or target.startswith(f'{entry}.')


@pytest.mark.parametrize(
  ('source', 'found'),
  [
    ('import jaxdistill.batch', {'batch'}),
    ('import jaxdistill.batch as b, os', {'batch'}),
    ('from jaxdistill import dist', {'dist'}),
    ('from jaxdistill import losses, rewards', {'losses', 'rewards'}),
    ('from jaxdistill.dist import mesh, RULES', {'dist.mesh', 'dist'}),
    ('from jaxdistill.models.store import find as f', {'models.store'}),
    ('from jaxdistill.types import Row, Task', {'types'}),
    ('def f():\n  from jaxdistill.run import loop', {'run.loop'}),
    ('class C:\n  import jaxdistill.run.loop', {'run.loop'}),
    ('if TYPE_CHECKING:\n  from jaxdistill.batch import Batch', {'batch'}),
    ('from . import text', {'data.text'}),
    ('from .text.chat import render', {'data.text.chat'}),
    ('from .. import types', {'types'}),
    ('from ..models.store import find', {'models.store'}),
    ('import os, jax\nfrom numpy import types', set()),
    ("'from jaxdistill.run import loop'", set()),
  ],
)
def test_the_walk_finds_imports(source, found):
  assert imported(source, ('data',), MODULES) == found


def test_the_walk_finds_what_is_known():
  assert 'checkpoint' in edges('run.workdir')
  assert 'data.builders' in edges('data.tasks.small')  # inside a function
  assert 'methods.method' in edges('run.run')
  assert 'plots' in edges('cli.plot')
  assert 'api' in edges('__init__')


def rooms(module):
  """A folder, or a module of the root."""
  return module.split('.')[0]


def in_order(graph):
  """Each after all that it needs; a circle is a CycleError."""
  return [*graphlib.TopologicalSorter(graph).static_order()]


def test_no_module_needs_one_that_needs_it():
  graph = {m: {t for t in edges(m) if t != m} for m in MODULES}
  # A package stands for what it names.
  packages = {m.removesuffix('.__init__'): m for m in MODULES if '.' in m}
  graph = {
    m: {packages.get(t, t) for t in targets} - {m}
    for m, targets in graph.items()
  }
  assert {*in_order(graph)} >= graph.keys() == MODULES.keys()


def test_no_folder_needs_one_that_needs_it():
  graph = {}
  for module in MODULES:
    needs = {rooms(t) for t in edges(module)} - {rooms(module)}
    graph.setdefault(rooms(module), set()).update(needs)
  assert sorted(in_order(graph)) == sorted(graph)


def test_the_sorter_would_see_a_circle():
  graph = {'a': {'b'}, 'b': {'c'}, 'c': {'a'}}
  with pytest.raises(graphlib.CycleError):
    in_order(graph)


def test_the_table_knows_every_part():
  parts = {name.split('.')[0] for name in MODULES} - {'__init__'}
  assert parts == TABLE.keys() - {'__init__'}


@pytest.mark.parametrize('module', MODULES)
def test_imports_are_in_the_table(module):
  part = module.split('.')[0]
  allowed = (part, *TABLE[part], *EXTRA.get(module, ()))
  broken = {t for t in edges(module) if not any(covers(a, t) for a in allowed)}
  assert not broken, f'{module} imports {broken}'


@pytest.mark.parametrize(
  'module', [m for m in MODULES if m.startswith('methods.')]
)
def test_methods_do_not_import_each_other(module):
  others = {t for t in edges(module) if covers('methods', t)}
  shared = {f'methods.{name}' for name in SHARED}
  assert others <= shared - {module}


@pytest.mark.parametrize('part', ['types', 'rewards', 'plots'])
def test_stays_free_of_jax(part):
  code = (
    f'import sys, jaxdistill.{part}\n'
    'print(*(m for m in sys.modules if m.split(".")[0] in ("jax", "jaxlib")))'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert done.stdout.split() == []


def test_the_free_check_would_see_jax():
  code = 'import sys, jaxdistill.losses; print("jax" in sys.modules)'
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == 'True'

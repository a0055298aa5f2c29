"""Tasks by name, from a file of problems, or from a file of Python."""

import importlib.util
import sys
import types
from collections.abc import Callable

from etils import epath

from jaxdistill.data.tasks import (
  arithmetic,
  equations,
  examples,
  passages,
  shop,
  sources,
  words,
)
from jaxdistill.data.tasks.files import JsonlTask
from jaxdistill.data.tasks.ranking import relevance_tasks
from jaxdistill.data.tasks.small import CORPORA, SmallTask
from jaxdistill.data.tasks.small_formats import FORMATS, FormatTask
from jaxdistill.data.tasks.small_pools import POOLS, PoolTask
from jaxdistill.spelling import among, nearest
from jaxdistill.types import Task

SMALL: dict[str, Task] = {
  'small': SmallTask(),
  **{f'small:{corpus}': SmallTask(corpus) for corpus in CORPORA},
  **{f'small:{name}': FormatTask(name) for name in FORMATS},
  'small:passages': passages.SmallPassages(),
  **relevance_tasks(),
  **{f'small:{name}': PoolTask(pool=name) for name in POOLS},
}
# The first part of a name -> who reads the rest of it.
FAMILIES: dict[str, Callable[[str], Task]] = {
  'arithmetic': arithmetic.read_name,
  'equations': equations.read_name,
  'words': words.read_name,
  'shop': shop.read_name,
  'passages': passages.read_name,
  'gym': sources.gym_task,
  'tfds': sources.tfds_task,
}


def load_task(name: str) -> Task:
  """A task by its name.

  Args:
    name: One of these:

      * `small`, the small world, and `small:corpus`, `small:wide`,
        `small:judging`, `small:foreign`, its documents (`SmallTask`);
      * `small:narrow`, `small:broad`: the same with other problems to train on
        (`PoolTask`);
      * `small:compare`, `small:revise`, `small:facts`, `small:relevance`: its
        other formats (`FormatTask`), for a model that knows them; the last
        with `:narrow` or `:broad`: trained on fewer or more kinds of queries;
      * `small:passages`: passages about its people, with questions on each;
      * `passages`, `passages:FILE.jsonl`: the same in words, of invented people
        or of a file (`JsonlPassages`);
      * `arithmetic:OP:DIGITS[:think]`, e.g. `arithmetic:mul:3,3`;
      * `equations:1`, `equations:2`: linear equations, by unknowns;
      * `words`: word problems from templates;
      * `shop[:narrow|:broad]`: queries with graded items, in words;
      * `gym:NAME`: a generator of reasoning-gym;
      * `tfds:NAME[/CONFIG]`: a data set of TFDS;
      * `examples:COUNT:TASK`: any of these, with solved problems in the prompt;
      * a `.jsonl` or `.parquet` file (`JsonlTask`);
      * a `.py` file that defines `task`, an object with the members of
        `types.Task`.

  Raises:
    ValueError: There is no such task; the nearest is named.
  """
  if name in SMALL:
    return SMALL[name]
  if name.startswith('examples:'):
    return examples.read_name(name, load_task)
  if name.startswith('passages:'):
    return passages.read_name(name)
  if name.endswith(('.jsonl', '.parquet')):
    return JsonlTask(name)
  if name.endswith('.py'):
    return _python_task(name)
  family = name.partition(':')[0]
  if family in FAMILIES:
    return FAMILIES[family](name)
  formats = {one.partition(':')[2]: one for one in SMALL if ':' in one}
  near = nearest(name.removeprefix('small-'), formats, 0.8)
  short = ('small', 'small:corpus', *FAMILIES, 'examples')
  known = among(name, SMALL if name.startswith('small:') else short)
  if near and not name.startswith('small:'):
    known = f'; the nearest is {formats[near]!r}'
  raise ValueError(
    f'there is no task {name!r}{known} (or a .jsonl, .parquet or .py file)'
  )


def _python_task(path: str) -> Task:
  found = getattr(python_file(path), 'task', None)
  if not isinstance(found, Task):
    missing = [
      m for m in vars(Task) if not m.startswith('_') and not hasattr(found, m)
    ]
    raise ValueError(
      f'{path} must define `task`, an object with the members of a Task (as a '
      'class whose base is `types.Task` has; most have a default); it lacks '
      + ', '.join(missing)
    )
  return found


def python_file(path: str) -> types.ModuleType:
  """What a user's file of Python defines.

  Raises:
    ValueError: There is no such file, or it does not run.
  """
  spec = importlib.util.spec_from_file_location(
    f'jaxdistill_file_{epath.Path(path).stem}', path
  )
  if not epath.Path(path).exists():
    raise ValueError(f'there is no file {path!r}')
  if epath.Path(path).is_dir():
    raise ValueError(f'{path!r} is a folder, not a Python file')
  if spec is None or spec.loader is None:
    raise ValueError(f'{path!r} is not a Python file')
  module = importlib.util.module_from_spec(spec)
  sys.modules[spec.name] = module  # dataclasses look themselves up
  try:
    spec.loader.exec_module(module)
  except (Exception, SystemExit) as e:  # anything may be wrong in it
    raise ValueError(f'{path}: {type(e).__name__}: {e}') from None
  return module

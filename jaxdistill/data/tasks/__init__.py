"""Where problems come from: a task a file, found by name."""

from jaxdistill.data.tasks.files import JsonlTask
from jaxdistill.data.tasks.load import load_task, python_file
from jaxdistill.data.tasks.problems import HELD_OUT, right
from jaxdistill.data.tasks.ranking import Item, Ranking
from jaxdistill.data.tasks.small import SmallTask

__all__ = [
  'HELD_OUT',
  'Item',
  'JsonlTask',
  'Ranking',
  'SmallTask',
  'load_task',
  'python_file',
  'right',
]

"""The files of configs/, by what their models know and give."""

import pathlib

from jaxdistill import config as configs
from jaxdistill.config import Comparison
from jaxdistill.data.tasks import python_file

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = str(ROOT / 'configs' / 'sqlm_small.py')


def _base(path: pathlib.Path):
  config = python_file(str(path)).get_config()
  return config.base if isinstance(config, Comparison) else config


def compares(path: pathlib.Path) -> bool:
  """Whether a file is a comparison."""
  return isinstance(python_file(str(path)).get_config(), Comparison)


def _of_text(path: pathlib.Path) -> bool:
  config = _base(path)
  named = config.task.partition(':')[0]
  return config.model.startswith('hf:') or named != 'small'


FILES = sorted((ROOT / 'configs').glob('*.py'))
# Models that grade are asked nothing that the others are.
GRADE = [p for p in FILES if _base(p).model.startswith('grader:')]
TEXT = [path for path in FILES if path not in GRADE and _of_text(path)]
SMALL = [path for path in FILES if path not in (*GRADE, *TEXT)]


def small_config(**overrides):
  """CONFIG with a fresh base and some values set, as a dict."""
  pairs = {'model': 'small-fresh'} | overrides
  return configs.read_config(CONFIG, pairs.items()).to_dict()

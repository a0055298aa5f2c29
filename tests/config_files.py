"""The files of configs/, by whether they need a model that knows words."""

import pathlib

from jaxdistill import config as configs
from jaxdistill.config import Comparison
from jaxdistill.data.tasks import python_file

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = str(ROOT / 'configs' / 'sqlm_small.py')


def _of_text(path: pathlib.Path) -> bool:
  config = python_file(str(path)).get_config()
  config = config.base if isinstance(config, Comparison) else config
  named = config.task.partition(':')[0]
  return config.model.startswith('hf:') or named != 'small'


FILES = sorted((ROOT / 'configs').glob('*.py'))
TEXT = [path for path in FILES if _of_text(path)]
SMALL = [path for path in FILES if path not in TEXT]


def small_config(**overrides):
  """CONFIG with a fresh base and some values set, as a dict."""
  pairs = {'model': 'small-fresh'} | overrides
  return configs.read_config(CONFIG, pairs.items()).to_dict()

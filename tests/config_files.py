"""The files of configs/, by whether they need a model that knows words."""

import pathlib

from jaxdistill.config import Comparison
from jaxdistill.data.tasks import python_file

ROOT = pathlib.Path(__file__).parents[1]


def _of_text(path: pathlib.Path) -> bool:
  config = python_file(str(path)).get_config()
  config = config.base if isinstance(config, Comparison) else config
  named = config.task.partition(':')[0]
  return config.model.startswith('hf:') or named != 'small'


FILES = sorted((ROOT / 'configs').glob('*.py'))
TEXT = [path for path in FILES if _of_text(path)]
SMALL = [path for path in FILES if path not in TEXT]

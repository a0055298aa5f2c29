"""Files and folders that a config names."""

import os
import re
from typing import Any

_FILES = '.py', '.jsonl', '.parquet'
# What may stand before the file of a task, see `data.tasks.load_task`.
_BEFORE_FILE = re.compile(r'^(?:examples:[^:]*:|passages:)*')


def make_absolute(config: Any) -> None:
  """Lets the run be asked from any folder: its files are named in full."""
  with config.unlocked():
    file = _BEFORE_FILE.sub('', config.task, count=1)
    config.task = config.task.removesuffix(file) + _file(file)
    config.method.name = _file(config.method.name)
    config.model = _folder(config.model)
    for section in (config.method, config.anchors):
      for key, value in section.items():
        if isinstance(value, str) and value.startswith('model:'):
          section[key] = 'model:' + _folder(value.removeprefix('model:'))
    if config.method.get('targets'):
      config.method.targets = _folder(config.method.targets)


def _file(name: str) -> str:
  local = name.endswith(_FILES) and '://' not in name
  return os.path.abspath(name) if local else name


def _folder(name: str) -> str:
  return os.path.abspath(name) if os.path.isdir(name) else name

"""Language models that improve themselves.

    import jaxdistill as jd

    print(jd.gap('small-late'))                           # will it help?
    result = jd.train('configs/sqlm_small.py', 'runs/a')  # as the command does
    print(result, result.model.ask('47+85'))

Nothing is imported before it is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from jaxdistill.api import (
    Answers,
    Compared,
    Comparison,
    ConfigError,
    Gap,
    Ladder,
    Model,
    Proposals,
    Result,
    Steps,
    Stopped,
    Targets,
    base_config,
    compare,
    context,
    gap,
    load,
    plot,
    steps,
    targets,
    task,
    train,
  )

__all__ = [
  'Answers',
  'Compared',
  'Comparison',
  'ConfigError',
  'Gap',
  'Ladder',
  'Model',
  'Proposals',
  'Result',
  'Steps',
  'Stopped',
  'Targets',
  'base_config',
  'compare',
  'context',
  'gap',
  'load',
  'plot',
  'steps',
  'targets',
  'task',
  'train',
]


def __getattr__(name: str) -> Any:
  if name not in __all__:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  from jaxdistill import api

  return getattr(api, name)


def __dir__() -> list[str]:
  return [*globals(), *__all__]

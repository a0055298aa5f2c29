"""What the sections of a config stand for."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from jaxdistill.config.keys import ConfigError, filled, method_class
from jaxdistill.eval import GuardConfig
from jaxdistill.methods.method import Method
from jaxdistill.models import Deltas
from jaxdistill.models.int8 import Formats
from jaxdistill.run.run import EvalConfig
from jaxdistill.types import Task


@contextlib.contextmanager
def refusing() -> Iterator[None]:
  """Turns what is wrong with a value into a `ConfigError`."""
  try:
    yield
  except (ValueError, FileNotFoundError) as e:
    raise ConfigError(str(e)) from None


def deltas_of(config: Any) -> Deltas:
  return Deltas(
    roles=method_of(config).roles,
    per_role=config.roles,
    lora=config.trainable == 'lora',
    rank=config.rank,
    alpha=config.alpha,
  )


def formats_of(config: Any) -> Formats:
  return Formats(*(config.rollout[name] for name in Formats._fields))


def method_of(config: Any) -> Method:
  """The method with the fields that `config.method` gives it.

  Raises:
    ConfigError: What is in a tuple is of another type.
    ValueError: The method refuses a value.
  """
  fields: dict[str, Any] = {  # JSON has made lists of tuples
    k: tuple(v) if isinstance(v, list) else v for k, v in config.method.items()
  }
  try:
    return filled(method_class(fields.pop('name')), fields)
  except TypeError as e:
    raise ConfigError(f'config.method: {e}') from None


def check_pool(pool: int, task: Task) -> None:
  """Finds that fewer problems are there than are to be trained on."""
  there = len(task.problems('train')) if pool else 0
  if pool > there:
    raise ConfigError(
      f'config.pool is {pool}; task {task.name} has {there} problems to train '
      'on (0 is all of them)'
    )


def eval_of(config: Any) -> EvalConfig:
  fields: dict[str, Any] = {  # JSON has made lists of tuples
    k: tuple(v) if isinstance(v, list) else v for k, v in config.eval.items()
  }
  return EvalConfig(**fields)


def guard_of(config: Any, task: Any) -> GuardConfig:
  """As configured; without a probe where no answers are known for one."""
  guard = GuardConfig(**config.guard)
  if not method_of(config).answers:
    return dataclasses.replace(guard, every=0)
  with contextlib.suppress(ValueError):
    if task.problems(guard.split)[0].answer is not None:
      return guard
  return dataclasses.replace(guard, every=0)

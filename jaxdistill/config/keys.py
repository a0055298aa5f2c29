"""What keys a config has, and how they are set."""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from typing import Any

from etils import epath
from ml_collections import ConfigDict, FieldReference

from jaxdistill import methods
from jaxdistill.batch import Shapes
from jaxdistill.data.tasks import python_file
from jaxdistill.eval import GuardConfig, alarms
from jaxdistill.methods.method import Method
from jaxdistill.models.int8 import Formats
from jaxdistill.models.remat import named
from jaxdistill.optimizer import OptimizerConfig
from jaxdistill.run.run import EvalConfig
from jaxdistill.spelling import among

# Files of no method.
SHARED = (
  *('method', 'policy_gradient', 'distillation', 'inner_training'),
  *('edit_writer', 'problem_set'),
)
NAMED = ('anchors', 'alarms')  # the user's own names, each with a line


class ConfigError(ValueError):
  """Input that cannot be right, said in one line."""


def method_class(name: str) -> type:
  """The dataclass in `methods/<name>.py`, or in the `.py` file of that name.

  Raises:
    ConfigError: There is no such file (the nearest is named), or what it
      defines is not a method.
  """
  names = method_names()
  if name.endswith('.py'):
    module, file = python_module(name), name
  elif name in names:
    file = f'methods/{name}.py'
    module = importlib.import_module(f'jaxdistill.methods.{name}')
  else:
    if of := [n for n in names if name in systems_of(n)]:
      raise ConfigError(
        f'{name!r} is a system of method {of[0]}: ask for a config with '
        f':{name} behind it, or override it with system({name!r})'
      )
    raise ConfigError(f'there is no method {name!r}{among(name, names)}')
  found = [
    value
    for value in vars(module).values()
    if inspect.isclass(value)
    and value.__module__ == module.__name__
    and dataclasses.is_dataclass(value)
    and hasattr(value, 'collect')
  ]
  if len(found) != 1:
    raise ConfigError(
      f'{file} must define one dataclass with `collect`; it has {len(found)}'
    )
  for field in dataclasses.fields(found[0]):
    if field.default is field.default_factory is dataclasses.MISSING:
      raise ConfigError(f'{file}: {field.name} needs a default')
  undone = getattr(found[0], '__abstractmethods__', ())
  for member in vars(Method):
    there = hasattr(found[0], member) and member not in undone
    if not member.startswith('_') and not there:
      raise ConfigError(f'{file} has no {member!r} (its base may be Method)')
  return found[0]


def method_names() -> list[str]:
  """Names of the methods that come with the package."""
  names = [m.name for m in pkgutil.iter_modules(methods.__path__)]
  return [name for name in names if name not in SHARED]


def systems_of(method: str) -> dict[str, dict[str, Any]]:
  """The published systems that the file of a method has, by name."""
  module = importlib.import_module(f'jaxdistill.methods.{method}')
  return getattr(module, 'SYSTEMS', {})


def python_module(path: str) -> Any:
  """What a file of Python defines.

  Raises:
    ConfigError: There is no such file (the nearest is named), or it does not
      run.
  """
  try:
    return python_file(path)
  except ValueError as e:
    file = epath.Path(path)
    others = file.parent.glob('*.py') if not file.exists() else []
    near = among(path, [str(p) for p in others])
    if not near and not file.exists():
      near = f' in {file.absolute().parent}'
    raise ConfigError(f'{e}{near}') from None


def base_config(method: str) -> ConfigDict:
  """Every key of a run, with its default.

  Args:
    method: A file of `methods/`; its fields become keys of `config.method`.
  """
  config: Any = ConfigDict(convert_dict=True)
  config.seed = 0
  config.steps = 60
  config.tokens = 0
  config.ahead = False
  config.foresee = True
  config.eval_every = 10
  config.checkpoint_every = 20
  config.keep_checkpoints = 2
  config.model = 'small-late'
  config.dtype = 'float32'
  # Of any type, because it was a truth value: `read.complete` names it.
  config.remat = FieldReference('none', field_type=object)
  config.attention = 'auto'
  config.trainable = 'full'
  config.roles = 'heads'
  config.rank = 16
  config.alpha = 16.0
  config.task = 'small'
  config.pool = 0
  config.think = False
  config.method = {'name': method} | fields_of(method_class(method)())
  config.optimizer = fields_of(OptimizerConfig())
  config.anchors = {'past': 'every:20'}
  config.keep_anchors = 0
  config.guard = fields_of(GuardConfig())
  config.alarms = dict(alarms.DEFAULTS)
  config.eval = fields_of(EvalConfig())
  config.batch = fields_of(Shapes())
  config.rollout = {'cache_gib': 0.0} | Formats()._asdict()
  config.mesh = {'data': -1, 'fsdp': 1, 'tensor': 1, 'context': 1}
  return config


def fields_of(instance: Any) -> dict[str, Any]:
  """The fields of a dataclass, and of those in it, as keys of a config."""
  out = {}
  for field in dataclasses.fields(instance):
    value = getattr(instance, field.name)
    inner = dataclasses.is_dataclass(value)
    out |= fields_of(value) if inner else {field.name: value}
  return out


def filled(kind: type, values: dict[str, Any]) -> Any:
  """The reverse of `fields_of`; other values than a field's are passed over."""
  given = {}
  for field in dataclasses.fields(kind):
    default = field.default
    if dataclasses.is_dataclass(default):
      given[field.name] = filled(type(default), fields_of(default) | values)
    elif field.name in values:
      given[field.name] = values.pop(field.name)
  return kind(**given)


def override(config: Any, overrides: Iterable[tuple[str, Any]]) -> None:
  """Sets keys of a config.

  Args:
    config: Changed in place.
    overrides: Keys (`method.samples`) and values, as written or as they are.
      A method's name is set first: it says which other keys there are.

  Raises:
    ConfigError: There is no such key (the nearest is named), or its type is
      another.
  """
  pairs = list(overrides)
  for key, value in sorted(pairs, key=lambda pair: pair[0] != 'method.name'):
    _override(config, key, value)


def _override(config: Any, key: str, text: Any) -> None:
  keys = flat(config)
  if key == 'method.name':
    known = fields_of(method_class(text)())
    kept = {k: v for k, v in config.method.items() if k in known}
    config.method = known | kept | {'name': text}
    return
  section, _, name = key.partition('.')
  if section in NAMED and name.isidentifier():
    config[section][name] = text
    return
  if key not in keys:
    whose = [
      method
      for method in (method_names() if section == 'method' else ())
      if name in fields_of(method_class(method)())
    ]
    own = ', '.join(k for k in config.method if k != 'name')
    of_method = f'; method {config.method.name} has {own}'
    if whose:
      raise ConfigError(
        f'method {config.method.name} has no {name!r}, a key of '
        f'{", ".join(whose)}{of_method}'
      )
    raise ConfigError(
      f'there is no config key {key!r}{among(key, keys)}'
      + (of_method if section == 'method' else '')
    )
  if key == 'remat':
    text = named(text == 'True' if text in ('True', 'False') else text)
  default = keys[key]
  kind = type(default).__name__
  try:
    as_is = isinstance(default, str) or not isinstance(text, str)
    value = text if as_is else ast.literal_eval(text)
  except (ValueError, SyntaxError, TypeError):
    raise ConfigError(f'config.{key} must be {kind}, not {text!r}') from None
  if isinstance(default, float) and type(value) is int:
    value = float(value)
  if type(value) is not type(default):
    raise ConfigError(f'config.{key} must be {kind}, not {text!r}')
  with config.unlocked():
    parent, _, leaf = key.rpartition('.')
    (config[parent] if parent else config)[leaf] = value


def flat(config: Any, prefix: str = '') -> dict[str, Any]:
  """Every key of a config with its value, sections by dots."""
  out = {}
  for key, value in config.items():
    inner = isinstance(value, ConfigDict)
    out |= flat(value, f'{prefix}{key}.') if inner else {prefix + key: value}
  return out

"""A run's config: complete defaults, checked overrides, and what it builds.

Bad input ends in a `ConfigError`: one line that names the key or value and the
nearest right one.
"""

import ast
import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import math
import pkgutil
from collections.abc import Iterable
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jaxdistill import dist, methods
from jaxdistill.anchors import parse_rule
from jaxdistill.batch import Shapes
from jaxdistill.data.tasks import HELD_OUT, load_task
from jaxdistill.methods.method import Method
from jaxdistill.models import Deltas, load
from jaxdistill.models.store import FRESH, find
from jaxdistill.run import EvalConfig, Run
from jaxdistill.step import OptimizerConfig


class ConfigError(ValueError):
  """Input that cannot be right, said in one line."""


def method_class(name: str) -> type:
  """The dataclass in `methods/<name>.py`.

  Raises:
    ConfigError: There is no such file (the nearest is named), or what it
      defines is not a method.
  """
  names = [m.name for m in pkgutil.iter_modules(methods.__path__)]
  names.remove('method')
  if name not in names:
    raise ConfigError(f'there is no method {name!r}{_nearest(name, names)}')
  module = importlib.import_module(f'jaxdistill.methods.{name}')
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
      f'methods/{name}.py must define one dataclass with `collect`; it has '
      f'{len(found)}'
    )
  for field in dataclasses.fields(found[0]):
    if field.default is field.default_factory is dataclasses.MISSING:
      raise ConfigError(f'methods/{name}.py: {field.name} needs a default')
  for member in vars(Method):
    if not member.startswith('_') and not hasattr(found[0], member):
      raise ConfigError(f'methods/{name}.py has no {member!r}')
  return found[0]


def base_config(method: str) -> ConfigDict:
  """Every key of a run, with its default.

  Args:
    method: A file of `methods/`; its fields become keys of `config.method`.
  """
  config: Any = ConfigDict(convert_dict=True)
  config.seed = 0
  config.steps = 60
  config.eval_every = 10
  config.checkpoint_every = 20
  config.keep_checkpoints = 2
  config.model = 'small-late'
  config.dtype = 'float32'
  config.trainable = 'full'
  config.roles = 'heads'
  config.rank = 16
  config.alpha = 16.0
  config.task = 'small'
  config.method = {'name': method} | _fields(method_class(method)())
  config.optimizer = _fields(OptimizerConfig())
  config.anchors = {'past': 'every:20'}
  config.keep_anchors = 0
  config.eval = _fields(EvalConfig())
  config.batch = _fields(Shapes())
  config.max_prompts = 512
  config.mesh = {'data': -1, 'fsdp': 1, 'tensor': 1}
  return config


def _fields(instance: Any) -> dict[str, Any]:
  return {
    f.name: getattr(instance, f.name) for f in dataclasses.fields(instance)
  }


def read_config(path: str, overrides: Iterable[tuple[str, str]]) -> ConfigDict:
  """The config of a file, with overrides applied.

  Args:
    path: A Python file with `get_config()`.
    overrides: Keys (`method.samples`) and values as written.

  Raises:
    ConfigError: No such file, key, or type.
  """
  file = epath.Path(path)
  if not file.exists():
    others = file.parent.glob('*.py') if file.parent.exists() else []
    names = [str(p) for p in others]
    raise ConfigError(f'no config file {path!r}{_nearest(path, names)}')
  spec = importlib.util.spec_from_file_location('jaxdistill_config', path)
  if spec is None or spec.loader is None:
    raise ConfigError(f'{path!r} is not a Python file')
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    config = module.get_config()
  except ConfigError:
    raise
  except Exception as e:  # it is the user's code: anything may be wrong in it
    raise ConfigError(f'{path}: {type(e).__name__}: {e}') from None
  if not isinstance(config, ConfigDict):
    raise ConfigError(f'{path}: get_config() must return a ConfigDict')
  pairs = list(overrides)
  for key, value in sorted(pairs, key=lambda pair: pair[0] != 'method.name'):
    _override(config, key, value)
  return config


def _override(config: Any, key: str, text: str) -> None:
  flat = _flat(config)
  if key == 'method.name':
    fields = _fields(method_class(text)())
    kept = {k: v for k, v in config.method.items() if k in fields}
    config.method = fields | kept | {'name': text}
    return
  section, _, name = key.partition('.')
  if section == 'anchors' and name.isidentifier():
    config.anchors[name] = text
    return
  if key not in flat:
    raise ConfigError(f'there is no config key {key!r}{_nearest(key, flat)}')
  default = flat[key]
  kind = type(default).__name__
  try:
    value = text if isinstance(default, str) else ast.literal_eval(text)
  except (ValueError, SyntaxError, TypeError):
    raise ConfigError(f'config.{key} must be {kind}, not {text!r}') from None
  if isinstance(default, float) and type(value) is int:
    value = float(value)
  if type(value) is not type(default):
    raise ConfigError(f'config.{key} must be {kind}, not {text!r}')
  with config.unlocked():
    parent, _, leaf = key.rpartition('.')
    (config[parent] if parent else config)[leaf] = value


def _flat(config: Any, prefix: str = '') -> dict[str, Any]:
  out = {}
  for key, value in config.items():
    inner = isinstance(value, ConfigDict)
    out |= _flat(value, f'{prefix}{key}.') if inner else {prefix + key: value}
  return out


def _nearest(name: str, known: Iterable[str]) -> str:
  near = difflib.get_close_matches(name, list(known), 1, 0)
  return f'; the nearest is {near[0]!r}' if near else ''


_MAY_BE_ZERO = (
  *('seed', 'alpha', 'keep_anchors', 'mesh.data', 'method.propose_every'),
  *('method.top_k', 'method.clip', 'method.kl'),
  *('optimizer.warmup', 'optimizer.steps', 'optimizer.weight_decay'),
  *('optimizer.b1', 'optimizer.b2'),
)


def check(config: Any) -> None:
  """Finds what is wrong with a config before anything is built or written.

  Raises:
    ConfigError: Names the key, the value and what it should be.
  """
  flat = _flat(config)
  wanted = _flat(base_config(config.method.name))
  for key in flat:
    if key not in wanted and not key.startswith('anchors.'):
      raise ConfigError(
        f'there is no config key {key!r}{_nearest(key, wanted)}'
      )
  for key, value in wanted.items():
    if key not in flat and not key.startswith('anchors.'):
      raise ConfigError(f'config.{key} is missing')
    kinds = (int, float) if isinstance(value, float) else (type(value),)
    if isinstance(value, tuple):
      kinds = (tuple, list)
    if key in flat and not isinstance(flat[key], kinds):
      kind = type(value).__name__
      raise ConfigError(f'config.{key} must be {kind}, not {flat[key]!r}')
  for key, value in flat.items():
    if isinstance(value, bool) or not isinstance(value, int | float):
      continue
    if not math.isfinite(value):
      raise ConfigError(f'config.{key} is {value}; it must be finite')
    if value < 0 and key != 'mesh.data':
      raise ConfigError(f'config.{key} is {value}; it must not be negative')
    if value == 0 and key not in _MAY_BE_ZERO:
      raise ConfigError(f'config.{key} is 0; it must be positive')
  for key in ('optimizer.b1', 'optimizer.b2'):
    if flat[key] >= 1:
      raise ConfigError(f'config.{key} is {flat[key]}; it must be below 1')
  if not 0 <= config.seed < 2**32:
    raise ConfigError(f'config.seed is {config.seed}; it must be below 2**32')
  for split in config.eval.splits or ('',):
    if split not in HELD_OUT:
      near = _nearest(str(split), HELD_OUT)
      raise ConfigError(f'config.eval.splits has {split!r}{near}')
  for key, allowed in (
    ('trainable', ('full', 'lora')),
    ('dtype', ('float32', 'bfloat16')),
  ):
    if flat[key] not in allowed:
      near = _nearest(flat[key], allowed)
      raise ConfigError(f'config.{key} is {flat[key]!r}{near}')
  try:
    _deltas(config)
    method = _method(config)
    OptimizerConfig(**config.optimizer).learning_rate()
    task = load_task(config.task)
    if config.method.name != 'sft' and task.name == 'small:corpus':
      raise ConfigError(
        f'method {config.method.name!r} needs problems; task small:corpus has '
        "documents (use 'small')"
      )
    for name, rule in {**config.anchors, **method.anchors}.items():
      parse_rule(rule)
      if not name.isidentifier() or name == 'policy':
        raise ConfigError(f'an anchor cannot be called {name!r}')
    for name in config.anchors:
      if name in method.anchors:
        raise ConfigError(
          f'config.anchors.{name} belongs to the method; its rule is set by '
          'config.method.reference'
        )
    if config.model != FRESH:
      find(config.model)
  except (ValueError, FileNotFoundError) as e:
    raise ConfigError(str(e)) from None


def _deltas(config: Any) -> Deltas:
  return Deltas(
    per_role=config.roles,
    lora=config.trainable == 'lora',
    rank=config.rank,
    alpha=config.alpha,
  )


def _method(config: Any) -> Any:
  fields = dict(config.method)
  return method_class(fields.pop('name'))(**fields)


def _eval(config: Any) -> EvalConfig:
  fields: dict[str, Any] = dict(config.eval)
  fields['splits'] = tuple(fields['splits'])
  return EvalConfig(**fields)


def build(config: Any) -> Run:
  """What a checked config describes; loads the model."""
  try:
    mesh = dist.make_mesh(**config.mesh)
    loaded = load(
      config.model, _deltas(config), dtype=config.dtype, seed=config.seed
    )
  except ValueError as e:
    raise ConfigError(str(e)) from None
  return Run(
    seed=config.seed,
    steps=config.steps,
    eval_every=config.eval_every,
    checkpoint_every=config.checkpoint_every,
    keep_checkpoints=config.keep_checkpoints,
    keep_anchors=config.keep_anchors,
    trainable=config.trainable,
    method=_method(config),
    task=load_task(config.task),
    loaded=loaded,
    optimizer=OptimizerConfig(**config.optimizer),
    shapes=Shapes(**config.batch),
    max_prompts=config.max_prompts,
    mesh=mesh,
    anchors=dict(config.anchors),
    eval=_eval(config),
  )

"""A run's config: complete defaults, checked overrides, and what it builds.

Bad input ends in a `ConfigError`: one line that names the key or value and the
nearest right one.
"""

import ast
import contextlib
import dataclasses
import importlib
import inspect
import math
import os
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from jaxdistill import dist, memory, methods
from jaxdistill.anchors import Best, Trust, parse_rule
from jaxdistill.batch import Shapes
from jaxdistill.data.tasks import (
  HELD_OUT,
  JsonlTask,
  load_task,
  python_file,
  right,
)
from jaxdistill.data.tokenizer import SymbolTokenizer, ending_for
from jaxdistill.eval import METRICS, GuardConfig, alarms, parse_alarm
from jaxdistill.methods.method import Method
from jaxdistill.models import Deltas, load, store
from jaxdistill.names import among
from jaxdistill.run import EvalConfig, Run
from jaxdistill.step import OptimizerConfig


class ConfigError(ValueError):
  """Input that cannot be right, said in one line."""


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Arms to be compared under one budget; what `jaxdistill compare` runs.

  Attributes:
    base: A run's config, with `tokens` set: what each run may generate.
    arms: Name -> the keys that it changes (`{'method.samples': 4}`); the first
      is the one that the others are held against.
    seeds: For each arm, or by arm where they differ: `{'a': (0, 1), ...}`.
  """

  base: ConfigDict
  arms: Mapping[str, Mapping[str, Any]]
  seeds: Sequence[int] | Mapping[str, Sequence[int]]

  def seeds_of(self, arm: str) -> tuple[int, ...]:
    """The seeds of an arm."""
    if isinstance(self.seeds, Mapping):
      return tuple(self.seeds[arm])
    return tuple(self.seeds)

  def config(self, arm: str, seed: int) -> ConfigDict:
    """The config of one run."""
    config = ConfigDict(self.base.to_dict(), convert_dict=True)
    override(config, self.arms[arm].items())
    config.seed = seed
    return config


# What self-play is held against: each undoes one part of `sqlm`.
CONTROLS: dict[str, dict[str, Any]] = {
  'known_answers': {'method.solver_reward': 'known'},
  'frozen_proposer': {'method.propose_every': 0},
  'fixed_bank': {'method.propose_every': 0, 'method.bank': 1536},
  'format_only': {
    'method.solver_reward': 'format',
    'method.proposer_reward': 'valid',
  },
  'random_reward': {
    'method.solver_reward': 'random',
    'method.propose_every': 0,
  },
}


def method_class(name: str) -> type:
  """The dataclass in `methods/<name>.py`, or in the `.py` file of that name.

  Raises:
    ConfigError: There is no such file (the nearest is named), or what it
      defines is not a method.
  """
  names = [m.name for m in pkgutil.iter_modules(methods.__path__)]
  names.remove('method')
  if name.endswith('.py'):
    module, file = _python_file(name), name
  elif name in names:
    file = f'methods/{name}.py'
    module = importlib.import_module(f'jaxdistill.methods.{name}')
  else:
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
  for member in vars(Method):
    if not member.startswith('_') and not hasattr(found[0], member):
      raise ConfigError(f'{file} has no {member!r}')
  return found[0]


def _python_file(path: str) -> Any:
  try:
    return python_file(path)
  except ValueError as e:
    file = epath.Path(path)
    others = file.parent.glob('*.py') if not file.exists() else []
    near = among(path, [str(p) for p in others])
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
  config.eval_every = 10
  config.checkpoint_every = 20
  config.keep_checkpoints = 2
  config.model = 'small-late'
  config.dtype = 'float32'
  config.remat = False
  config.trainable = 'full'
  config.roles = 'heads'
  config.rank = 16
  config.alpha = 16.0
  config.task = 'small'
  config.method = {'name': method} | _fields(method_class(method)())
  config.optimizer = _fields(OptimizerConfig())
  config.anchors = {'past': 'every:20'}
  config.keep_anchors = 0
  config.guard = _fields(GuardConfig())
  config.alarms = dict(alarms.DEFAULTS)
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
  config = _get_config(path)
  if isinstance(config, Comparison):
    raise ConfigError(f'{path} is a comparison: jaxdistill compare runs it')
  if not isinstance(config, ConfigDict):
    raise ConfigError(f'{path}: get_config() must return a ConfigDict')
  _check_frame(config)
  override(config, overrides)
  _make_absolute(config)
  return config


def read_comparison(
  path: str, overrides: Iterable[tuple[str, str]]
) -> Comparison:
  """The comparison of a file, with overrides applied to its base.

  Args:
    path: A Python file whose `get_config()` gives a `Comparison`.
    overrides: As for `read_config`; what an arm sets, it sets all the same.

  Raises:
    ConfigError: No such file, key, or type, or no arms or seeds.
  """
  found = _get_config(path)
  if not isinstance(found, Comparison):
    raise ConfigError(
      f'{path}: get_config() must return a Comparison (jaxdistill train runs '
      'single runs)'
    )
  if not found.arms or not found.seeds:
    raise ConfigError(f'{path}: a comparison needs arms and seeds')
  if (
    isinstance(found.seeds, Mapping) and found.seeds.keys() != found.arms.keys()
  ):
    odd = sorted({*found.seeds} ^ {*found.arms})
    raise ConfigError(f'{path}: arms and seeds differ in {", ".join(odd)}')
  overrides = list(overrides)
  if any(key == 'seed' for key, _ in overrides):
    raise ConfigError('config.seed: the seeds of a comparison are --seeds')
  _check_frame(found.base)
  override(found.base, overrides)
  _make_absolute(found.base)
  if not found.base.tokens:
    raise ConfigError(f'{path}: a comparison needs a budget, base.tokens')
  return found


def _make_absolute(config: Any) -> None:
  """Lets the run be asked from any folder: its files are named in full."""
  with config.unlocked():
    for section, key in ((config, 'task'), (config.method, 'name')):
      name = section[key]
      if name.endswith(('.py', '.jsonl', '.parquet')) and '://' not in name:
        section[key] = os.path.abspath(name)
    if os.path.isdir(config.model):
      config.model = os.path.abspath(config.model)


def _get_config(path: str) -> Any:
  module = _python_file(path)
  try:
    return module.get_config()
  except ConfigError:
    raise
  except (Exception, SystemExit) as e:  # it is the user's code
    raise ConfigError(f'{path}: {type(e).__name__}: {e}') from None


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
  flat = _flat(config)
  if key == 'method.name':
    fields = _fields(method_class(text)())
    kept = {k: v for k, v in config.method.items() if k in fields}
    config.method = fields | kept | {'name': text}
    return
  section, _, name = key.partition('.')
  if section in _NAMED and name.isidentifier():
    config[section][name] = text
    return
  if key not in flat:
    raise ConfigError(f'there is no config key {key!r}{among(key, flat)}')
  default = flat[key]
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


def _flat(config: Any, prefix: str = '') -> dict[str, Any]:
  out = {}
  for key, value in config.items():
    inner = isinstance(value, ConfigDict)
    out |= _flat(value, f'{prefix}{key}.') if inner else {prefix + key: value}
  return out


_NAMED = ('anchors', 'alarms')  # the user's own names, each with a line

# Besides the keys that are 0 by default, and the coefficients of methods.
_MAY_BE_ZERO = (
  *('alpha', 'mesh.data', 'method.propose_every'),
  *('guard.every', 'guard.errors', 'guard.rollbacks'),
  *('optimizer.b1', 'optimizer.b2'),
)


def check(config: Any) -> None:
  """Finds what is wrong with a config before anything is built or written.

  Raises:
    ConfigError: Names the key, the value and what it should be.
  """
  _check_frame(config)
  flat = _flat(config)
  wanted = _flat(base_config(config.method.name))
  for key in flat:
    if key not in wanted and key.partition('.')[0] not in _NAMED:
      raise ConfigError(f'there is no config key {key!r}{among(key, wanted)}')
  for key, value in wanted.items():
    if key not in flat and key.partition('.')[0] not in _NAMED:
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
    if key.startswith('method.') and config.method.name.endswith('.py'):
      continue  # its own __post_init__ knows
    if isinstance(value, int) and value >= 2**31 and key != 'seed':
      raise ConfigError(f'config.{key} is {value}; it must be below 2**31')
    if not math.isfinite(value):
      raise ConfigError(f'config.{key} is {value}; it must be finite')
    if value < 0 and key != 'mesh.data':
      raise ConfigError(f'config.{key} is {value}; it must not be negative')
    coefficient = key.startswith('method.') and isinstance(value, float)
    coefficient &= key != 'method.temperature'  # greedy: nothing to compare
    zero = coefficient or not wanted.get(key) or key in _MAY_BE_ZERO
    if value == 0 and not zero:
      raise ConfigError(f'config.{key} is 0; it must be positive')
  for key in ('optimizer.b1', 'optimizer.b2'):
    if flat[key] >= 1:
      raise ConfigError(f'config.{key} is {flat[key]}; it must be below 1')
  if not 0 <= config.seed < 2**32:
    raise ConfigError(f'config.seed is {config.seed}; it must be below 2**32')
  if len(set(config.eval.splits)) < len(config.eval.splits):
    raise ConfigError(f'config.eval.splits has one twice: {config.eval.splits}')
  for split in config.eval.splits or ('',):
    if split not in HELD_OUT:
      near = among(str(split), HELD_OUT)
      raise ConfigError(f'config.eval.splits has {split!r}{near}')
  for key, allowed in (
    ('guard.split', ('train', *HELD_OUT)),
    ('trainable', ('full', 'lora')),
    ('dtype', ('float32', 'bfloat16')),
  ):
    if flat[key] not in allowed:
      near = among(flat[key], allowed)
      raise ConfigError(f'config.{key} is {flat[key]!r}{near}')
  try:
    _deltas(config)
    try:
      method = _method(config)
    except TypeError as e:  # what is in a tuple is of another type
      raise ConfigError(f'config.method: {e}') from None
    OptimizerConfig(**config.optimizer).learning_rate()
    task = load_task(config.task)
    if config.method.name != 'sft' and task.name == 'small:corpus':
      raise ConfigError(
        f'method {config.method.name!r} needs problems; task small:corpus has '
        "documents (use 'small')"
      )
    if isinstance(task, JsonlTask):  # read at once; data sets are made later
      _check_lines(task, config)
    for name, text in {**config.anchors, **method.anchors}.items():
      rule = parse_rule(text)
      if isinstance(rule, Trust) and name not in method.anchors:
        raise ConfigError(
          f'anchor {name} has rule {text!r}, but the divergence is measured '
          f"from the method's own anchors only: {', '.join(method.anchors)}"
        )
      if isinstance(rule, Best):
        _check_metric(text, rule.metric, config)
      if not name.isidentifier() or name == 'policy':
        raise ConfigError(f'an anchor cannot be called {name!r}')
    for name in config.anchors:
      if name in method.anchors:
        raise ConfigError(
          f'config.anchors.{name} belongs to the method, whose keys set its '
          'rule; choose another name'
        )
    if 'guard' in {**config.anchors, **method.anchors}:
      raise ConfigError("the anchor 'guard' is the guard's own")
    for name, alarm in config.alarms.items():
      if parse_alarm(alarm) is None and name not in alarms.DEFAULTS:
        raise ConfigError(
          f'config.alarms.{name} is off, and there is no such alarm'
          + among(name, alarms.DEFAULTS)
        )
    if config.guard.every and config.guard.samples < 2:
      raise ConfigError(
        f'config.guard.samples is {config.guard.samples}; a vote needs 2'
      )
    store.check(config.model)
    _check_lengths(config)
  except (ValueError, FileNotFoundError) as e:
    raise ConfigError(str(e)) from None


def _check_frame(config: Any) -> None:
  """Finds that what names the rest is not there, or no text."""
  flat = _flat(config)
  for key in ('method.name', 'task', 'model'):
    if not isinstance(flat.get(key), str):
      known = 'missing' if key not in flat else repr(flat[key])
      raise ConfigError(
        f'config.{key} is {known}; it must be str (base_config has every key)'
      )


def _check_lengths(config: Any) -> None:
  """Finds answers that are longer than all that a model has positions for."""
  most = store.positions(config.model)
  for section in (config.method, config.eval):
    for key, value in section.items():
      if most and key.endswith('_tokens') and value > most:
        name = 'eval' if section is config.eval else 'method'
        raise ConfigError(
          f'config.{name}.{key} is {value}; {config.model} has {most} positions'
        )


def _check_lines(task: JsonlTask, config: Any) -> None:
  for split in config.eval.splits:
    task.problems(split)
  problems: Any = task.problems('train')
  name = config.method.name
  if name == 'sft' and any(p.demonstration is None for p in problems):
    raise ConfigError(
      f'method sft needs a "response" in each line of {task.path}'
    )
  if name == 'sqlm':
    for p in problems:
      if not p.topic and task.proposer_prompt(p) != task.proposer_prompt(
        dataclasses.replace(p, topic='?')
      ):
        raise ConfigError(
          f'method sqlm asks for a "topic"; {task.path} has none for {p.text!r}'
        )
  untold = [p.text for p in problems if p.answer is None]
  if name == 'grpo' and task.pays is right and untold:
    raise ConfigError(
      f'method grpo pays by the known answer; {task.path} has none for '
      f'{untold[0]!r}'
    )


def _check_metric(rule: str, metric: str, config: Any) -> None:
  split, _, name = metric.partition('/')
  more_is_better = [n for n in METRICS if 'accuracy' in n]
  if split not in config.eval.splits or name not in more_is_better:
    measured = [f'{s}/{n}' for s in config.eval.splits for n in more_is_better]
    near = among(metric, measured)
    if split in HELD_OUT and split not in config.eval.splits:
      near = f'; eval.splits, {tuple(config.eval.splits)}, lacks {split!r}'
    raise ConfigError(f'anchor rule {rule!r}: that is not measured{near}')


def _deltas(config: Any) -> Deltas:
  return Deltas(
    per_role=config.roles,
    lora=config.trainable == 'lora',
    rank=config.rank,
    alpha=config.alpha,
  )


def _method(config: Any) -> Any:
  fields: dict[str, Any] = {  # JSON has made lists of tuples
    k: tuple(v) if isinstance(v, list) else v for k, v in config.method.items()
  }
  return method_class(fields.pop('name'))(**fields)


def _eval(config: Any) -> EvalConfig:
  fields: dict[str, Any] = dict(config.eval)
  fields['splits'] = tuple(fields['splits'])
  return EvalConfig(**fields)


def _guard(config: Any, task: Any) -> GuardConfig:
  """As configured; without a probe where the task has no problems for it."""
  guard = GuardConfig(**config.guard)
  try:
    task.problems(guard.split)
  except ValueError:
    return dataclasses.replace(guard, every=0)
  return guard


def _check_symbols(task: Any, tokenizer: SymbolTokenizer, config: Any) -> None:
  """Finds a problem that the shipped bases have no symbols for."""
  for split in ('train', *config.eval.splits):
    problems = task.problems(split)
    few = isinstance(task, JsonlTask)  # others are all of one kind
    for i in range(len(problems) if few else 1):
      tokenizer.encode(task.solver_prompt(problems[i]))


def prepare(config: Any) -> None:
  """Makes the data set, and finds a task that does not fit the method.

  For who trains, before `build`. One process makes what several may share; what
  is wrong is found by all of them, so that none waits for another.

  Raises:
    ConfigError: Says what does not fit.
  """
  _check_memory(config, trains=True)
  task = load_task(config.task)
  if jax.process_index() == 0:
    with contextlib.suppress(ValueError):
      for split in ('train', *config.eval.splits):
        task.problems(split)
  dist.barrier('data is made')
  try:
    for split in config.eval.splits:
      task.problems(split)
    first, name = task.problems('train')[0], config.method.name
    if name == 'sqlm':
      task.proposer_prompt(first)
    if name == 'sft' and first.demonstration is None:
      raise ValueError(f'method sft needs responses; task {task.name} has none')
  except ValueError as e:
    raise ConfigError(str(e)) from None


def _check_memory(config: Any, trains: bool) -> None:
  try:
    memory.check(
      store.describe(config.model),
      _deltas(config),
      dist.make_mesh(**config.mesh),
      trainable=config.trainable,
      dtype=config.dtype,
      trains=trains,
      anchors=len(_method(config).anchors),
    )
  except ValueError as e:
    raise ConfigError(str(e)) from None


def build(config: Any) -> Run:
  """What a checked config describes; loads the model."""
  _check_memory(config, trains=False)
  try:
    task = load_task(config.task)
    mesh = dist.make_mesh(**config.mesh)
    with jax.set_mesh(mesh):
      loaded = load(
        config.model,
        _deltas(config),
        dtype=config.dtype,
        # What moves is float32, so that small steps are not rounded away.
        trunk_dtype='float32' if config.trainable == 'full' else config.dtype,
        remat=config.remat,
        seed=config.seed,
        mesh=mesh,
      )
    if isinstance(loaded.tokenizer, SymbolTokenizer):
      _check_symbols(task, loaded.tokenizer, config)
    tokenizer = ending_for(task, loaded.tokenizer)
    loaded = dataclasses.replace(loaded, tokenizer=tokenizer)
  except ValueError as e:
    raise ConfigError(str(e)) from None
  return Run(
    seed=config.seed,
    steps=config.steps,
    tokens=config.tokens,
    eval_every=config.eval_every,
    checkpoint_every=config.checkpoint_every,
    keep_checkpoints=config.keep_checkpoints,
    keep_anchors=config.keep_anchors,
    trainable=config.trainable,
    method=_method(config),
    task=task,
    loaded=loaded,
    optimizer=OptimizerConfig(**config.optimizer),
    shapes=Shapes(**config.batch),
    max_prompts=config.max_prompts,
    mesh=mesh,
    anchors=dict(config.anchors),
    eval=_eval(config),
    guard=_guard(config, task),
    alarms={
      name: alarm
      for name, text in config.alarms.items()
      if (alarm := parse_alarm(text))
    },
  )

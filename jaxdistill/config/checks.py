"""What can be wrong with a config, found section by section.

Nothing is built, compiled or written before all of it is known to be right.
"""

import math
from collections.abc import Mapping
from typing import Any

from jaxdistill.anchors import Best, External, Trust, parse_rule
from jaxdistill.config.keys import NAMED, ConfigError, base_config, flat
from jaxdistill.config.parts import check_pool, deltas_of, method_of, refusing
from jaxdistill.config.words import check_method_words
from jaxdistill.data.tasks import HELD_OUT, JsonlTask, load_task
from jaxdistill.eval import METRICS, alarms, parse_alarm
from jaxdistill.methods.method import Method, anchors_of, check_task
from jaxdistill.models import store
from jaxdistill.models.decode import KERNELS
from jaxdistill.models.paged import CACHES
from jaxdistill.models.remat import REMAT
from jaxdistill.optimizer import OptimizerConfig
from jaxdistill.spelling import among
from jaxdistill.types import Anchor, Task

# Besides the keys that are 0 by default, and the coefficients of methods.
_MAY_BE_ZERO = (
  *('alpha', 'mesh.data', 'method.propose_every', 'method.stage1_steps'),
  *('guard.every', 'guard.errors', 'guard.rollbacks'),
  *('optimizer.b1', 'optimizer.b2'),
)


def check(config: Any) -> None:
  """Finds what is wrong with a config before anything is built or written.

  Raises:
    ConfigError: Names the key, the value and what it should be.
  """
  check_settings(config)
  with refusing():
    method = method_of(config)
    for anchor in anchors_of(method).values():
      if isinstance(rule := parse_rule(anchor.rule), External):
        store.check(rule.model)
    store.check(config.model)
    check_method_words(method, load_task(config.task), config.model)
    _check_model(method, config)
    _check_lengths(config)


def check_settings(config: Any) -> None:
  """The same, but for what its models give: they need not be here.

  Raises:
    ConfigError: As `check`.
  """
  check_frame(config)
  keys, known = flat(config), flat(base_config(config.method.name))
  _check_keys(keys, known)
  _check_numbers(keys, known, config.method.name)
  _check_choices(keys)
  with refusing():
    deltas_of(config)
    method = method_of(config)
    optimizer = OptimizerConfig(**config.optimizer)
    optimizer.learning_rate()
    optimizer.direction()
    task = load_task(config.task)
    _check_task(method, task, config)
    _check_anchors(method, config)
    _check_guard(config)


def check_frame(config: Any) -> None:
  """Finds that what names the rest is not there, or no text."""
  keys = flat(config)
  for key in ('method.name', 'task', 'model'):
    if not isinstance(keys.get(key), str):
      given = 'missing' if key not in keys else repr(keys[key])
      raise ConfigError(
        f'config.{key} is {given}; it must be str (base_config has every key)'
      )


def _check_keys(keys: Mapping[str, Any], known: Mapping[str, Any]) -> None:
  """That all keys are there, no others, each of its type."""
  for key in keys:
    if key not in known and key.partition('.')[0] not in NAMED:
      raise ConfigError(f'there is no config key {key!r}{among(key, known)}')
  for key, default in known.items():
    if key not in keys and key.partition('.')[0] not in NAMED:
      raise ConfigError(f'config.{key} is missing')
    kinds = (int, float) if isinstance(default, float) else (type(default),)
    if isinstance(default, tuple):
      kinds = (tuple, list)
    if key in keys and not isinstance(keys[key], kinds):
      kind = type(default).__name__
      raise ConfigError(f'config.{key} must be {kind}, not {keys[key]!r}')


def _check_numbers(
  keys: Mapping[str, Any], known: Mapping[str, Any], method: str
) -> None:
  """That numbers are finite, of a size that can be, and 0 only where it may."""
  for key, value in keys.items():
    if isinstance(value, bool) or not isinstance(value, int | float):
      continue
    if key.startswith('method.') and method.endswith('.py'):
      continue  # its own __post_init__ knows
    if isinstance(value, int) and value >= 2**31 and key != 'seed':
      raise ConfigError(f'config.{key} is {value}; it must be below 2**31')
    if not math.isfinite(value):
      raise ConfigError(f'config.{key} is {value}; it must be finite')
    if value < 0 and key != 'mesh.data':
      raise ConfigError(f'config.{key} is {value}; it must not be negative')
    coefficient = key.startswith('method.') and isinstance(value, float)
    coefficient &= key != 'method.temperature'  # greedy: nothing to compare
    zero = coefficient or not known.get(key) or key in _MAY_BE_ZERO
    if value == 0 and not zero:
      raise ConfigError(f'config.{key} is 0; it must be positive')
  for key in ('optimizer.b1', 'optimizer.b2'):
    if keys[key] >= 1:
      raise ConfigError(f'config.{key} is {keys[key]}; it must be below 1')
  if not 0 <= keys['seed'] < 2**32:
    raise ConfigError(f'config.seed is {keys["seed"]}; it must be below 2**32')


def _check_choices(keys: Mapping[str, Any]) -> None:
  """That what is one of a few is one of them."""
  splits = keys['eval.splits']
  if len(set(splits)) < len(splits):
    raise ConfigError(f'config.eval.splits has one twice: {splits}')
  for split in splits or ('',):
    if split not in HELD_OUT:
      near = among(str(split), HELD_OUT)
      raise ConfigError(f'config.eval.splits has {split!r}{near}')
  words = keys['eval.markers']
  if not all(isinstance(w, str) and w.strip() for w in words):
    raise ConfigError(f'config.eval.markers must be words, not {words!r}')
  if len({w.lower() for w in words}) < len(words):
    raise ConfigError(f'config.eval.markers has one twice: {words}')
  for key, allowed in (
    ('guard.split', ('train', *HELD_OUT)),
    ('remat', tuple(REMAT)),
    ('trainable', ('full', 'lora', 'roles')),
    ('dtype', ('float32', 'bfloat16')),
    ('attention', ('auto', 'dense', 'chunked', 'pallas')),
    ('rollout.weights', tuple(KERNELS)),
    ('rollout.cache', tuple(CACHES)),
  ):
    if keys[key] not in allowed:
      near = among(keys[key], filter(None, allowed))
      near += '' if all(allowed) else ', or empty'
      raise ConfigError(f'config.{key} is {keys[key]!r}{near}')
  if keys['trainable'] == 'roles' and keys['roles'] == 'shared':
    raise ConfigError(
      "config.trainable is 'roles' and config.roles 'shared': no role has "
      "weights of its own; 'adapter' gives it some"
    )


def check_training(config: Any) -> None:
  """Finds that a checked config does not train all that its method has.

  Raises:
    ConfigError: A run is no longer than what comes before the rest.
  """
  key = method_of(config).prelude
  if key and 0 < config.steps <= config.method[key]:
    raise ConfigError(
      f'config.steps is {config.steps}, and the first {config.method[key]} are '
      f'but a beginning of method {config.method.name!r} (method.{key}): give '
      'it more steps, or that fewer'
    )


def _check_task(method: Method, task: Task, config: Any) -> None:
  """That the task fits the method; where data must be made, `prepare` looks."""
  if method.asks and not task.asks:
    raise ConfigError(
      f'method {config.method.name!r} needs problems; task {task.name} has '
      "documents (use 'small')"
    )
  if isinstance(task, JsonlTask):
    for split in config.eval.splits:
      task.problems(split)
    check_pool(config.pool, task)
    check_task(method, task)


def _check_model(method: Method, config: Any) -> None:
  """That the model gives what the method learns from: words, or grades."""
  name, grades = config.model, store.describe(config.model).grades
  if method.answers and grades:
    raise ConfigError(
      f'config.model is {name!r}, which grades texts; method '
      f'{config.method.name!r} needs one that writes them'
    )
  if not method.answers and not grades:
    raise ConfigError(
      f'config.model is {name!r}, which gives no grades; method '
      f'{config.method.name!r} needs one that does: {store.GRADER + name!r} is '
      'its trunk with a new head'
    )


def _check_anchors(method: Method, config: Any) -> None:
  needed = anchors_of(method)
  rules = {name: anchor.rule for name, anchor in needed.items()}
  for name, text in {**config.anchors, **rules}.items():
    rule = parse_rule(text)
    if isinstance(rule, Trust) and name not in needed:
      raise ConfigError(
        f'anchor {name} has rule {text!r}, but the divergence is measured '
        f"from the method's own anchors only: {', '.join(needed)}"
      )
    if isinstance(rule, External) and name not in needed:
      raise ConfigError(
        f'anchor {name} has rule {text!r}, but nothing asks it: another '
        'model is an anchor of a method that does'
      )
    if isinstance(rule, Best):
      _check_metric(text, rule.metric, config)
    if not name.isidentifier() or name == 'policy':
      raise ConfigError(f'an anchor cannot be called {name!r}')
    anchor = needed.get(name, Anchor(text))
    if isinstance(rule, Trust) and not anchor.measured:
      raise ConfigError(
        f'anchor {name} has rule {text!r}, but method {config.method.name!r} '
        'does not measure the divergence from it'
      )
    if anchor.clock == 'optimizer' and rule.chooses:
      raise ConfigError(
        f'anchor {name} moves by steps of the optimizer; rule {text!r} goes by '
        'steps of the run'
      )
  for name in config.anchors:
    if name in needed:
      raise ConfigError(
        f'config.anchors.{name} belongs to the method, whose keys set its '
        'rule; choose another name'
      )
  if 'guard' in {**config.anchors, **needed}:
    raise ConfigError("the anchor 'guard' is the guard's own")


def _check_metric(rule: str, metric: str, config: Any) -> None:
  split, _, name = metric.partition('/')
  more_is_better = [n for n in METRICS if 'accuracy' in n]
  if split not in config.eval.splits or name not in more_is_better:
    measured = [f'{s}/{n}' for s in config.eval.splits for n in more_is_better]
    near = among(metric, measured)
    if split in HELD_OUT and split not in config.eval.splits:
      near = f'; eval.splits, {tuple(config.eval.splits)}, lacks {split!r}'
    raise ConfigError(f'anchor rule {rule!r}: that is not measured{near}')


def _check_guard(config: Any) -> None:
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


def _check_lengths(config: Any) -> None:
  """Finds answers that are longer than all that a model has positions for."""
  most = store.positions(config.model)
  for name in ('method', 'eval'):
    for key, value in config[name].items():
      if most and key.endswith('_tokens') and value > most:
        raise ConfigError(
          f'config.{name}.{key} is {value}; {config.model} has {most} positions'
        )

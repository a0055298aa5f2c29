"""From a checked config to a run: the data set made, the model loaded."""

import contextlib
import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh

from jaxdistill import dist
from jaxdistill.anchors import External, parse_rule
from jaxdistill.batch import Shapes
from jaxdistill.config.checks import check_training
from jaxdistill.config.keys import ConfigError
from jaxdistill.config.parts import (
  check_pool,
  deltas_of,
  eval_of,
  formats_of,
  guard_of,
  method_of,
  refusing,
)
from jaxdistill.data.tasks import JsonlTask, load_task
from jaxdistill.data.text.symbols import SymbolTokenizer
from jaxdistill.data.text.tokenizer import TextTokenizer
from jaxdistill.eval import parse_alarm
from jaxdistill.methods.method import Method, anchors_of, check_task
from jaxdistill.models import Deltas, load, store
from jaxdistill.models.store import Loaded
from jaxdistill.optimizer import OptimizerConfig
from jaxdistill.run import memory
from jaxdistill.run.pool import pool_of
from jaxdistill.run.run import Run, Teacher
from jaxdistill.types import Task


def prepare(config: Any) -> None:
  """Makes the data set, and finds a task that does not fit the method.

  For who trains, before `build`. One process makes what several may share; what
  is wrong is found by all of them, so that none waits for another.

  Raises:
    ConfigError: Says what does not fit.
  """
  check_training(config)
  _check_memory(config, trains=True)
  task = make_data(config)
  with refusing():
    for split in config.eval.splits:
      task.problems(split)
    check_pool(config.pool, task)
    method = method_of(config)
    check_task(method, task)
    if type(method).check_given is not Method.check_given:
      vocabulary = store.tokenizer_of(config.model).vocabulary
      method.check_given(pool_of(task, config.pool), vocabulary)


def make_data(config: Any) -> Task:
  """A config's task, with the data set that several processes may share."""
  task = load_task(config.task)
  if jax.process_index() == 0:
    with contextlib.suppress(ValueError):
      for split in ('train', *config.eval.splits):
        task.problems(split)
  dist.barrier('data is made')
  return task


def build(config: Any) -> Run:
  """What a checked config describes; loads the model."""
  _check_memory(config, trains=False)
  with refusing():
    task = load_task(config.task)
    mesh = dist.make_mesh(**config.mesh)
    with jax.set_mesh(mesh):
      loaded = load(
        config.model,
        deltas_of(config),
        dtype=config.dtype,
        # What moves is float32, so that small steps are not rounded away.
        trunk_dtype='float32' if config.trainable == 'full' else config.dtype,
        remat=config.remat,
        attention=config.attention,
        seed=config.seed,
        mesh=mesh,
      )
    if isinstance(loaded.tokenizer, SymbolTokenizer):
      _check_symbols(task, loaded.tokenizer, config)
    loaded = _asked_by(task, loaded, config.think)
    return Run(
      seed=config.seed,
      pool=config.pool,
      steps=config.steps,
      tokens=config.tokens,
      eval_every=config.eval_every,
      checkpoint_every=config.checkpoint_every,
      keep_checkpoints=config.keep_checkpoints,
      keep_anchors=config.keep_anchors,
      trainable=config.trainable,
      ahead=config.ahead,
      foresee=config.foresee,
      method=method_of(config),
      task=task,
      loaded=loaded,
      optimizer=OptimizerConfig(**config.optimizer),
      shapes=Shapes(**config.batch),
      cache_gib=config.rollout.cache_gib,
      formats=formats_of(config),
      mesh=mesh,
      anchors=dict(config.anchors),
      teachers=_load_teachers(config, task, mesh, loaded.tokenizer.vocabulary),
      eval=eval_of(config),
      guard=guard_of(config, task),
      alarms={
        name: alarm
        for name, text in config.alarms.items()
        if (alarm := parse_alarm(text))
      },
    )


def _load_teachers(
  config: Any, task: Task, mesh: Mesh, vocabulary: str
) -> dict[str, Teacher]:
  """The other models that a method asks, by the names of its anchors.

  Raises:
    ConfigError: The loss reads one whose tokens are others than the student's.
  """
  out = {}
  for name, anchor in anchors_of(method_of(config)).items():
    rule = parse_rule(anchor.rule)
    if isinstance(rule, External):
      dtype = rule.dtype or config.dtype
      with jax.set_mesh(mesh):
        loaded = load(
          rule.model,
          Deltas(per_role='shared'),
          dtype=dtype,
          trunk_dtype=dtype,
          mesh=mesh,
        )
      if anchor.in_loss and loaded.tokenizer.vocabulary != vocabulary:
        raise ConfigError(
          f'{name} {rule.model} has another tokenizer than {config.model}: its '
          "log-probs say nothing of the other's tokens, only its texts can be "
          "learned from (teacher_distill: method.learn='text')"
        )
      loaded = _asked_by(task, loaded, config.think)
      out[name] = Teacher(loaded, rule.cache_gib or config.rollout.cache_gib)
  return out


def _asked_by(task: Task, loaded: Loaded, think: bool) -> Loaded:
  """A model whose answers end where a task says, and that thinks or not."""
  tokenizer = loaded.tokenizer.ending_at(task.ends)
  if isinstance(tokenizer, TextTokenizer):
    tokenizer = dataclasses.replace(tokenizer, think=think)
  return dataclasses.replace(loaded, tokenizer=tokenizer)


def _check_symbols(task: Task, tokenizer: SymbolTokenizer, config: Any) -> None:
  """Finds a problem that the shipped bases have no symbols for."""
  for split in ('train', *config.eval.splits):
    problems = task.problems(split)
    # A corpus has many formats; other problems are all of one kind.
    some = 64 if split == 'train' and not task.asks else 1
    few = len(problems) if isinstance(task, JsonlTask) else some
    for i in range(min(few, len(problems))):
      try:
        tokenizer.encode(task.solver_prompt(problems[i]))
      except ValueError as e:
        base = '; small-wide has' if task.name.startswith('small:') else ''
        raise ValueError(f'task {task.name}: {e}{base}') from None


def _check_memory(config: Any, trains: bool) -> None:
  with refusing():
    mesh = dist.make_mesh(**config.mesh)
    if trains and config.optimizer.offload:
      dist.pinned(dist.replicated(mesh))
    memory.check(
      store.describe(config.model),
      deltas_of(config),
      mesh,
      trainable=config.trainable,
      dtype=config.dtype,
      trains=trains,
      offload=config.optimizer.offload,
      anchors=sum(
        not isinstance(parse_rule(anchor.rule), External)
        for anchor in anchors_of(method_of(config)).values()
      ),
    )

"""A teacher's next-token distributions, asked for once and written down."""

import dataclasses
import json
import time
from collections.abc import Sequence

import jax
import numpy as np
from etils import epath

from jaxdistill import dist
from jaxdistill.api.model import Model, find_task, load_base
from jaxdistill.api.refusing import in_one_line
from jaxdistill.config import ConfigError
from jaxdistill.data.targets import Shard, Target, Targets, read, seal, sha256
from jaxdistill.rollout import Sampling
from jaxdistill.run.ask import of_this_host
from jaxdistill.run.pool import pool_of
from jaxdistill.types import Problems, Prompt, Task

RESPONSES = 1024  # that are asked for, and held in memory, at a time


def targets(
  teacher: epath.PathLike,
  out: epath.PathLike,
  task: epath.PathLike | Task | None = None,
  *,
  problems: int = 256,
  samples: int = 4,
  top_k: int = 32,
  max_tokens: int = 0,
  temperature: float = 1.0,
  fsdp: int = 1,
  tensor: int = 1,
) -> Targets:
  """Has a teacher answer a pool of problems, and writes down what it thought.

  A student learns from the folder by method `offline_distill`, with
  `config.pool` as `problems` here. All processes call it alike.

  Args:
    teacher: A shipped base, a directory, or `hf:owner/name`.
    out: A folder on a disk that all processes see; not there yet.
    task: Whose train problems it is asked; `small` if None, for a model of our
      own format.
    problems: How many: the pool of that size.
    samples: Answers to each.
    top_k: How many of the likeliest tokens are kept in each place.
    max_tokens: Longest answer; 0 is the model's own.
    temperature: Of sampling, and of the log-probs that are kept.
    fsdp: Of the mesh: devices that share the teacher's parameters.
    tensor: Of the mesh: devices that share each layer's work.

  Raises:
    ConfigError: There is no such model or task or so many problems, or the
      folder is there or cannot be made.
  """
  least = {'problems': problems, 'samples': samples, 'top_k': top_k}
  for name, value in least.items():
    if value < 1:
      raise ConfigError(f'{name}: {value} must be at least 1')
  if not temperature > 0:
    raise ConfigError(
      f'temperature: {temperature} must be above 0: at 0 one token is all that '
      'a teacher says'
    )
  folder = epath.Path(out)
  with in_one_line():
    dist.by_first(lambda: _check_new(folder))
  task = None if task is None else find_task(task)
  if task is not None:  # before a model is loaded
    _pool(task, problems)
  model = load_base(str(teacher), fsdp=fsdp, tensor=tensor)
  model = model if task is None else model.on(task)
  pool = _pool(model.task, problems)
  sampling = Sampling(
    samples, max_tokens or model.run.eval.max_tokens, temperature
  )
  with model.run.computing(), in_one_line():
    k = min(top_k, model.player.config.vocab_size)
    _write(model, pool, sampling, k, folder)
    return read(folder)


def _check_new(folder: epath.Path) -> None:
  if '://' in str(folder):
    raise ValueError(f'out: {folder} must be on a disk; copy it from there')
  if folder.exists():
    raise ValueError(f'out: {folder} is there already; choose another')
  if not folder.absolute().parent.is_dir():
    raise ValueError(
      f'out: {folder}: there is no folder {folder.absolute().parent}'
    )


def _pool(task: Task, problems: int) -> Problems:
  with in_one_line():
    there = len(task.problems('train'))
    if problems > there:
      raise ConfigError(
        f'problems: {task.name} has {there} to train on, not {problems}'
      )
    return pool_of(task, problems)


def _write(
  model: Model,
  pool: Problems,
  sampling: Sampling,
  k: int,
  folder: epath.Path,
) -> None:
  """Asks a part of the pool at a time, and writes this host's shard."""
  begin = time.perf_counter()
  partial = folder.with_name(f'.{folder.name}.partial')
  dist.by_first(lambda: _empty(partial))
  shard = dist.together(
    lambda: Shard(partial, jax.process_index(), jax.process_count())
  )
  at_once = max(1, RESPONSES // sampling.samples)
  tokens = responses = 0
  first = {pool[i].text: i for i in reversed(range(len(pool)))}
  places = sorted(first.values())  # a pool may have a problem more than once
  for start in range(0, len(places), at_once):
    part = places[start : start + at_once]
    found = _ask(model, pool, part, sampling, k)
    dist.together(lambda found=found: [*map(shard.write, found)])
    tokens += sum(len(t.tokens_T) for t in found)
    responses += len(found)
  dist.together(shard.close)
  mine = {shard.path.name: sha256(shard.path)}
  shards = {
    name: digest
    for text in dist.gather_texts([json.dumps(mine)])
    for name, digest in json.loads(text).items()
  }
  counts = np.array([responses, tokens, shard.path.stat().length])
  responses, tokens, size = map(int, dist.sum_over_hosts(counts))
  seconds = time.perf_counter() - begin
  manifest = {
    'teacher': {'name': model.name, 'sha256': model.run.loaded.sha256},
    'task': model.task.name,
    'vocabulary': model.player.tokenizer.vocabulary,
    'k': k,
    'temperature': sampling.temperature,
    'max_tokens': sampling.max_tokens,
    'seed': model.run.seed,
    'problems': len(pool),
    'different': len(places),
    'samples': sampling.samples,
    'responses': responses,
    'tokens': tokens,
    'bytes': size,
    'seconds': round(seconds, 3),
    'tokens_per_s': round(tokens / seconds, 1),
    'shards': shards,
  }
  dist.by_first(lambda: seal(partial, folder, manifest))


def _ask(
  model: Model,
  pool: Problems,
  part: Sequence[int],
  sampling: Sampling,
  k: int,
) -> list[Target]:
  """This host's share of the targets of some problems of the pool."""
  player, key = model.player, jax.random.key(model.run.seed)
  asked = [
    dataclasses.replace(p, address=part[p.address])
    for p in of_this_host(lambda i: pool[part[i]], len(part))
  ]
  rollouts_PG = player.generate([*map(Prompt.solve, asked)], sampling, key)
  said = [r for r_G in rollouts_PG for r in r_G]
  ids, logps = player.top(said, k, sampling.temperature)
  texts = [p.text for p in asked for _ in range(sampling.samples)]
  return [
    Target(text, r.tokens_T, r.logp_T, ids_Tk, top_Tk)
    for text, r, ids_Tk, top_Tk in zip(texts, said, ids, logps, strict=True)
  ]


def _empty(folder: epath.Path) -> None:
  """A new folder, in the place of one that was left half-written."""
  if folder.exists():
    folder.rmtree()
  folder.mkdir()

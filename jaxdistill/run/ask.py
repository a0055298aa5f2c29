"""What every part of the machinery asks of a run's players."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxdistill import dist
from jaxdistill.eval import PROBED, accuracy
from jaxdistill.methods.method import Method
from jaxdistill.rollout.player import Player
from jaxdistill.run.run import Run, Teacher
from jaxdistill.run.step import param_shardings, place
from jaxdistill.types import Problem

COLLECT, EVALUATE, PROBE = 0, 1, 2  # purposes that random keys are folded from


def make_player(
  run: Run, graphdef: nnx.GraphDef, params: tuple[nnx.State, ...]
) -> Player:
  """A player of a run's architecture.

  Args:
    run: Whose tokenizer, mesh and shapes it uses.
    graphdef: Of its model.
    params: Its parameters, in any number of parts.
  """
  return Player(
    graphdef=graphdef,
    params=params,
    roles=run.loaded.model.deltas.roles,
    tokenizer=run.loaded.tokenizer,
    mesh=run.mesh,
    shapes=run.shapes,
    cache_gib=run.cache_gib,
    formats=run.formats,
    markers=run.eval.markers,
    programs=run.programs,
  )


def place_teacher(teacher: Teacher, run: Run) -> Player:
  """A player of another model, on a run's mesh, with its own tokenizer."""
  graphdef, params = nnx.split(teacher.loaded.model)
  where = param_shardings(params, run.mesh)
  return Player(
    graphdef=graphdef,
    params=(place(params, where),),
    roles=run.method.roles,
    tokenizer=teacher.loaded.tokenizer,
    mesh=run.mesh,
    shapes=run.shapes,
    cache_gib=teacher.cache_gib,
    formats=run.formats,
    markers=run.eval.markers,
    programs=run.programs,
  )


def evaluate(
  run: Run, player: Player, pass_k: Sequence[int] = (), prefix: str = ''
) -> dict[str, float]:
  """Metrics `eval/<split>/<name>` of a player; the same draws every time.

  `eval/<split>/problems` is how many they are measured on.

  Args:
    run: Says what is measured.
    player: Who answers.
    pass_k: Which `pass_at/K` to add.
    prefix: Of the names.
  """

  def observe(problems, key):
    observed: dict[str, Any] = {}
    if run.method.answers:
      observed |= (run.task.evaluator or accuracy)(
        player,
        _questions(run, problems),
        samples=run.eval.samples,
        max_tokens=run.eval.max_tokens,
        key=key,
        pass_k=pass_k,
      )
    observed |= run.method.evaluate(player, problems, key)
    return observed

  return _held_out(run, observe, prefix)


def against(
  run: Run, players: Callable[[], Mapping[str, Player]]
) -> dict[str, float]:
  """Metrics `eval/<split>/<name>` of the policy against a run's anchors.

  Args:
    run: Says what is measured.
    players: Lays out the policy and its anchors, by name; not called where the
      method observes nothing.
  """
  if type(run.method).against is Method.against:
    return {}
  asked = players()
  return _held_out(run, lambda *about: run.method.against(asked, *about))


def _held_out(
  run: Run, observe: Callable, prefix: str = ''
) -> dict[str, float]:
  """What is observed on the held-out splits, all hosts together."""
  key = jax.random.fold_in(jax.random.key(run.seed), EVALUATE)
  out = {}
  for split in run.eval.splits:
    held_out = run.task.problems(split)
    n = min(len(held_out), run.eval.problems)
    observed = observe(of_this_host(held_out.__getitem__, n), key)
    named = {f'eval/{split}/{prefix}{k}': v for k, v in observed.items()}
    out |= reduce_metrics(named) | {f'eval/{split}/problems': n}
  return out


def _questions(run: Run, problems: Sequence[Problem]) -> list[Problem]:
  """What is asked of held-out problems, each at an address of its own."""
  asked_P = dist.together(lambda: [run.task.questions(p) for p in problems])
  (most,) = dist.agree_max(max(map(len, asked_P), default=1))
  return [
    dataclasses.replace(q, address=p.address * most + i)
    for p, asked in zip(problems, asked_P, strict=True)
    for i, q in enumerate(asked)
  ]


def probe(
  run: Run, player: Player
) -> tuple[dict[str, float], dict[str, list[float]]]:
  """A look at the guard's held-out problems; the same draws every time.

  Args:
    run: Says what is looked at.
    player: Who answers.

  Returns:
    Metrics `probe/<name>`, and those of `PROBED` by problem; the same on every
    host. `probe/overconfidence` is the share of the samples that are in a
    majority, less the vote accuracy: votes without a winner count in neither.
  """
  problems = run.task.problems(run.guard.split)
  n = min(len(problems), run.guard.problems)
  mine = of_this_host(problems.__getitem__, n)
  observed = accuracy(
    player,
    mine,
    samples=run.guard.samples,
    max_tokens=run.eval.max_tokens,
    key=jax.random.fold_in(jax.random.key(run.seed), PROBE),
  )
  names = (*PROBED, 'agreement', 'vote_share')
  values = np.zeros((len(names), n))
  for i, name in enumerate(names):
    # As many observations of each problem as there are samples, or one.
    if mine:
      by_problem = np.array(observed[name]).reshape(len(mine), -1)
      values[i, [p.address for p in mine]] = by_problem.mean(1)
  values = dist.sum_over_hosts(values)
  found = dict(zip(names, values.tolist(), strict=True))
  metrics = {f'probe/{k}': float(np.mean(v)) for k, v in found.items()}
  metrics['probe/overconfidence'] = (
    metrics['probe/vote_share'] - metrics['probe/vote_accuracy']
  )
  return metrics, {name: found[name] for name in PROBED}


def reduce_metrics(
  observed: Mapping[str, Sequence[float] | np.ndarray],
) -> dict[str, float]:
  """Means over all observations of all hosts; names without any are left out.

  Every process calls it with the same names.
  """
  names = sorted(observed)
  sums = np.array([(np.sum(observed[n]), len(observed[n])) for n in names])
  totals = dist.sum_over_hosts(sums.reshape(-1, 2))
  return {
    n: float(total / count)
    for n, (total, count) in zip(names, totals, strict=True)
    if count
  }


def of_this_host(get: Callable[[int], Problem], n: int) -> list[Problem]:
  """This host's part of problems 0 to n - 1, each with its address."""
  host, hosts = jax.process_index(), jax.process_count()
  part = range(host * n // hosts, (host + 1) * n // hosts)
  return [dataclasses.replace(get(i), address=i) for i in part]

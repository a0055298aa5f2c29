"""The loop: look -> evaluate -> refresh anchors -> collect -> update -> save.

It knows a method only by the members of its contract, and holds all the
state there is: a run that dies goes on from its newest checkpoint as if it had
never stopped. With `config.ahead` the next step's data are drawn before the
update and judged beside it, see `pending.py`.
"""

import contextlib
import dataclasses
import math
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx

from jaxdistill import dist
from jaxdistill.batch import Batch
from jaxdistill.checkpoint import Checkpoints, abstract
from jaxdistill.models.attention import form_of
from jaxdistill.models.linear import product_bits
from jaxdistill.rollout.adapt import merged
from jaxdistill.rollout.player import Player
from jaxdistill.rollout.score import Own, score
from jaxdistill.run import pending, progress, records, resume, updating
from jaxdistill.run.ask import (
  COLLECT,
  against,
  evaluate,
  make_player,
  of_this_host,
  reduce_metrics,
)
from jaxdistill.run.guard import GUARD, Guard
from jaxdistill.run.others import Others
from jaxdistill.run.pending import Pending
from jaxdistill.run.pool import shuffled
from jaxdistill.run.run import Run
from jaxdistill.run.step import (
  Params,
  init_state,
  make_step,
  param_shardings,
  place,
  split_params,
  with_fresh_moments,
)
from jaxdistill.run.stopping import Stopped, asked_to_stop
from jaxdistill.types import Collected, Problem, Update


class Loop:
  """One run, taken up where its newest checkpoint left it.

  Args:
    run: What to do.
    root: The run's folder.
    config: The resolved config, written to the folder.

  Raises:
    RefusedError: The folder belongs to another config or began from another
      model, is in use, or has no whole checkpoint left.
  """

  def __init__(self, run: Run, root: epath.PathLike, config: Mapping[str, Any]):
    self.run, self.workdir = run, resume.claimed(root, config)
    with contextlib.ExitStack() as undo:
      undo.callback(self.workdir.close)  # if this fails, others may come in
      self.checkpoints = Checkpoints(root, run.keep_checkpoints)
      self.graphdef, params, frozen = split_params(
        run.loaded.model, run.trainable
      )
      self.state = init_state(params, run.optimizer, run.mesh)
      self.frozen = place(frozen, param_shardings(frozen, run.mesh))
      self.others = Others(run, root, self.graphdef, self.frozen)
      self.anchors = self.others.selves
      self.method_state = run.method.init()
      self.key = jax.random.key(run.seed)
      self.tokens, self.scored, self.seconds, self.first_step = 0, 0, 0.0, 0
      self.adopted = 0
      self.bits = 0  # that a product of floats keeps
      self.summary: dict[str, Any] = {}  # once it has come to its end
      self._seen: dict[str, float] = {}  # the newest metrics, for rules
      self._pending: Pending | None = None  # drawn ahead, for the next step
      self._read: dict[int, list[Problem]] = {}  # by step, before its time
      self.guard = Guard(run, self.anchors, self.workdir)
      self._step = make_step(
        self.graphdef, run.method.loss, run.optimizer, self.others.graphs()
      )
      self._problems = shuffled(run.task, run.pool, run.seed)
      self._resume()
      undo.pop_all()

  def train(self) -> dict[str, Any]:
    """Runs to the last step, or until its tokens are spent; the summary.

    Raises:
      Stopped: It was asked to stop, and has saved.
      OSError: A file could not be written; what is on disk stays usable.
    """
    for _ in self.steps():
      pass
    return self.summary

  def steps(self) -> Generator[dict[str, float], None, None]:
    """The same a line of `metrics.jsonl` at a time.

    The line of the last step comes once the run has ended, and is followed by
    that of its end. Closed before, it saves and lets others in.

    Raises:
      Stopped: As `train`, and `OSError`.
    """
    try:
      with asked_to_stop() as stop:
        yield from self._steps(stop)
    finally:
      error = sys.exception()
      with dist.closing(None if isinstance(error, Stopped) else error):
        self.run.programs.drop()
        try:  # what is being written is not cut off
          with contextlib.suppress(OSError):  # of a full disk: it has been said
            self.checkpoints.close()
        finally:
          self.workdir.close()

  def _steps(self, stop: Callable[[int], bool]) -> Iterator[dict[str, float]]:
    run = self.run
    finished = self.finished()
    self.checkpoints.forget_after(self.first_step)
    pending.forget(self.workdir.path, 0, self.first_step)
    # What a finished run did after its last step stays.
    self.anchors.forget_from(self.first_step + finished)
    self.workdir.open(self.first_step + finished, finished)
    dist.barrier('what a dying run left is gone')
    steps = range(self.first_step, 0 if finished else run.steps)
    bar = progress.bar(steps, run.steps, self.workdir.writes)
    shown: dict[str, float] = {}
    last: list[dict[str, float]] = []
    self.bits = product_bits()
    if run.foresee:
      run.programs.open()
    for step in bar:
      begin = time.perf_counter()
      metrics = self._watch(step)
      if self.guard.stopped:
        last = [self._end(step, metrics, begin)]
        break
      # What is evaluated is what is trained on: after a step back, that.
      if step % run.eval_every == 0:
        metrics |= evaluate(run, self.player(self.state.params))
      if step == 0 and not run.method.answers:
        metrics |= self.others.evaluated(run)
      self._refresh_anchors(step, metrics)
      if step % run.eval_every == 0:
        metrics |= against(run, self._players)
      metrics |= self._train_step(step)
      first = run.programs.foreseeing
      stopping = first and stop(step)
      if stopping:  # what is not needed any more is not waited for
        run.programs.drop()
      run.programs.settle()
      self.seconds += time.perf_counter() - begin
      metrics |= self._spending()
      self._seen = metrics
      self.workdir.log(step, metrics)
      shown |= metrics
      if step == 0:  # all that is measured now and then, is
        self.workdir.say(self.guard.alarms.unseen(shown))
      bar.set_postfix_str(progress.latest(run.eval.splits[0], shown))
      line = {'step': step} | metrics
      if self._spent() or step + 1 == run.steps:
        begin = time.perf_counter()
        metrics = self._watch(step + 1, last=True)
        last = [line, self._end(step + 1, metrics, begin)]
        if step + 1 == run.steps:
          continue  # the bar comes to its end
        break
      try:
        yield line
      except GeneratorExit:
        if threading.main_thread().is_alive():  # Orbax starts others
          self._save(step + 1, wait=True)
        raise
      if stopping or (not first and stop(step)):
        bar.close()
        self._save(step + 1, wait=True)
        raise Stopped(f'{self.workdir.path} is saved at step {step + 1}')
      if (step + 1) % run.checkpoint_every == 0:
        self._save(step + 1)
      self.checkpoints.seal()
    bar.close()
    self.checkpoints.seal(wait=True)
    self.summary = self.workdir.summarise(_facts(self))
    yield from last

  def finished(self) -> bool:
    """Whether nothing is left to do from where the run was taken up."""
    ended = self.first_step >= self.run.steps or self._spent()
    return ended or bool(self.guard.stopped)

  def _spent(self) -> bool:
    return 0 < self.run.tokens <= self.tokens + self.scored

  def _spending(self) -> dict[str, float]:
    """What the run has taken so far."""
    return {
      'time': self.seconds,
      'rollout/tokens': self.tokens,
      'rollout/scored': self.scored,
    }

  def _end(
    self, step: int, metrics: dict[str, float], begin: float
  ) -> dict[str, float]:
    """Saves the last version; the guard's look at it began at `begin`."""
    metrics |= evaluate(self.run, self.player(self.state.params))
    self._refresh_anchors(step, metrics)
    metrics |= against(self.run, self._players)
    self.seconds += time.perf_counter() - begin
    metrics |= self._spending()
    self.workdir.log(step, metrics)
    # One saved at this very step does not know that the run has ended.
    self.checkpoints.seal(wait=True)
    self.checkpoints.forget_after(step - 1)
    dist.barrier('nothing is saved at the end yet')
    self._pending = None
    self._save(step)
    return {'step': step} | metrics

  def _watch(self, step: int, last: bool = False) -> dict[str, float]:
    """Does what the guard asks for at a step; returns metrics."""
    decision, metrics = self.guard.look(
      step, self.state, self._seen, self.player, last
    )
    if decision.becomes_best:
      left = self.state._replace(
        params=abstract(self.state.params), shared_opt=(), role_opts=()
      )
      del self.state  # there may not be room for both
      self.state = self.guard.best(step, decision, left)
      self._seen, self._pending = {}, None  # of the policy that was left
    return metrics | self.guard.report(step, decision, self.state)

  def _train_step(self, step: int) -> dict[str, float]:
    begin = time.perf_counter()
    ready, self._pending = self._pending, None
    if ready:
      collected, seconds = ready.collected, ready.seconds
    else:
      collected, seconds = self._collect(step), time.perf_counter() - begin
    if self.run.ahead:
      pending.check(collected)
    self.method_state = collected.state
    if collected.adopt is not None:
      params = _adopted(collected.adopt, self.graphdef, self.run)
      self.state = self.state._replace(params=params)
      self.adopted += 1
    metrics = reduce_metrics(collected.metrics)
    spent = np.array([collected.tokens, collected.scored])
    tokens, scored = map(int, dist.sum_over_hosts(spent))
    self.tokens += tokens
    self.scored += scored
    judge, drawing = None, time.perf_counter()
    if self.run.ahead and step + 1 < self.run.steps and not self._spent():
      judge = self._begin(step + 1)
    middle = time.perf_counter()
    updates = collected.updates
    updating.foresee(
      *(collected.later, updates, self.state, self.run, self._step),
      *(self.frozen, self.others),
    )
    losses = [m for u in updates for m in self.update(u, bool(ready))]
    # The device computes from here on; the host does what needs no result.
    self.workdir.transcripts(step, collected.transcripts)
    if judge:
      self._pending = Pending(judge(), middle - drawing)
    self._read_problems(step + 1 + self.run.ahead)
    losses = jax.device_get(losses)
    for name in {name for m in losses for name in m}:
      values = [float(m[name]) for m in losses if name in m]
      metrics[f'train/{name}'] = float(np.mean(values))
    end = time.perf_counter()
    return metrics | {
      'rollout/tokens_per_s': tokens / seconds,
      'time/collect_s': middle - begin,
      'time/update_s': end - middle,
      'time/step_s': end - begin,
    }

  def _collect(self, step: int) -> Collected:
    return self._begin(step)()

  def _begin(self, step: int) -> Callable[[], Collected]:
    """Draws the responses of a step; what is returned judges them."""
    players = self._players()
    key = jax.random.fold_in(jax.random.fold_in(self.key, COLLECT), step)
    return pending.drawn(
      *(self.run.method, players, self.draw(step), self.method_state),
      *(step, key),
    )

  def _players(self) -> dict[str, Player]:
    """All that a method asks, by name."""
    return {
      **self.others.players(self.player),
      'policy': self.player(self.state.params),
    }

  def update(
    self, update: Update, stale: bool = False
  ) -> list[dict[str, jax.Array]]:
    """Takes an update's optimizer steps; the metrics of each.

    Args:
      update: What is learned.
      stale: Whether it was drawn by older weights than there are now.
    """
    run = self.run
    if update.fresh_optimizer:
      self.state = with_fresh_moments(self.state, run.optimizer, run.mesh)
    self.state, metrics = updating.take(
      *(update, self.state, run, self._step, self.frozen, self.others),
      self._score if stale else updating.sampled,
    )
    return metrics

  def _score(self, batch: Batch, temperature: float) -> jax.Array:
    """Log-probs of a batch's scored tokens under the policy as it is."""
    params = (*self.state.params, self.frozen)
    divisor = np.float32(temperature)
    return self.run.programs(
      *(score, params, dataclasses.replace(batch, kind=''), divisor),
      graphdef=self.graphdef,
      what=Own(),
    )

  def player(self, params: Params) -> Player:
    """Anyone with this run's architecture; nothing is copied."""
    return make_player(self.run, self.graphdef, (*params, self.frozen))

  def draw(self, step: int) -> list[Problem]:
    """This host's share of a step's problems, read by index."""
    if step in self._read:
      return self._read[step]
    n = self.run.method.problems
    return of_this_host(lambda i: self._problems[step * n + i], n)

  def _read_problems(self, step: int) -> None:
    """Reads a step's problems before its time."""
    last = step >= self.run.steps
    self._read = {} if last else {step: self.draw(step)}

  def _refresh_anchors(self, step: int, evaluated: Mapping[str, float]) -> None:
    seen = {**self._seen, **evaluated}
    oldest = self.checkpoints.oldest()
    self.anchors.refresh(step, self.state.params, seen, oldest)

  def _save(self, step: int, wait: bool = False) -> None:
    anchors = self.anchors.save(step)  # on disk before what needs them is
    record = _record(self) | {'anchors': anchors}
    needed = self.anchors.needs(GUARD)
    root = self.workdir.path
    pending.forget(root, self.checkpoints.oldest(), step - 1)
    if self._pending:
      needed.append(pending.save(root, step, self._pending))
    self.checkpoints.save(step, self.state, record, needed)
    self.checkpoints.seal(wait)

  def _resume(self) -> None:
    step = resume.newest(self.checkpoints, self.workdir)
    if step is None:
      return
    like = abstract(self.state)
    del self.state  # there may not be room for both
    self.state, record = self.checkpoints.restore(step, like)
    resume.check_origin(self.workdir.path, record, self.run)
    self.method_state = records.get(self.workdir.path, record['method'])
    self.tokens, self.scored = record['tokens'], record['scored']
    self.adopted = record.get('adopted', 0)
    self.seconds = record['seconds']
    self.first_step, self._seen = step, record['seen']
    self.guard.resume(record)
    self.anchors.resume(step, record['anchors'], self.state.params)
    if record['pending']:
      hosts = record['pending']
      self._pending = pending.load(self.workdir.path, step, hosts)


def _adopted(player: Player, graphdef: nnx.GraphDef, run: Run) -> Params:
  """What an adapted player is, as parameters of the policy."""
  if run.trainable != 'full':
    raise ValueError(
      'an adapter can be added to the trunk where config.trainable is full; '
      f'here it is {run.trainable}'
    )
  state = merged(nnx.merge(player.graphdef, *player.params))
  _, params, _ = split_params(nnx.merge(graphdef, state), run.trainable)
  return place(params, param_shardings(params, run.mesh))


def _record(loop: Loop) -> dict[str, Any]:
  """What a run that is taken up needs besides the train state: JSON."""
  return {
    'seen': {k: v for k, v in loop._seen.items() if math.isfinite(v)},
    'model': loop.run.loaded.sha256,
    'method': records.put(loop.workdir.path, loop.method_state),
    'teachers': resume.teachers_sha256(loop.run),
    'pending': jax.process_count() if loop._pending else 0,
    'tokens': loop.tokens,
    'scored': loop.scored,
    'adopted': loop.adopted,
    'seconds': loop.seconds,
    **loop.guard.state(),
  }


def _facts(loop: Loop) -> dict[str, Any]:
  """What a run's summary says of it besides its metrics."""
  return {
    'wall_s': loop.seconds,
    'tokens': loop.tokens,
    'scored': loop.scored,
    'seed': loop.run.seed,
    'optimizer_steps': int(loop.state.step),
    'adopted': loop.adopted,
    'skipped_updates': int(loop.state.skipped),
    'rollbacks': loop.guard.rollbacks,
    'stopped': loop.guard.stopped,
    'model': loop.run.loaded.sha256,
    'device': jax.devices()[0].device_kind,
    'product_bits': loop.bits,
    'attention': form_of(
      *(loop.run.loaded.model.config, loop.run.shapes.length),
      jax.devices()[0].platform,
    ),
  }

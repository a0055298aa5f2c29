"""The loop: collect -> update -> refresh anchors -> evaluate -> save.

It knows a method only by the members of its contract, and holds all the
state there is: a run that dies goes on from its newest checkpoint as if it had
never stopped.
"""

import dataclasses
import math
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import grain
import jax
import numpy as np
from etils import epath
from flax import nnx
from tqdm import tqdm

from jaxdistill import dist
from jaxdistill.anchors import Anchors, Bank, parse_rule
from jaxdistill.batch import make_minibatches
from jaxdistill.checkpoint import Checkpoints, RefusedError, abstract
from jaxdistill.eval import Alarms
from jaxdistill.methods.method import anchors_of
from jaxdistill.rollout.adapt import merged
from jaxdistill.rollout.player import Player
from jaxdistill.run import records
from jaxdistill.run.ask import (
  COLLECT,
  evaluate,
  make_player,
  place_teacher,
  probe,
  reduce_metrics,
  share,
)
from jaxdistill.run.run import Run
from jaxdistill.run.step import (
  WHOLE,
  Params,
  init_state,
  make_step,
  param_shardings,
  place,
  split_params,
  with_fresh_moments,
)
from jaxdistill.run.stopping import Stopped, asked_to_stop
from jaxdistill.run.workdir import Workdir
from jaxdistill.types import Collected, Problem, Update

GUARD = 'guard'  # the anchor that a rollback goes back to


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
    self.run, self.workdir = run, Workdir(root)
    dist.by_first(lambda: self.workdir.claim(config))
    self.workdir.claim(config)  # now that process 0 has written it, by all
    self.checkpoints = Checkpoints(root, run.keep_checkpoints)
    needed = anchors_of(run.method)
    asked = {name: anchor.rule for name, anchor in needed.items()}
    rules = {**run.anchors, **asked, GUARD: 'frozen'}
    self.anchors = Anchors(
      Bank(epath.Path(root) / 'anchors', run.keep_anchors),
      {n: parse_rule(r) for n, r in rules.items() if n not in run.teachers},
      needed.keys() - run.teachers.keys(),
      run.seed,
      [n for n, anchor in needed.items() if anchor.clock == 'optimizer'],
    )
    self.graphdef, params, frozen = split_params(
      run.loaded.model, run.trainable
    )
    self.state = init_state(params, run.optimizer, run.mesh)
    self.frozen = place(frozen, param_shardings(frozen, run.mesh))
    self.method_state = run.method.init()
    self.key = jax.random.key(run.seed)
    self.tokens, self.seconds, self.first_step = 0, 0.0, 0
    self.summary: dict[str, Any] = {}  # once it has come to its end
    self._seen: dict[str, float] = {}  # the newest metrics, for anchors' rules
    self.alarms = Alarms(run.alarms, run.guard.window, run.guard.errors)
    self.rollbacks, self.stopped = 0, ''
    self._layout = param_shardings(
      (*params, frozen), run.mesh, dist.DECODE_RULES
    )
    self._teachers = {n: place_teacher(t, run) for n, t in run.teachers.items()}
    self._in_loss = [n for n, anchor in needed.items() if anchor.in_loss]
    self._step = make_step(
      self.graphdef,
      run.method.loss,
      run.optimizer,
      {n: self._graph_of(n) for n in self._in_loss},
    )
    problems: Any = run.task.problems('train')  # read by index, lists too
    problems = grain.MapDataset.source(problems)
    self._problems = problems.shuffle(seed=run.seed).repeat()
    try:
      self._resume()
    except Exception:
      self.workdir.close()  # others may come in
      raise

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
      self.workdir.close()

  def _steps(self, stop: Callable[[int], bool]) -> Iterator[dict[str, float]]:
    run = self.run
    finished = self.finished()
    self.checkpoints.forget_after(self.first_step)
    # What a finished run did after its last step stays.
    self.anchors.forget_from(self.first_step + finished)
    self.workdir.open(self.first_step + finished, finished)
    dist.barrier('what a dying run left is gone')
    steps = range(self.first_step, 0 if finished else run.steps)
    bar = tqdm(
      steps,
      initial=self.first_step,
      total=run.steps,
      unit='step',
      disable=not self.workdir.writes,
      dynamic_ncols=True,
    )
    bar.set_postfix_str('the first step compiles')
    shown: dict[str, float] = {}
    last: list[dict[str, float]] = []
    for step in bar:
      begin = time.perf_counter()
      metrics = self._guard(step)
      if self.stopped:
        last = [self._end(step, metrics)]
        break
      # What is evaluated is what is trained on: after a step back, that.
      metrics |= self._evaluate() if step % run.eval_every == 0 else {}
      self._refresh_anchors(step, metrics)
      metrics |= self._train_step(step)
      self.seconds += time.perf_counter() - begin
      metrics |= {'time': self.seconds, 'rollout/tokens': self.tokens}
      self._seen = metrics
      self.workdir.log(step, metrics)
      shown |= metrics
      bar.set_postfix_str(self._progress(shown))
      line = {'step': step} | metrics
      if self._spent() or step + 1 == run.steps:
        last = [line, self._end(step + 1)]
        break
      try:
        yield line
      except GeneratorExit:
        if threading.main_thread().is_alive():  # Orbax starts others
          self._rest(step + 1)
        raise
      if stop(step):
        bar.close()
        self._rest(step + 1)
        raise Stopped(f'{self.workdir.path} is saved at step {step + 1}')
      if (step + 1) % run.checkpoint_every == 0:
        self._save(step + 1)
      self.checkpoints.seal()
    bar.close()
    self.checkpoints.close()
    self.summary = self._summary()
    yield from last

  def finished(self) -> bool:
    """Whether nothing is left to do from where the run was taken up."""
    ended = self.first_step >= self.run.steps or self._spent()
    return ended or bool(self.stopped)

  def _spent(self) -> bool:
    return 0 < self.run.tokens <= self.tokens

  def _end(
    self, step: int, metrics: dict[str, float] | None = None
  ) -> dict[str, float]:
    begin = time.perf_counter()
    if metrics is None:
      metrics = self._guard(step, last=True)
    metrics |= self._evaluate()
    self._refresh_anchors(step, metrics)
    self.seconds += time.perf_counter() - begin
    metrics |= {'time': self.seconds, 'rollout/tokens': self.tokens}
    self.workdir.log(step, metrics)
    # One saved at this very step does not know that the run has ended.
    self.checkpoints.seal(wait=True)
    self.checkpoints.forget_after(step - 1)
    dist.barrier('nothing is saved at the end yet')
    self._save(step)
    return {'step': step} | metrics

  def _rest(self, step: int) -> None:
    """Saves before the end, so that the run may go on from here."""
    self._save(step)
    self.checkpoints.close()

  def _summary(self) -> dict[str, Any]:
    return self.workdir.summarise(
      {
        'wall_s': self.seconds,
        'tokens': self.tokens,
        'seed': self.run.seed,
        'optimizer_steps': int(self.state.step),
        'skipped_updates': int(self.state.skipped),
        'rollbacks': self.rollbacks,
        'stopped': self.stopped,
        'model': self.run.loaded.sha256,
        'device': jax.devices()[0].device_kind,
      }
    )

  def _guard(self, step: int, last: bool = False) -> dict[str, float]:
    """Looks at the alarms and does what they ask for; returns metrics.

    Args:
      step: Of the run, before its updates.
      last: Whether the run ends here.
    """
    guard, metrics, by_problem = self.run.guard, {}, {}
    if guard.every and (last or step % guard.every == 0):
      metrics, by_problem = probe(self.run, self.player(self.state.params))
    if GUARD not in self.anchors.held:
      self.anchors.move(GUARD, step, self.state.params, keep=1)
      if by_problem:
        self.alarms.improved(by_problem)
    stepped = {
      name: value
      for name, value in self._seen.items()
      if not name.startswith('probe/')
    }
    fired = self.alarms.look(stepped | metrics, by_problem)
    done, acts = {'warn': 'a warning'}, guard.act and bool(self.alarms.best)
    if not acts:
      why = 'there is no probe to tell the best version by'
      done['warn'] += f': {why if guard.act else "guard.act is off"}'
      fired = [
        dataclasses.replace(f, action='warn')
        if f.action == 'rollback' or not guard.act
        else f
        for f in fired
      ]
    asked = {f.action for f in fired}
    if 'stop' in asked:
      self.stopped = ', '.join(f.alarm for f in fired if f.action == 'stop')
      done['stop'] = 'the run ends'
    if 'rollback' in asked:
      done['rollback'] = self._go_back(step, last)
    elif by_problem and self.alarms.improved(by_problem):
      self.anchors.move(GUARD, step, self.state.params, keep=1)
    elif acts and (last or self.stopped):
      self._become_best(step)
    for f in fired:
      self.workdir.alarm(step, f, done[f.action])
    if acts and (last or self.stopped):
      metrics['guard/kept'] = self.anchors.held[GUARD]
    if fired or self.rollbacks:
      metrics |= {
        'guard/alarms': len(fired),
        'guard/rollbacks': self.rollbacks,
        'guard/lr_scale': float(self.state.scale),
      }
    return metrics

  def _become_best(self, step: int) -> int:
    """The policy becomes the guard's; returns which step's that is."""
    to, was = self.anchors.held[GUARD], self.state
    like = abstract(was.params)
    kept = {'step': was.step, 'skipped': was.skipped, 'scale': was.scale}
    del self.state, was  # there may not be room for both
    params = self.anchors.bank.restore(GUARD, to, like)
    self.state = init_state(params, self.run.optimizer, self.run.mesh)
    self.state = self.state._replace(**kept)
    self.anchors.went_back(step, to, self.state.params)
    self.alarms.went_back()
    return to

  def _go_back(self, step: int, last: bool) -> str:
    """Goes on from the best version with a smaller step; says so in words."""
    guard = self.run.guard
    did = f'went back to the version of step {self._become_best(step)}'
    self.state = self.state._replace(scale=self.state.scale * guard.lr_scale)
    self.rollbacks += 1
    if last:
      return did
    if self.rollbacks > guard.rollbacks:
      self.stopped = f'{self.rollbacks} rollbacks'
      return f'{did}, and the run ends: it has gone back {self.rollbacks} times'
    scale = float(self.state.scale)
    return f'{did}, learning rate x {scale:g}, other draws from here'

  def _train_step(self, step: int) -> dict[str, float]:
    begin = time.perf_counter()
    collected = self._collect(step)
    self.method_state = collected.state
    if collected.adopt is not None:
      self._adopt(collected.adopt)
    self.workdir.transcripts(step, collected.transcripts)
    metrics = reduce_metrics(collected.metrics)
    middle = time.perf_counter()
    losses = [m for u in collected.updates for m in self.update(u)]
    for name in {name for m in losses for name in m}:
      values = [float(m[name]) for m in losses if name in m]
      metrics[f'train/{name}'] = float(np.mean(values))
    end = time.perf_counter()
    tokens = int(dist.sum_over_hosts(np.array(collected.tokens)))
    self.tokens += tokens
    return metrics | {
      'rollout/tokens_per_s': tokens / (middle - begin),
      'time/collect_s': middle - begin,
      'time/update_s': end - middle,
      'time/step_s': end - begin,
    }

  def _collect(self, step: int) -> Collected:
    # Copies that are laid out for decoding live no longer than this call.
    players = {
      name: self._teachers[name]
      if name in self._teachers
      else self.player(self.anchors.params[name])
      for name in self.run.method.anchors
    }
    players['policy'] = self.player(self.state.params)
    key = jax.random.fold_in(jax.random.fold_in(self.key, COLLECT), step)
    return self.run.method.collect(
      players, self.draw(step), self.method_state, step, key
    )

  def _adopt(self, player: Player) -> None:
    """The policy becomes what an adapted player is."""
    if self.run.trainable != 'full':
      raise ValueError(
        'an adapter can be added to the trunk where config.trainable is full; '
        f'here it is {self.run.trainable}'
      )
    state = merged(nnx.merge(player.graphdef, *player.params))
    model = nnx.merge(self.graphdef, state)
    _, params, _ = split_params(model, self.run.trainable)
    params = place(params, param_shardings(params, self.run.mesh))
    self.state = self.state._replace(params=params)

  def _teachers_sha256(self) -> dict[str, str]:
    return {name: t.loaded.sha256 for name, t in self.run.teachers.items()}

  def _graph_of(self, name: str) -> Any:
    teacher = self._teachers.get(name)
    return teacher.graphdef if teacher else self.graphdef

  def _parts_of(self, name: str) -> tuple:
    """The parameters of an anchor, as its graph wants them."""
    teacher = self._teachers.get(name)
    if teacher:
      return teacher.params
    return (*self.anchors.params[name], self.frozen)

  def update(self, update: Update) -> list[dict[str, jax.Array]]:
    """Takes an update's optimizer steps; one without any row takes none."""
    run, metrics = self.run, []
    kind = update.sets[0].kind
    # What is measured of the whole is that set's where there is only one.
    prefix = f'{kind}_' if kind and len(update.sets) == 1 else ''
    parts = [
      make_minibatches(
        row_set,
        update.minibatches,
        run.loaded.model.role_index(row_set.role),
        run.mesh,
        run.shapes,
      )
      for row_set in update.sets
    ]
    steps = [
      tuple(batch for batch in batches if batch is not None)
      for batches in zip(*parts, strict=True)
    ]
    if update.fresh_optimizer:
      self.state = with_fresh_moments(self.state, run.optimizer, run.mesh)
    for batches in steps * update.epochs:
      if batches:
        anchors = {name: self._parts_of(name) for name in self._in_loss}
        self.state, values = self._step(
          self.state, self.frozen, anchors, batches
        )
        named = {prefix * (k in WHOLE) + k: v for k, v in values.items()}
        metrics.append(named)
        self._anchors_after_update(named)
    return metrics

  def _anchors_after_update(self, metrics: Mapping[str, jax.Array]) -> None:
    if self.anchors.by_update:
      seen = {f'train/{k}': float(v) for k, v in metrics.items()}
      step = int(self.state.step)
      self.anchors.after_update(step, self.state.params, seen)

  def player(self, params: Params) -> Player:
    """Anyone with this run's architecture, laid out for decoding."""
    laid_out = place((*params, self.frozen), self._layout)
    return make_player(self.run, self.graphdef, laid_out)

  def draw(self, step: int) -> list[Problem]:
    """This host's share of a step's problems, read by index."""
    n = self.run.method.problems
    return share(lambda i: self._problems[step * n + i], n)

  def _refresh_anchors(self, step: int, evaluated: Mapping[str, float]) -> None:
    seen = {**self._seen, **evaluated}
    oldest = self.checkpoints.oldest()
    self.anchors.refresh(step, self.state.params, seen, oldest)

  def _progress(self, latest: Mapping[str, float]) -> str:
    """The held-out score and the speed, for the progress bar."""
    split = self.run.eval.splits[0]
    learning = (
      ('selfplay/agreement', 'agreement {:.2f}')
      if 'selfplay/agreement' in latest
      else ('train/loss', 'loss {:.3f}')
    )
    pairs = (
      (f'eval/{split}/accuracy_sampled', 'sampled {:.3f}'),
      (f'eval/{split}/accuracy_greedy', 'greedy {:.3f}'),
      learning,
      ('rollout/tokens_per_s', '{:,.0f} tokens/s'),
    )
    return ', '.join(f.format(latest[k]) for k, f in pairs if latest.get(k))

  def _evaluate(self) -> dict[str, float]:
    return evaluate(self.run, self.player(self.state.params))

  def _save(self, step: int) -> None:
    anchors = self.anchors.save(step)  # on disk before what needs them is
    self.checkpoints.save(
      step,
      self.state,
      {
        'anchors': anchors,
        'seen': {k: v for k, v in self._seen.items() if math.isfinite(v)},
        'model': self.run.loaded.sha256,
        'method': records.put(self.workdir.path, self.method_state),
        'teachers': self._teachers_sha256(),
        'tokens': self.tokens,
        'seconds': self.seconds,
        'alarms': self.alarms.state(),
        'rollbacks': self.rollbacks,
        'stopped': self.stopped,
      },
      self.anchors.needs(GUARD),
    )

  def _resume(self) -> None:
    # One process decides, so that all restore the same.
    step, damaged = dist.by_first(self.checkpoints.recover)
    self.checkpoints.reload()
    if self.workdir.writes:
      for later, why in damaged.items():
        print(
          f'checkpoint {later} of {self.workdir.path} is damaged ({why}) and '
          f'was moved to {self.workdir.path / "damaged"}',
          file=sys.stderr,
        )
    if step is None:
      return
    self.state, record = self.checkpoints.restore(step, self.state)
    if record['model'] != self.run.loaded.sha256:
      raise RefusedError(
        f'{self.workdir.path} began from a model with SHA-256 '
        f'{record["model"][:12]}; config.model now has '
        f'{self.run.loaded.sha256[:12]}'
      )
    if record['teachers'] != self._teachers_sha256():
      raise RefusedError(
        f'{self.workdir.path} was taught by other models than its config names '
        'now: their SHA-256 differ'
      )
    self.method_state = records.get(self.workdir.path, record['method'])
    self.tokens, self.seconds = record['tokens'], record['seconds']
    self.first_step, self._seen = step, record['seen']
    self.alarms.resume(record['alarms'])
    self.rollbacks, self.stopped = record['rollbacks'], record['stopped']
    self.anchors.resume(step, record['anchors'], self.state.params)

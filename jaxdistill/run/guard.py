"""A run's guard: it looks at the alarms, and holds the best version."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxdistill.anchors import Anchors
from jaxdistill.eval import Alarms, Decision, decide
from jaxdistill.rollout.player import Player
from jaxdistill.run.ask import probe
from jaxdistill.run.run import Run
from jaxdistill.run.step import Params, TrainState, with_fresh_moments
from jaxdistill.run.workdir import Workdir

GUARD = 'guard'  # the anchor that a rollback goes back to


class Guard:
  """Watches a run and holds its best version, as the anchor `GUARD`.

  Args:
    run: What is watched, and how.
    anchors: That `GUARD` is one of.
    workdir: Where alarms are written down.

  Attributes:
    alarms: What they remember.
    rollbacks: How often the run has gone back.
    stopped: Why it has ended before its time; empty if it has not.
  """

  def __init__(self, run: Run, anchors: Anchors, workdir: Workdir):
    self._run, self._anchors, self._workdir = run, anchors, workdir
    self.alarms = Alarms(run.alarms, run.guard.window, run.guard.errors)
    self.rollbacks, self.stopped = 0, ''

  def state(self) -> dict[str, Any]:
    """What `resume` needs: JSON."""
    return {
      'alarms': self.alarms.state(),
      'rollbacks': self.rollbacks,
      'stopped': self.stopped,
    }

  def resume(self, state: Mapping[str, Any]) -> None:
    """Takes up what `state` returned."""
    self.alarms.resume(state['alarms'])
    self.rollbacks, self.stopped = state['rollbacks'], state['stopped']

  def look(
    self,
    step: int,
    state: TrainState,
    seen: Mapping[str, float],
    player: Callable[[Params], Player],
    last: bool,
  ) -> tuple[Decision, dict[str, float]]:
    """Looks at the probe, if it is time, and at the alarms.

    Args:
      step: Of the run, before its updates.
      state: Of the policy; a version that is the best is copied.
      seen: The newest metrics of the run.
      player: Makes one of parameters.
      last: Whether the run ends here.

    Returns:
      What is to be done, and the probe's metrics.
    """
    config, metrics, by_problem = self._run.guard, {}, {}
    if config.every and (last or step % config.every == 0):
      metrics, by_problem = probe(self._run, player(state.params))
    first = GUARD not in self._anchors.held
    if first:
      self._hold(step, state.params, by_problem)
    stepped = {k: v for k, v in seen.items() if not k.startswith('probe/')}
    decision = decide(
      self.alarms.look(stepped | metrics, by_problem),
      config,
      best=self._anchors.held[GUARD] if self.alarms.best else None,
      better=bool(by_problem) and self.alarms.better(by_problem),
      rollbacks=self.rollbacks,
      scale=float(state.scale),
      last=last,
    )
    if decision.is_best and not first:
      self._hold(step, state.params, by_problem)
    self.rollbacks, self.stopped = decision.rollbacks, decision.stopped
    return decision, metrics

  def best(self, step: int, decision: Decision, left: TrainState) -> TrainState:
    """The best version, for the policy to become.

    Its moments are new; the schedule's clock runs on. Anchors that have
    followed the policy that is left go with it.

    Args:
      step: Of the run.
      decision: Says whether this is a rollback.
      left: The state that is left; of its parameters only shapes, dtypes and
        shardings are read, of its moments nothing.
    """
    to = self._anchors.held[GUARD]
    params = self._anchors.bank.restore(GUARD, to, left.params)
    scale = left.scale
    if decision.rollback:
      scale = scale * self._run.guard.lr_scale
    state = with_fresh_moments(
      left._replace(params=params, scale=scale),
      self._run.optimizer,
      self._run.mesh,
    )
    self._anchors.went_back(step, to, state.params)
    self.alarms.went_back()
    return state

  def report(
    self, step: int, decision: Decision, state: TrainState
  ) -> dict[str, float]:
    """Writes down which alarms went off and what was done; returns metrics."""
    for fired in decision.fired:
      self._workdir.alarm(step, fired, decision.did[fired.action])
    metrics: dict[str, float] = {}
    if decision.kept:
      metrics['guard/kept'] = self._anchors.held[GUARD]
    if decision.fired or self.rollbacks:
      metrics |= {
        'guard/alarms': len(decision.fired),
        'guard/rollbacks': self.rollbacks,
        'guard/lr_scale': float(state.scale),
      }
    return metrics

  def _hold(self, step: int, params: Params, by_problem: Mapping) -> None:
    self._anchors.move(GUARD, step, params, keep=1)
    if by_problem:
      self.alarms.improved(by_problem)

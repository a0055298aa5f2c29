"""What a run does about its alarms: decided here, done in `run/guard.py`."""

import dataclasses
from collections.abc import Mapping, Sequence

from jaxdistill.eval.alarms import Fired, GuardConfig


@dataclasses.dataclass(frozen=True)
class Decision:
  """What a run does about what its guard has seen.

  Attributes:
    fired: The alarms that went off, each with the action that is taken.
    did: What that is, in words, by action.
    is_best: Whether the policy is the best version from now on.
    rollback: Whether it goes back to the best one, with a smaller step.
    rollbacks: How many of them there are then.
    stopped: Why the run ends before its time; empty if it does not.
    kept: Whether it ends here, and on its best version.
  """

  fired: tuple[Fired, ...]
  did: Mapping[str, str]
  is_best: bool
  rollback: bool
  rollbacks: int
  stopped: str
  kept: bool

  @property
  def becomes_best(self) -> bool:
    """Whether the policy becomes the best version, which it is not."""
    return self.rollback or (self.kept and not self.is_best)


def decide(
  fired: Sequence[Fired],
  config: GuardConfig,
  *,
  best: int | None,
  better: bool,
  rollbacks: int,
  scale: float,
  last: bool,
) -> Decision:
  """Decides what to do, from plain numbers.

  Args:
    fired: The alarms that went off, each with the action that it asks for.
    config: What may be done.
    best: The step of the best version; None where no probe tells which it is.
    better: Whether the probe has just shown that no version is better.
    rollbacks: How many there have been.
    scale: What the learning rate is multiplied with.
    last: Whether the run ends here anyway.
  """
  acts, warning = config.act and best is not None, 'a warning'
  if not acts:
    why = 'there is no probe to tell the best version by'
    warning += f': {why if config.act else "guard.act is off"}'
    fired = [
      dataclasses.replace(f, action='warn')
      if f.action == 'rollback' or not config.act
      else f
      for f in fired
    ]
  rollback = any(f.action == 'rollback' for f in fired)
  rollbacks += rollback
  stopped = ', '.join(f.alarm for f in fired if f.action == 'stop')
  went = f'went back to the version of step {best}'
  if rollback and not last:
    if rollbacks > config.rollbacks:
      stopped = f'{rollbacks} rollbacks'
      went += f', and the run ends: it has gone back {rollbacks} times'
    else:
      smaller = scale * config.lr_scale
      went += f', learning rate x {smaller:g}, other draws from here'
  return Decision(
    fired=tuple(fired),
    did={'warn': warning, 'rollback': went, 'stop': 'the run ends'},
    is_best=better and not rollback,
    rollback=rollback,
    rollbacks=rollbacks,
    stopped=stopped,
    kept=acts and (last or bool(stopped)),
  )

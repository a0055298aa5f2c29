"""The anchors of a run: who they are now, and which snapshots that takes."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxdistill.anchors.bank import Bank
from jaxdistill.anchors.rules import League, Rule


class Anchors:
  """Moves anchors by their rules and keeps their snapshots in a bank.

  Args:
    bank: Where snapshots go: one whenever an anchor becomes the policy; of one
      that blends also whenever the run is saved.
    rules: Name -> rule.
    at_hand: Names whose parameters a method asks for.
    seed: Of the draws of leagues.
    by_update: Of these, names whose rules count steps of the optimizer. What
      they hold is no version of a run's step, so it is saved with the run only.
  """

  def __init__(
    self,
    bank: Bank,
    rules: Mapping[str, Rule],
    at_hand: Collection[str],
    seed: int,
    by_update: Collection[str] = (),
  ):
    self.bank, self.rules, self._seed = bank, rules, seed
    self._at_hand = {n for n, r in rules.items() if n in at_hand or r.blends}
    self.by_update = {*by_update}
    self._own = {n for n, r in rules.items() if r.blends} | self.by_update
    self.params: dict[str, Any] = {}
    self.held: dict[str, int] = {}  # whose policy each one is, or became
    self._mind: dict[str, float | None] = dict.fromkeys(rules)
    self._needed: dict[int, dict[str, int]] = {}  # by each saved step

  def refresh(
    self, step: int, policy: Any, seen: Mapping[str, float], oldest: int
  ) -> None:
    """Moves every anchor as its rule says.

    Args:
      step: Of the run, before its updates.
      policy: Parameters now; copied where they are kept.
      seen: Metrics that rules may read.
      oldest: The oldest step that the run may have to go on from.
    """
    self._needed = {s: h for s, h in self._needed.items() if s >= oldest}
    for name, rule in self.rules.items():
      pull = 0.0
      if name not in self.by_update:
        mind = self._mind[name]
        pull, self._mind[name] = rule.pull(name, step, seen, mind)
      if name not in self.held:
        pull = 1.0
      if pull == 1:
        # A copy: the policy's own arrays are donated to the next step.
        self._take(name, step, jax.tree.map(lambda x: x.copy(), policy))
      elif pull:
        self.params[name] = _blend(self.params[name], policy, pull)
      if isinstance(rule, League) and name in self._at_hand:
        self._draw(name, step, policy)

  def after_update(
    self, step: int, policy: Any, seen: Mapping[str, float]
  ) -> None:
    """Moves the anchors that count steps of the optimizer.

    Args:
      step: How many it has taken.
      policy: Parameters after the last one.
      seen: Metrics of that one, `train/...`.
    """
    for name in sorted(self.by_update):
      mind = self._mind[name]
      pull, self._mind[name] = self.rules[name].pull(name, step, seen, mind)
      if pull == 1:
        self.params[name] = jax.tree.map(lambda x: x.copy(), policy)
      elif pull:
        self.params[name] = _blend(self.params[name], policy, pull)

  def move(
    self, name: str, step: int, policy: Any, keep: int | None = None
  ) -> None:
    """Makes an anchor a copy of the policy, whatever its rule says.

    Args:
      name: Of the anchor.
      step: Of the run.
      policy: Parameters now.
      keep: Newest snapshots to keep of it; None is as many as of others.
    """
    copy = jax.tree.map(lambda x: x.copy(), policy)
    self._take(name, step, copy, keep)

  def went_back(self, step: int, to: int, policy: Any) -> None:
    """Moves along the anchors that have followed a policy that was left.

    Args:
      step: Of the run.
      to: Whose policy it went back to.
      policy: Its parameters.
    """
    for name, rule in self.rules.items():
      if rule.chooses or name not in self.held:
        continue  # their choice stands, or they have made none yet
      if name in self._own or self.held[name] > to:
        self.move(name, step, policy)

  def _take(
    self, name: str, step: int, params: Any, keep: int | None = None
  ) -> None:
    needed = [held[name] for held in self._needed.values()]
    if isinstance(self.rules[name], League):
      needed = [0]  # it may draw any
    # What went back and is then due at the same step is on its way already.
    if self.held.get(name) != step:
      self.bank.save(name, step, params, min(needed, default=step), keep)
    self.held[name] = step
    if name in self._at_hand:
      self.params[name] = params

  def _draw(self, name: str, step: int, like: Any) -> None:
    k = self.rules[name].k  # pyright: ignore[reportAttributeAccessIssue]
    draw = np.random.default_rng([self._seed, step, *name.encode()])
    drawn = k * int(draw.integers(step // k + 1))
    if drawn != self.held[name]:
      self.params[name] = self.bank.restore(name, drawn, like)
      self.held[name] = drawn

  def save(self, step: int) -> dict[str, Any]:
    """Returns what `resume` needs, once all that it names is on disk.

    Args:
      step: Of the run, at which it would go on.
    """
    for name in sorted(self._own):
      if self.held[name] != step:
        self._take(name, step, self.params[name])
    self.bank.wait()
    self._needed[step] = dict(self.held)
    needed = {str(s): held for s, held in self._needed.items()}
    return {'needed': needed, 'mind': dict(self._mind)}

  def needs(self, *more: str) -> list[epath.Path]:
    """Snapshots without which a run that was saved now could not go on.

    Args:
      *more: Anchors that are needed though they are not at hand.
    """
    found = []
    for name in sorted({*self._at_hand, *more}):
      drawn = isinstance(self.rules[name], League)  # any of them
      steps = self.bank.steps(name) if drawn else [self.held[name]]
      found += [self.bank.root / name / str(s) for s in steps]
    return found

  def resume(self, step: int, record: Mapping[str, Any], like: Any) -> None:
    """Takes up what `save` returned at `step`.

    Args:
      step: Of the run.
      record: What `save` returned.
      like: Parameters that say what goes where.
    """
    self._needed = {int(s): dict(h) for s, h in record['needed'].items()}
    self._mind = dict(record['mind'])
    self.held = dict(self._needed[step])
    for name in self._at_hand:
      self.params[name] = self.bank.restore(name, self.held[name], like)

  def forget_from(self, step: int) -> None:
    """Deletes what a run that died after `step` took of itself since."""
    self.bank.forget_from(step, self.held)


@jax.jit
def _blend(anchor, policy, pull):
  return jax.tree.map(lambda a, p: a + pull * (p - a), anchor, policy)

"""Who takes part in a run besides its policy: past selves and other models."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from etils import epath
from flax import nnx

from jaxdistill.anchors import Anchors, Bank, parse_rule
from jaxdistill.methods.method import anchors_of
from jaxdistill.rollout.player import Player
from jaxdistill.run.ask import evaluate, place_teacher
from jaxdistill.run.guard import GUARD
from jaxdistill.run.run import Run
from jaxdistill.run.step import Params, TrainState


class Others:
  """The anchors of a run, whether they are past selves or other models.

  Args:
    run: What to do.
    root: The run's folder.
    graphdef: Of the policy, and so of its past selves.
    frozen: What never moves of them.
  """

  def __init__(
    self, run: Run, root: epath.PathLike, graphdef: nnx.GraphDef, frozen: Any
  ):
    self._graphdef, self._frozen = graphdef, frozen
    needed = anchors_of(run.method)
    asked = {name: anchor.rule for name, anchor in needed.items()}
    rules = {**run.anchors, **asked, GUARD: 'frozen'}
    self.selves = Anchors(
      Bank(epath.Path(root) / 'anchors', run.keep_anchors),
      {n: parse_rule(r) for n, r in rules.items() if n not in run.teachers},
      needed.keys() - run.teachers.keys(),
      run.seed,
      [
        n
        for n, anchor in needed.items()
        if anchor.clock == 'optimizer' and n not in run.teachers
      ],
    )
    self._teachers = {n: place_teacher(t, run) for n, t in run.teachers.items()}
    self._names = [*needed]
    self._in_loss = [n for n, anchor in needed.items() if anchor.in_loss]

  def players(self, laid_out: Callable[[Params], Player]) -> dict[str, Player]:
    """All that a method asks, by name.

    Args:
      laid_out: Makes a player of parameters of the policy's kind.
    """
    return {
      name: self._teachers.get(name) or laid_out(self.selves.params[name])
      for name in self._names
    }

  def evaluated(self, run: Run) -> dict[str, float]:
    """What is observed of the other models, `eval/<split>/<model>_<name>`."""
    return {
      name: value
      for model, player in self._teachers.items()
      for name, value in evaluate(run, player, prefix=f'{model}_').items()
    }

  def graphs(self) -> dict[str, nnx.GraphDef]:
    """Graphs of those that the loss reads."""
    return {
      n: self._teachers[n].graphdef if n in self._teachers else self._graphdef
      for n in self._in_loss
    }

  def parts(self) -> dict[str, tuple]:
    """The parameters of those, as their graphs want them."""
    return {
      n: self._teachers[n].params
      if n in self._teachers
      else (*self.selves.params[n], self._frozen)
      for n in self._in_loss
    }

  def after_update(
    self, state: TrainState, metrics: Mapping[str, jax.Array]
  ) -> None:
    """Moves those that count steps of the optimizer, after one of them."""
    if self.selves.by_update:
      seen = {f'train/{k}': float(v) for k, v in metrics.items()}
      self.selves.after_update(int(state.step), state.params, seen)

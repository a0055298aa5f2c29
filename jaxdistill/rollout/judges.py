"""Judges: the verifiers, and two that a model is held against.

A judge scores responses, NaN where it gives none; see `verify.py`.

| name     | a response's score                                  |
|----------|-----------------------------------------------------|
| `known`  | what the task pays for it: a judge without mistakes |
| `random` | any number from 0 to 1: a judge that knows nothing  |
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from jaxdistill import rewards
from jaxdistill.dist.hosts import together
from jaxdistill.rollout.verify import VERIFIERS, Verified
from jaxdistill.types import Problem, Rollout


def by_known(player, problems, rollouts_PG, key, max_tokens) -> Verified:
  """What the task pays."""
  del player, key, max_tokens

  def paid(problem: Problem, rollouts_G: Sequence[Rollout]) -> np.ndarray:
    answers_G = rewards.answers(problem.task, rollouts_G)
    return _whole(problem.task.reward(problem, answers_G), rollouts_G)

  return Verified(together(lambda: [*map(paid, problems, rollouts_PG)]))


def by_chance(player, problems, rollouts_PG, key, max_tokens) -> Verified:
  """Uniform draws, folded from a problem's address."""
  del player, max_tokens
  seed = jax.random.key_data(key).tolist()

  def drawn(problem: Problem, rollouts_G: Sequence[Rollout]) -> np.ndarray:
    draws = np.random.default_rng([*seed, problem.address])
    return _whole(draws.random(len(rollouts_G)), rollouts_G)

  return Verified([*map(drawn, problems, rollouts_PG)])


def _whole(scores_G, rollouts_G: Sequence[Rollout]) -> np.ndarray:
  """No score for what was cut."""
  whole_G = [r.finish == 'stop' for r in rollouts_G]
  return np.where(whole_G, np.asarray(scores_G, float), np.nan)


SCORERS: Mapping[str, Callable[..., Verified]] = {
  **VERIFIERS,
  'known': by_known,
  'random': by_chance,
}
# Their scores depend on which other responses there are.
COMPARING = ('vote', 'tournament')

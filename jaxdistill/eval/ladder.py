"""The ladder of contexts, measured without training.

What a model does when it is told more: how often it is right, how long its
answers are, how much it doubts (arXiv 2603.24472, section 3), and what it would
have said in the place of each token of the answers that it gave without being
told. That is what self-distillation follows, so a rung shows in advance what
following it makes of the model.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxdistill import rewards
from jaxdistill.dist.hosts import agree_max, together
from jaxdistill.rollout import contexts
from jaxdistill.rollout.apart import apart
from jaxdistill.rollout.markers import doubts
from jaxdistill.rollout.player import Player
from jaxdistill.rollout.samplers import Sampling
from jaxdistill.types import Problem, Prompt, Rollout

FORKS = 0.2  # of a response's tokens: where the model is least sure
TOP = 16


def ladder(
  player: Player,
  problems: Sequence[Problem],
  *,
  rungs: Sequence[str] = contexts.NAMES,
  judge: str = 'known',
  solution: str = 'sibling',
  samples: int,
  max_tokens: int,
  key: jax.Array,
) -> dict[str, dict[str, np.ndarray]]:
  """Observations of every rung; every process calls it together.

  Args:
    player: Student and teacher: it answers without being told, then told.
    problems: This host's, each with an address of its own.
    rungs: Of `contexts.NAMES`.
    judge: Who says what is right: `known` or `vote`.
    solution: Whose solutions are told: `sibling` or `reference`.
    samples: Answers to each problem, and told answers on each rung.
    max_tokens: Longest answer.
    key: The same key gives the same draws.

  Returns:
    By rung: `told` (per response, whether there was something to tell), and of
    those that were told, `right`, `answered`, `length`, `cut`, `markers`,
    `markers_words` and their density; and per token of the untold answers
    `kl_fork` and `kl_other`, KL(untold || told) in nats where the model is
    least sure (a fifth of each answer) and elsewhere, and `overlap` of the 16
    likeliest tokens. If `none` is a rung and all answers are known, `untold`:
    whether `none` is right in the places where the rung has something to tell,
    for a rung is of those alone.
  """
  keys = [jax.random.fold_in(key, i) for i in range(3)]
  answered_PG = player.generate(
    [Prompt.solve(p) for p in problems], Sampling(samples, max_tokens), keys[0]
  )
  cases_PG = contexts.cases(problems, answered_PG, judge, solution)
  cases = [c for cases_G in cases_PG for c in cases_G]
  forks = _forks(player, [c.rollout for c in cases])
  out, places = {}, {}
  for rung in rungs:
    prompts_PG, _ = contexts.prompts(
      rung, cases_PG, player, max_tokens, keys[1]
    )
    prompts = [p for prompts_G in prompts_PG for p in prompts_G]
    told = places[rung] = [i for i, prompt in enumerate(prompts) if prompt]
    asked: Any = [prompts[i] for i in told]
    said = player.generate(asked, Sampling(1, max_tokens), keys[2])
    rollouts = [r for (r,) in said]
    found = _said([cases[i].problem for i in told], rollouts)
    kl, overlap = apart(
      player, player, [cases[i].rollout for i in told], asked, TOP
    )
    at = np.concatenate([np.zeros(0, bool), *(forks[i] for i in told)])
    kl = np.concatenate([np.zeros(0), *kl])
    out[rung] = found | {
      'told': np.array([p is not None for p in prompts], float),
      'kl_fork': kl[at],
      'kl_other': kl[~at],
      'overlap': np.concatenate([np.zeros(0), *overlap]),
    }
  unknown = 'none' not in out or len(out['none']['right']) < len(cases)
  if not agree_max(int(unknown))[0]:
    for rung, told in places.items():
      out[rung]['untold'] = out['none']['right'][told]
  return out


def _forks(player: Player, rollouts: Sequence[Rollout]) -> list[np.ndarray]:
  """Of each response the tokens where the model was least sure, bool[T]."""
  out = []
  for entropy_T in player.entropies(rollouts):
    most = np.argsort(-entropy_T, kind='stable')
    chosen = most[: max(1, round(FORKS * len(entropy_T)))]
    out.append(np.isin(np.arange(len(entropy_T)), chosen))
  return out


def _said(
  problems: Sequence[Problem], rollouts: Sequence[Rollout]
) -> dict[str, np.ndarray]:
  """Observations on told answers, one to each problem."""
  right = together(
    lambda: [
      contexts.by_task(p, [r]).right_G[0]
      for p, r in zip(problems, rollouts, strict=True)
      if p.answer is not None
    ]
  )
  answered = [
    rewards.answers(p.task, [r])[0] is not None
    for p, r in zip(problems, rollouts, strict=True)
  ]
  return {
    'right': np.array(right, float),
    'answered': np.array(answered, float),
    'length': np.array([len(r.tokens_T) for r in rollouts], float),
    'cut': np.array([r.finish == 'length' for r in rollouts], float),
    **doubts(rollouts),
  }

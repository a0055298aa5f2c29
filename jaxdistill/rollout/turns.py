"""Second attempts: what is said after a first one, and what comes of it.

What says so is the task's (`task.asking('revise', problem)`); it never tells
whether the first attempt was right. One that the length limit cut cannot be
gone on from: then there is no second, and both are wrong.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxdistill import dist, rewards
from jaxdistill.rollout.player import Player
from jaxdistill.rollout.samplers import Sampling
from jaxdistill.rollout.transcript import transcript
from jaxdistill.types import Problem, Prompt, Rollout

SAMPLES = 4  # of each problem, besides the greedy attempts


def revised(
  player: Player,
  problems: Sequence[Problem],
  first_PG: Sequence[Sequence[Rollout]],
  sampling: Sampling,
  key: jax.Array,
) -> list[list[Rollout]]:
  """Both attempts of each sample; every host calls it together.

  Args:
    player: Who makes the second attempts.
    problems: This host's.
    first_PG: First attempts at them, of one tokenizer with the player.
    sampling: How to draw one second attempt after each.
    key: As for `Player.follow_up`.

  Returns:
    Rollouts of two turns; of one that was cut, that one.
  """
  pairs = [
    (p, r) for p, r_G in zip(problems, first_PG, strict=True) for r in r_G
  ]
  said = dist.together(lambda: [p.task.asking('revise', p) for p, _ in pairs])
  both = iter(player.follow_up([r for _, r in pairs], said, sampling, key))
  return [[next(both)[0] for _ in first_G] for first_G in first_PG]


def second_of(both: Rollout) -> Rollout | None:
  """The second attempt as a response to all that was said before it.

  None where there is none.
  """
  if not both.earlier:
    return None
  start = int((both.turn_T < 1).sum())
  return dataclasses.replace(
    both,
    prompt_T=np.concatenate([both.prompt_T, both.tokens_T[:start]]),
    tokens_T=both.tokens_T[start:],
    logp_T=both.logp_T[start:],
    kept_T=both.kept_T[start:],
    turn_T=both.turn_T[start:] - 1,
    earlier=(),
  )


def followed(
  player: Player, problem: Problem, first: Rollout, second: Rollout
) -> Rollout:
  """A response as if it had been a second attempt after that first one.

  Its log-probs, of another context, are 0.
  """
  asked = problem.task.asking('revise', problem)
  said = player.tokenizer.turn(asked, first.prompt.think)
  return dataclasses.replace(
    second,
    prompt_T=np.concatenate(
      [first.prompt_T, first.tokens_T, np.array(said, np.int32)]
    ),
    logp_T=0 * second.logp_T,
    kept_T=0 * second.kept_T,
  )


def corrections(
  player: Player,
  problems: Sequence[Problem],
  max_tokens: int,
  key: jax.Array,
  first_by: Player | None = None,
) -> dict[str, list[float]]:
  """How a player's second attempts compare with first ones.

  Every host calls it together.

  Args:
    player: Who makes the second attempts, at temperature 1.
    problems: This host's; those without a known answer are not asked.
    max_tokens: Longest attempt; a cut one is wrong.
    key: The same key gives the same draws.
    first_by: Who makes the first attempts, if another does: with one that
      stands still they are the same every time.

  Returns:
    Observations: those of `rewards.transitions` and `changed` (the second
    answer is another than the first) of greedy attempts, both of them, and with
    `_sampled` behind the name of sampled ones, `SAMPLES` of each problem.
  """
  asked = [p for p in problems if p.answer is not None]
  first_PG = (first_by or player).generate(
    [Prompt.solve(p) for p in asked],
    Sampling(1 + SAMPLES, max_tokens, greedy=1),
    jax.random.fold_in(key, 0),
  )
  out = {}
  for i, (suffix, part) in enumerate(
    [('', slice(0, 1)), ('_sampled', slice(1, None))]
  ):
    attempts_PG = [first_G[part] for first_G in first_PG]
    sampling = Sampling(1, max_tokens, greedy=1 - i)
    both_PG = revised(
      *(player, asked, attempts_PG, sampling),
      jax.random.fold_in(key, 1 + i),
    )
    found = observed(asked, attempts_PG, both_PG)
    out |= {f'{name}{suffix}': values for name, values in found.items()}
  return out


def against(
  players: Mapping[str, Player],
  problems: Sequence[Problem],
  max_tokens: int,
  key: jax.Array,
) -> dict[str, list[float]]:
  """The same after the first attempts of the anchor `base`: `fixed_<name>`."""
  policy, base = players['policy'], players['base']
  found = corrections(policy, problems, max_tokens, key, base)
  return {f'fixed_{name}': values for name, values in found.items()}


def answered(
  problems: Sequence[Problem], attempts_PG: Sequence[Sequence[Rollout | None]]
) -> list[list[str | None]]:
  """What attempts at each problem answer; None where there is no attempt.

  Every host calls it together.
  """

  def answer(problem, attempt):
    return attempt and rewards.answers(problem.task, [attempt])[0]

  pairs = [*zip(problems, attempts_PG, strict=True)]
  return dist.together(
    lambda: [[answer(p, r) for r in attempts_G] for p, attempts_G in pairs]
  )


def worth(
  problems: Sequence[Problem], answers_PG: Sequence[Sequence[str | None]]
) -> np.ndarray:
  """What the task pays, float[P, G]; every host calls it together."""
  pairs = [*zip(problems, answers_PG, strict=True)]
  paid = dist.together(lambda: [[*p.task.reward(p, a_G)] for p, a_G in pairs])
  return np.array(paid, float)


def transcripts(
  problems: Sequence[Problem],
  drawn: Sequence[Sequence[Sequence[Rollout]]],
  answers: Sequence[Sequence[Sequence[str | None]]],
  earned: Sequence[np.ndarray],
  unpaid: bool,
) -> list[dict[str, Any]]:
  """Records of one attempt, or of two: the second, and beside it the first.

  Args:
    problems: Asked.
    drawn: By turn the attempts.
    answers: By turn what they answer.
    earned: By turn what they earned, float[P, G].
    unpaid: Whether nothing was paid for first attempts, right or wrong.
  """

  def first(i):
    if len(drawn) == 1:
      return {}
    paid = {} if unpaid else {'first_rewards': earned[0][i].tolist()}
    texts = [r.text for r in drawn[0][i]]
    return {'first_answers': answers[0][i], **paid, 'first_texts': texts}

  return [
    transcript(
      *(p, drawn[-1][i], answers[-1][i], first(i)),
      rewards=earned[-1][i].tolist(),
    )
    for i, p in enumerate(problems)
  ]


def observed(
  problems: Sequence[Problem],
  first_PG: Sequence[Sequence[Rollout]],
  both_PG: Sequence[Sequence[Rollout]],
) -> dict[str, list[float]]:
  """See `corrections`, of attempts that are there, by the known answers."""
  right, changed = [], []
  answers = (answered(problems, r_PG) for r_PG in (first_PG, both_PG))
  for p, *attempts in zip(problems, *answers, strict=True):
    for pair in zip(*attempts, strict=True):
      first, second = (rewards.is_right(answer, p.answer) for answer in pair)
      right.append((first, second))
      changed.append(float(rewards.changed(*pair)))
  return rewards.transitions(right) | {'changed': changed}

"""How often a player is right, greedily, by sampling and by vote."""

from collections.abc import Sequence

import jax

from jaxdistill import rewards
from jaxdistill.rollout.player import Player
from jaxdistill.rollout.samplers import Sampling
from jaxdistill.types import Problem, Prompt


def accuracy(
  player: Player,
  problems: Sequence[Problem],
  *,
  samples: int,
  max_tokens: int,
  key: jax.Array,
) -> dict[str, list[float]]:
  """Observations on this host's share of held-out problems.

  Args:
    player: Who answers, in the solver's role, at temperature 1.
    problems: With known answers.
    samples: Responses per problem for the sampled accuracy and the vote.
    max_tokens: Longest response; a cut one counts as wrong.
    key: The same key gives the same draws, whatever the number of hosts.

  Returns:
    One list per metric: `accuracy_greedy`, `accuracy_sampled`,
    `vote_accuracy` (a tie or a singleton is wrong), `agreement` (share of the
    samples that agree with the majority), `length` (tokens) and `cut`.
  """
  prompts = [
    Prompt('solver', p.task.solver_prompt(p), row=p.row) for p in problems
  ]
  greedy_PG = player.generate(prompts, Sampling(1, max_tokens, 0.0), key)
  sampled_PG = player.generate(prompts, Sampling(samples, max_tokens), key)
  out: dict[str, list[float]] = {
    name: []
    for name in (
      *('accuracy_greedy', 'accuracy_sampled', 'vote_accuracy'),
      *('agreement', 'length', 'cut'),
    )
  }
  for problem, greedy_G, sampled_G in zip(
    problems, greedy_PG, sampled_PG, strict=True
  ):
    (greedy,) = rewards.answers(problem.task, greedy_G)
    sampled = rewards.answers(problem.task, sampled_G)
    vote = rewards.majority(sampled)
    out['accuracy_greedy'].append(_right(greedy, problem))
    out['accuracy_sampled'] += [_right(a, problem) for a in sampled]
    out['vote_accuracy'].append(_right(vote.answer, problem))
    out['agreement'].append(vote.count / samples)
    out['length'] += [len(r.tokens_T) for r in sampled_G]
    out['cut'] += [float(r.finish == 'length') for r in sampled_G]
  return out


def _right(answer: str | None, problem: Problem) -> float:
  assert problem.answer is not None, f'{problem.text} has no known answer'
  return float(
    answer is not None and rewards.equal(answer, problem.answer) is True
  )

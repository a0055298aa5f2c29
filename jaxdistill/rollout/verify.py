"""Verifiers: how sure is a model that a response of its own is right?

A verifier gives every response a score from 0 to 1, by which responses are
kept, ranked or preferred. By whom and how (arXiv 2412.02674, sec. 3):

| name         | a response's score                                          |
|--------------|-------------------------------------------------------------|
| `vote`       | the share of its siblings that answer the same              |
| `yes`        | P(yes) of *yes or no*, asked whether it is right (there: MC)|
| `check`      | 1 or 0: yes or no, at the end of a written check (CoT-B)    |
| `score`      | a number from 1 to 10, at the end of one (CoT-S), by 10     |
| `tournament` | of the rounds of one, the share that it survived            |

A response that the length limit cut has no score (NaN) by any of them, nor has
one whose check ends in no verdict: whoever keeps by a threshold keeps neither.
All but `vote` ask the player, in the words of the task (`Task.wordings`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxdistill import rewards
from jaxdistill.dist.hosts import agree_max, together
from jaxdistill.rollout.player import Player
from jaxdistill.rollout.samplers import Sampling
from jaxdistill.types import Problem, Prompt, Rollout, Task, Wording

SCALE = 10  # of `score`


class Verified(NamedTuple):
  """What a verifier makes of a step's responses.

  Attributes:
    scores_PG: By problem and response, 0 to 1; NaN where there is none.
    unread: Of each check that was written, whether it ends in no verdict.
    tokens: How many tokens were generated for it.
    scored: How many tokens of responses were read for it, where nothing was
      generated.
  """

  scores_PG: list[np.ndarray]
  unread: Sequence[bool] = ()
  tokens: int = 0
  scored: int = 0


def by_vote(player, problems, rollouts_PG, key, max_tokens) -> Verified:
  """The share of its siblings that answer as it does."""
  del player, key, max_tokens

  def scores(problem: Problem, rollouts_G: Sequence[Rollout]) -> np.ndarray:
    answers_G = rewards.answers(problem.task, rollouts_G)
    sure_G = rewards.confidences(answers_G)
    return np.where([a is None for a in answers_G], np.nan, sure_G)

  return Verified(together(lambda: [*map(scores, problems, rollouts_PG)]))


def by_yes(player, problems, rollouts_PG, key, max_tokens) -> Verified:
  """P(yes), of the two words that may be said."""
  del key, max_tokens
  asked = _about(problems, rollouts_PG, 'verify')
  yes = _yes(player, asked.prompts, asked.wording)
  return Verified(asked.spread(yes), scored=asked.read)


def by_check(player, problems, rollouts_PG, key, max_tokens) -> Verified:
  """Whether a written check ends in yes."""
  asked = _about(problems, rollouts_PG, 'check')
  return _written(
    *(player, asked, key, max_tokens),
    worth=lambda said: float(said == asked.wording.choices[0]),
  )


def by_score(player, problems, rollouts_PG, key, max_tokens) -> Verified:
  """The number that a written check ends in, by the highest there is."""
  asked = _about(problems, rollouts_PG, 'score')
  return _written(
    *(player, asked, key, max_tokens),
    worth=lambda said: int(said) / SCALE,
  )


def by_tournament(player, problems, rollouts_PG, key, max_tokens) -> Verified:
  """Rounds of pairs, whose better half goes on, until one is left.

  Each pair is shown in both orders, and the mean of the two log-odds decides:
  a preference for a place cancels out. Who is left over in a round goes on, and
  is not left over in the next. Equal responses take part once; where all are
  equal none has a score.
  """
  del max_tokens
  survived_PG = [np.zeros(len(g)) for g in rollouts_PG]
  firsts_PG = [_distinct(g) for g in rollouts_PG]
  left_PG = [[*f.values()] if len(f) > 1 else [] for f in firsts_PG]
  for p, left_G in enumerate(left_PG):  # in no order that has a meaning
    draws = np.random.default_rng(
      [*jax.random.key_data(key).tolist(), problems[p].address]
    )
    left_PG[p] = [left_G[i] for i in draws.permutation(len(left_G))]
  (most,) = agree_max(max(map(len, rollouts_PG), default=0))
  rounds, scored = max(most - 1, 0).bit_length(), 0
  for _ in range(rounds):
    pairs = [
      (p, one, other)
      for p, left_G in enumerate(left_PG)
      for one, other in zip(left_G[::2], left_G[1::2], strict=False)
    ]
    better = preferred(
      player,
      [problems[p] for p, _, _ in pairs],
      [
        (rollouts_PG[p][one].text, rollouts_PG[p][other].text)
        for p, one, other in pairs
      ],
    )
    shown = [rollouts_PG[p][g] for p, *pair in pairs for g in pair]
    scored += 2 * sum(len(r.tokens_T) for r in shown)
    losers: set[tuple[int, int]] = set()
    for (p, one, other), odds in zip(pairs, better.mean(1), strict=True):
      losers.add((p, other if odds >= 0 else one))
    left_PG = [
      [g for g in left_G[-odd:] + left_G[:-odd] if (p, g) not in losers]
      for p, left_G in enumerate(left_PG)
      for odd in [len(left_G) % 2]
    ]
    for survived_G, left_G in zip(survived_PG, left_PG, strict=True):
      survived_G[left_G] += 1
  scores_PG = []
  for survived_G, firsts, rollouts_G in zip(
    survived_PG, firsts_PG, rollouts_PG, strict=True
  ):
    scores_G = np.full(len(rollouts_G), np.nan)
    for g in _whole(rollouts_G) if len(firsts) > 1 else []:
      scores_G[g] = survived_G[firsts[rollouts_G[g].text]] / rounds
    scores_PG.append(scores_G)
  return Verified(scores_PG, scored=scored)


VERIFIERS: Mapping[str, Callable[..., Verified]] = {
  'vote': by_vote,
  'yes': by_yes,
  'check': by_check,
  'score': by_score,
  'tournament': by_tournament,
}
ASKS = {  # of a task, see `Task.wordings`
  'yes': 'verify',
  'check': 'check',
  'score': 'score',
  'tournament': 'compare',
}


def verify(
  how: str,
  player: Player,
  problems: Sequence[Problem],
  rollouts_PG: Sequence[Sequence[Rollout]],
  *,
  key: jax.Array,
  max_tokens: int = 256,
) -> Verified:
  """Scores responses; every host calls it together.

  Args:
    how: One of `VERIFIERS`.
    player: Who verifies.
    problems: This host's, of one task.
    rollouts_PG: Responses to each.
    key: Of what it draws.
    max_tokens: Longest written check; one that is cut ends in no verdict.

  Raises:
    ValueError: The task has no words for what the verifier asks.
  """
  return VERIFIERS[how](player, problems, rollouts_PG, key, max_tokens)


WRITING = ('check', 'score')


def unread_by(how: str) -> tuple[str, ...]:
  """Which settings a verifier does not read: who verifies, how long it may
  write."""
  nobody = ('verifier',) if how not in ASKS else ()
  return nobody if how in WRITING else (*nobody, 'check_tokens')


def asked_by(how: str) -> list[str]:
  """What a verifier asks, of `Task.wordings`."""
  return [ASKS[how]] if how in ASKS else []


def check_verifier(how: str, task: Task) -> None:
  """Finds that a task cannot be asked what a verifier asks.

  Raises:
    ValueError: It has no words for it; those that it has words for are named.
  """
  able = [v for v in VERIFIERS if {*asked_by(v)} <= {*task.wordings}]
  if how in VERIFIERS and how not in able:
    raise ValueError(
      f'task {task.name} has no words for the verifier {how!r}; it has them '
      f'for {", ".join(able)}'
    )


def preferred(
  player: Player,
  problems: Sequence[Problem],
  pairs: Sequence[tuple[str, str]],
) -> np.ndarray:
  """Log-odds that the first of two responses is the better one, float[B, 2].

  Args:
    player: Who judges.
    problems: This host's.
    pairs: Two responses to each.

  Returns:
    As they stand, and with their order turned round: a judge that goes by the
    place has opposite signs in the two.
  """
  shown = [
    (problem, pair[:: 1 - 2 * turned])
    for problem, pair in zip(problems, pairs, strict=True)
    for turned in (0, 1)
  ]
  prompts = together(
    lambda: [
      Prompt('solver', p.task.asking('compare', p, *pair), i)
      for i, (p, pair) in enumerate(shown)
    ]
  )
  logp_BC = player.choose(prompts, _wording(problems, 'compare').choices)
  odds = (logp_BC[:, 0] - logp_BC[:, 1]).reshape(-1, 2)
  return odds * np.array([1.0, -1.0])


def suits(player: Player, problems: Sequence[Problem]) -> np.ndarray:
  """P(yes) that each of these problems suits its topic, float[P].

  The guide of self-guided self-play (arXiv 2604.20209). Every host calls it
  together.

  Raises:
    ValueError: The task has no words for `suit`.
  """
  prompts = together(
    lambda: [
      Prompt('solver', p.task.asking('suit', p), p.address) for p in problems
    ]
  )
  return _yes(player, prompts, _wording(problems, 'suit'))


def _yes(player, prompts: Sequence[Prompt], wording: Wording) -> np.ndarray:
  """P(yes) of the two words that may be said."""
  logp_BC = player.choose(prompts, wording.choices)
  return 1 / (1 + np.exp(logp_BC[:, 1] - logp_BC[:, 0]))


class _Asked(NamedTuple):
  """What is asked about all different whole responses.

  Attributes:
    prompts: One per different response to a problem.
    wording: How they are asked.
    places_PG: Of each response the number of its prompt; -1 if it was cut.
    read: Tokens of those responses.
  """

  prompts: list[Prompt]
  wording: Wording
  places_PG: list[np.ndarray]
  read: int

  def spread(self, scores: Sequence[float] | np.ndarray) -> list[np.ndarray]:
    """Scores of the different ones as scores of all."""
    of_all = np.array([*scores, np.nan], float)
    return [of_all[places_G] for places_G in self.places_PG]


def _about(problems, rollouts_PG, what: str) -> _Asked:
  """The same question about every response that was not cut."""
  (most,) = agree_max(max(map(len, rollouts_PG), default=1))
  prompts: list[Prompt] = []
  lengths: list[int] = []

  def ask(problem: Problem, rollouts_G: Sequence[Rollout]) -> np.ndarray:
    found: dict[str, int] = {}
    places_G = np.full(len(rollouts_G), -1)
    for g in _whole(rollouts_G):
      text = rollouts_G[g].text
      if text not in found:
        found[text] = len(prompts)
        asked = problem.task.asking(what, problem, text)
        prompts.append(Prompt('solver', asked, problem.address * most + g))
        lengths.append(len(rollouts_G[g].tokens_T))
      places_G[g] = found[text]
    return places_G

  places_PG = together(lambda: [*map(ask, problems, rollouts_PG)])
  return _Asked(prompts, _wording(problems, what), places_PG, sum(lengths))


def _wording(problems: Sequence[Problem], what: str) -> Wording:
  """How a step's task asks; a host without problems asks nothing."""
  return problems[0].task.worded(what) if problems else Wording('', ('', ''))


def _distinct(rollouts_G: Sequence[Rollout]) -> dict[str, int]:
  """The first place of each different response that was not cut."""
  places = _whole(rollouts_G)[::-1]
  return {rollouts_G[g].text: g for g in places}


def _whole(rollouts_G: Sequence[Rollout]) -> list[int]:
  """Places of the responses that were not cut."""
  return [g for g, r in enumerate(rollouts_G) if r.finish == 'stop']


def _written(
  player: Player,
  asked: _Asked,
  key: jax.Array,
  max_tokens: int,
  worth: Callable[[str], float],
) -> Verified:
  """Checks in writing, and what their verdicts are worth."""
  said_BG = player.generate(asked.prompts, Sampling(1, max_tokens), key)
  verdicts = [
    asked.wording.read(said.text) if said.finish == 'stop' else None
    for (said,) in said_BG
  ]
  unread = [verdict is None for verdict in verdicts]
  return Verified(
    asked.spread([np.nan if v is None else worth(v) for v in verdicts]),
    unread,
    sum(len(said.tokens_T) for (said,) in said_BG),
  )

"""Judges: which of two responses is better, in writing, and by what habits.

`verify.preferred` reads a judge's log-odds; here it writes a verdict, which can
be trained, and which need not be readable.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdistill import rewards
from jaxdistill.dist.hosts import agree_max, together
from jaxdistill.rollout.player import Player
from jaxdistill.rollout.samplers import Sampling
from jaxdistill.rollout.transcript import transcript
from jaxdistill.rollout.verify import preferred
from jaxdistill.types import Problem, Prompt, Rollout

Pair = tuple[int, int]  # places of the first and the second that are shown


class Judgments(NamedTuple):
  """The judgments on the responses to one problem.

  Attributes:
    texts_G: The responses, see `visible`.
    rollouts_Z: The judgments, as they were written.
    shown: Places of the two that each one shows, int[Z, 2].
    said: Which it names, 0 or 1; -1 if it was cut or names none, int[Z].
  """

  texts_G: Sequence[str | None]
  rollouts_Z: Sequence[Rollout]
  shown: np.ndarray
  said: np.ndarray


def visible(rollouts_G: Sequence[Rollout]) -> list[str | None]:
  """What a judge is shown of responses, without what was thought before.

  None for one that the length limit cut: nobody is shown that.
  """
  return [
    r.text.rpartition('</think>')[2].strip() if r.finish == 'stop' else None
    for r in rollouts_G
  ]


def pairs(texts_G: Sequence[str | None], both_orders: bool) -> list[Pair]:
  """All pairs of different responses, one after the other.

  Args:
    texts_G: See `visible`.
    both_orders: Whether each is followed by the same turned round.
  """
  found = [
    (i, j)
    for i, one in enumerate(texts_G)
    for j, other in enumerate(texts_G[i + 1 :], i + 1)
    if one is not None and other is not None and one != other
  ]
  return turned(found) if both_orders else found


def turned(shown: Sequence[Pair]) -> list[Pair]:
  """Pairs, each followed by itself in the other order."""
  return [order for i, j in shown for order in ((i, j), (j, i))]


def judged(
  player: Player,
  problems: Sequence[Problem],
  texts_PG: Sequence[Sequence[str | None]],
  shown_P: Sequence[Sequence[Pair]],
  what: str,
  sampling: Sampling,
  key: jax.Array,
) -> list[Judgments]:
  """A judge's word on pairs of responses; every host calls it together.

  Args:
    player: Who judges, in the role `judge`.
    problems: This host's, of one task.
    texts_PG: Responses to each, see `visible`.
    shown_P: The pairs to show, by problem, a judgment for each of the
      `sampling.samples`; those on one pair stand together.
    what: `judge` or `compare`, see `Task.wordings`.
    sampling: How judgments are drawn.
    key: Of the draws.

  Raises:
    ValueError: The task has no words for that.
  """
  (most,) = agree_max(max(map(len, texts_PG), default=1))

  def asked(problem, texts_G, pair: Pair) -> Prompt:
    texts = [texts_G[g] for g in pair]
    address = (problem.address * most + pair[0]) * most + pair[1]
    return Prompt('judge', problem.task.asking(what, problem, *texts), address)

  given = [*zip(problems, texts_PG, shown_P, strict=True)]
  prompts = together(
    lambda: [
      asked(p, texts_G, pair) for p, texts_G, shown in given for pair in shown
    ]
  )
  written = iter(player.generate(prompts, sampling, key))

  def read(problem, texts_G, shown) -> Judgments:
    rollouts_Z = [r for _ in shown for r in next(written)]
    said = [_said(problem, what, r) for r in rollouts_Z]
    places = np.repeat(np.array(shown, int).reshape(-1, 2), sampling.samples, 0)
    return Judgments(texts_G, rollouts_Z, places, np.array(said, int))

  return together(lambda: [read(*each) for each in given])


def _said(problem: Problem, what: str, rollout: Rollout) -> int:
  wording = problem.task.worded(what)
  (text,) = visible([rollout])
  found = None if text is None else wording.read(text)
  return rewards.NOBODY if found is None else wording.choices.index(found)


def habits(
  judged_P: Sequence[Judgments], right_PG: Sequence[np.ndarray]
) -> dict[str, Any]:
  """Observations on judgments.

  Args:
    judged_P: By problem.
    right_PG: Which responses are known to be right.

  Returns:
    `length`, in tokens; `unread`, whether a verdict cannot be read. Of those
    that can: `accuracy`, whether one names the right response, where just one
    of the two is; `first`, whether it names the first; `longer`, the longer of
    two lengths. And `flips`, of what is shown in both orders: whether the
    verdicts on its pair turn with the order (`rewards.contradicted`).
  """
  names = 'length', 'unread', 'accuracy', 'first', 'longer', 'flips'
  out = {name: [] for name in names}
  for judged, right_G in zip(judged_P, right_PG, strict=True):
    texts_G, rollouts_Z, shown, said = judged
    lengths_G = np.array([len(text or '') for text in texts_G])
    read = said != rewards.NOBODY
    out['length'] += [len(r.tokens_T) for r in rollouts_Z]
    out['unread'] += (~read).tolist()
    out['first'] += (said[read] == 0).tolist()
    for name, of_G in (('accuracy', right_G), ('longer', lengths_G)):
      lead = of_G[shown[:, 0]] - of_G[shown[:, 1]]
      told = read & (lead != 0)
      out[name] += ((lead > 0) == (said == 0))[told].tolist()
    orders = {*map(tuple, shown.tolist())}
    both = np.array([(j, i) in orders for i, j in shown.tolist()], bool)
    out['flips'] += rewards.contradicted(shown, said)[both].tolist()
  return {name: np.array(values, float) for name, values in out.items()}


def observed(
  problems: Sequence[Problem],
  judged_P: Sequence[Judgments],
  paid_P: Sequence[rewards.Paid],
  right_PG: Sequence[np.ndarray],
) -> dict[str, Any]:
  """Observations of a step, for which alone known answers are read.

  Args:
    problems: This host's.
    judged_P: By problem.
    paid_P: What that paid.
    right_PG: Which responses are known to be right.

  Returns:
    `judge_<name>`: `habits`. `accuracy` of the responses; `ranked`, whether the
    right one of two has earned more; `actor_reward`, `judge_reward`; `void`, by
    judgment.
  """
  known = [
    (right_G, paid.worth_G)
    for p, right_G, paid in zip(problems, right_PG, paid_P, strict=True)
    if p.answer is not None
  ]
  habit = habits(judged_P, right_PG)
  return {f'judge_{name}': values for name, values in habit.items()} | {
    'accuracy': [x for right_G, _ in known for x in right_G],
    'ranked': [x for r_G, w_G in known for x in rewards.ordered(w_G, r_G)],
    'actor_reward': [x for paid in paid_P for x in paid.worth_G],
    'judge_reward': [x for paid in paid_P for x in paid.earned_Z],
    'void': [float(x) for paid in paid_P for x in paid.void_Z],
  }


def transcripts(
  problems: Sequence[Problem],
  rollouts_PG: Sequence[Sequence[Rollout]],
  judged_P: Sequence[Judgments],
  paid_P: Sequence[rewards.Paid],
) -> list[dict[str, Any]]:
  """What was said, and of each judgment who was shown and who won, from 1."""
  out = []
  for problem, rollouts_G, (_, *judged), (worth_G, *paid) in zip(
    problems, rollouts_PG, judged_P, paid_P, strict=True
  ):
    judgments = [
      {
        'shown': (shown + 1).tolist(),
        'wins': None if said == rewards.NOBODY else int(shown[said]) + 1,
        'void': bool(void),
        'reward': float(earned),
        'text': rollout.text,
      }
      for rollout, shown, said, earned, void in zip(*judged, *paid, strict=True)
    ]
    more = {'rewards': worth_G.tolist(), 'judgments': judgments}
    out.append(transcript(problem, rollouts_G, **more))
  return out


def right(problem: Problem, rollouts_G: Sequence[Rollout]) -> np.ndarray:
  """1 for each response that is known to be right, else 0, float[G]."""
  answers_G = rewards.answers(problem.task, rollouts_G)
  known = [rewards.is_right(a, problem.answer) for a in answers_G]
  return np.array(known, float)


def labelled(texts_G: Sequence[str | None], right_G: np.ndarray) -> list[Pair]:
  """The first right and the first wrong response, in both orders, if any.

  A response that was cut is neither.
  """
  whole = [g for g, text in enumerate(texts_G) if text is not None]
  ones, others = (
    [g for g in whole if right_G[g] == wanted][:1] for wanted in (1, 0)
  )
  return turned([*zip(ones, others, strict=False)])


def contest(
  judge: Player,
  problems: Sequence[Problem],
  own_PG: Sequence[Sequence[str | None]],
  other_PG: Sequence[Sequence[str | None]],
) -> dict[str, Any]:
  """Whose responses a judge prefers; every host calls it together.

  Each is shown beside the other's at its place, in both orders, and the mean of
  the two log-odds decides. What was cut loses; two that are equal share.

  Args:
    judge: Who judges, asked `compare`.
    problems: This host's, of one task.
    own_PG: Responses to each, see `visible`.
    other_PG: As many of the other's.

  Returns:
    `win_rate`: 1, a half or 0, by response. `win_flips`: of those that the
    judge was shown, whether its verdict turns with the order.
  """
  met = [
    (problem, pair)
    for problem, own_G, other_G in zip(problems, own_PG, other_PG, strict=True)
    for pair in zip(own_G, other_G, strict=True)
  ]
  wins = np.array(
    [(1 + (a is not None) - (b is not None)) / 2 for _, (a, b) in met]
  )
  places, asked, shown = [], [], []
  for i, (problem, (own, other)) in enumerate(met):
    if own is not None and other is not None and own != other:
      places.append(i)
      asked.append(problem)
      shown.append((own, other))
  odds = preferred(judge, asked, shown)
  wins[places] = (1 + np.sign(odds.mean(1))) / 2
  flips = (odds[:, 0] * odds[:, 1] < 0).astype(float)
  return {'win_rate': wins, 'win_flips': flips}

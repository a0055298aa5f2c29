"""What judged responses are worth, and what their judge is (SERL, 2511.07922).

A judgment shows two of the responses to a problem and names the better one. Of
the Z judgments on one problem,

  shown  int[Z, 2]  places of the first and the second that each one shows
  said   int[Z]     which of the two it names: 0, 1, or -1 for none

where a verdict that cannot be read names none.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

NOBODY = -1
ROUNDING = 1e-9  # sums of the same scores in another order are equal


def contradicted(shown: np.ndarray, said: np.ndarray) -> np.ndarray:
  """Which judgments are of a pair whose verdict turns with the order, bool[Z].

  In each order, the majority is the response that more verdicts name; at a tie
  there is none. A pair is contradicted if both orders have a majority, and the
  two differ. One that is shown in one order only never is.
  """
  votes = np.where(said == NOBODY, 0, 1 - 2 * said)  # 1 for the first
  turned = shown[:, 0] > shown[:, 1]
  lower = np.where(turned, -votes, votes)  # 1 for the one of the lower place
  out = np.zeros(len(said), bool)
  for pair in np.unique(np.sort(shown, 1), axis=0):
    of_it = (np.sort(shown, 1) == pair).all(1)
    majorities = [
      np.sign(lower[of_it & order].sum()) for order in (turned, ~turned)
    ]
    out[of_it] = majorities[0] * majorities[1] < 0
  return out


def by_length(winner: np.ndarray, loser: np.ndarray, band: float) -> np.ndarray:
  """What a win counts by the lengths of the two, float[Z].

  `loser / winner` if `(1 - band) loser < winner < (1 + band) loser`, else 0:
  what wins by being of another length wins nothing. Without a band (0) every
  win counts 1.

  Args:
    winner: Length of who wins.
    loser: Of who loses.
    band: Alpha, by how much they may differ.
  """
  if not band:
    return np.ones(len(winner))
  inside = (winner > (1 - band) * loser) & (winner < (1 + band) * loser)
  return np.where(inside, loser / np.maximum(winner, 1), 0.0)


def win_rates(
  shown: np.ndarray,
  said: np.ndarray,
  texts_G: Sequence[str | None],
  judgments: int,
  band: float,
) -> np.ndarray:
  """The actor's reward: length-controlled win rate of each response, float[G].

  The scores of its wins, by `judgments` times the number of responses that
  differ from it (else the odd one out, which meets more judges, would earn
  more): a win that is not counted, or outside the band, is in the denominator
  all the same. Equal responses, which no judge can tell apart, earn their mean.
  One that was cut is not judged: it earns 0, and loses to each that is whole.

  Args:
    shown: See above.
    said: See above; those that do not count name nobody.
    texts_G: What the judge is shown of each response; None if it was cut.
    judgments: How many a pair has (K).
    band: See `by_length`; lengths are in characters.
  """
  cut_G = np.array([text is None for text in texts_G])
  lengths_G = np.array([len(text or '') for text in texts_G])
  alike_GG = np.array([[a == b for b in texts_G] for a in texts_G])
  alike_GG = np.where(cut_G, np.eye(len(texts_G), dtype=bool), alike_GG)
  rows = np.flatnonzero(said != NOBODY)
  winner, loser = shown[rows, said[rows]], shown[rows, 1 - said[rows]]
  earned_G = np.where(cut_G, 0.0, judgments * cut_G.sum())
  score = by_length(lengths_G[winner], lengths_G[loser], band)
  np.add.at(earned_G, winner, score)
  differ_G = (~alike_GG).sum(1)
  return (
    alike_GG @ earned_G / alike_GG.sum(1) / np.maximum(judgments * differ_G, 1)
  )


def agreement(
  shown: np.ndarray, said: np.ndarray, worth_G: np.ndarray
) -> np.ndarray:
  """The judge's reward: whether a verdict agrees with the ranking, float[Z].

  1 if the response that it names is worth more than the other one, -1 if less,
  0 if as much; -1 also if it names none.

  Args:
    shown: See above.
    said: See above.
    worth_G: What the responses have earned.
  """
  worth = worth_G[shown]
  lead = np.where(
    said == 1, worth[:, 1] - worth[:, 0], worth[:, 0] - worth[:, 1]
  )
  lead = np.where(np.abs(lead) < ROUNDING, 0.0, np.sign(lead))
  return np.where(said == NOBODY, -1.0, lead)


class Paid(NamedTuple):
  """What is paid for the judgments on the responses to one problem.

  Attributes:
    worth_G: R_A, to each response.
    earned_Z: R_J, to each judgment.
    void_Z: Which judgments pay the judge nothing; nor, where its own verdicts
      are counted, the responses.
  """

  worth_G: np.ndarray
  earned_Z: np.ndarray
  void_Z: np.ndarray


def paid(
  shown: np.ndarray,
  said: np.ndarray,
  counted: np.ndarray,
  texts_G: Sequence[str | None],
  judgments: int,
  band: float,
  consistent: bool,
) -> Paid:
  """What responses and their judge earn.

  Args:
    shown: See above.
    said: What the judge said; it earns for that.
    counted: The verdicts that responses are paid by: the same, or a control.
    texts_G: See `win_rates`.
    judgments: Of a pair.
    band: See `by_length`.
    consistent: Whether verdicts that are `contradicted` are void: of those that
      are counted nobody wins by them, of the judge's own it earns nothing.
  """
  void_Z = consistent & contradicted(shown, said)
  unclear_Z = consistent & contradicted(shown, counted)
  of_those = np.where(unclear_Z, NOBODY, counted)
  worth_G = win_rates(shown, of_those, texts_G, judgments, band)
  earned_Z = np.where(void_Z, 0.0, agreement(shown, said, worth_G))
  return Paid(worth_G, earned_Z, void_Z)


# (shown, said, which responses are right, draws) -> said.
Verdicts = Callable[
  [np.ndarray, np.ndarray, np.ndarray, np.random.Generator], np.ndarray
]


def own(shown, said, right_G, rng) -> np.ndarray:
  """The judge's verdicts as they are."""
  del shown, right_G, rng
  return said


def random(shown, said, right_G, rng) -> np.ndarray:
  """A fair coin per pair: a control for gains of training on oneself."""
  del said, right_G
  pairs, which = np.unique(np.sort(shown, 1), axis=0, return_inverse=True)
  coins = rng.integers(0, 2, len(pairs))[which.reshape(-1)]
  return np.where(shown[:, 0] < shown[:, 1], coins, 1 - coins)


def known(shown, said, right_G, rng) -> np.ndarray:
  """The right one where just one is: an upper bound, by labels."""
  del said, rng
  lead = right_G[shown[:, 0]] - right_G[shown[:, 1]]
  return np.where(lead > 0, 0, np.where(lead < 0, 1, NOBODY))


VERDICTS: Mapping[str, Verdicts] = {
  'own': own,
  'random': random,
  'known': known,
}

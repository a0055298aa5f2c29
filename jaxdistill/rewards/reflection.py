"""Which of two pairs of question and answer is worth learning.

Selective Reflection-Tuning, arXiv 2402.10110. All by the student's own
log-probs; what cannot be scored is NaN, missing, and never a 0.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np


class Scores(NamedTuple):
  """What a pair of question x and answer y is to a student.

  Attributes:
    ifd: `ppl(y | x) / ppl(y)` (eq. 3): how little the question helps with the
      answer; high is difficult, 1 and more is of no use.
    r_ifd: `ppl(x | y') / ppl(x)` (eq. 8), y' asking for the question of that
      answer: how little the answer tells of the question; low is feasible.
    perplexity: `ppl(y | x)`.
  """

  ifd: float = np.nan
  r_ifd: float = np.nan
  perplexity: float = np.nan


def mean_loss(logp_T: np.ndarray) -> float:
  """`-(1/T) sum log p` of a text's tokens; NaN of none (eq. 1).

  Args:
    logp_T: log-prob of each, float[T].
  """
  return -float(np.mean(logp_T, dtype=np.float64)) if len(logp_T) else np.nan


def scores_of(
  answer_T: np.ndarray,
  answer_alone_T: np.ndarray,
  question_T: np.ndarray,
  question_alone_T: np.ndarray,
) -> Scores:
  """Scores of a pair.

  Args:
    answer_T: log-probs of the answer after the question, float[T].
    answer_alone_T: Of the answer after nothing, float[T].
    question_T: Of the question after what asks to guess it, float[T].
    question_alone_T: Of the question after nothing, float[T].
  """
  answer, alone, question, question_alone = map(
    mean_loss, (answer_T, answer_alone_T, question_T, question_alone_T)
  )
  logs = answer - alone, question - question_alone, answer
  return Scores(*(float(x) for x in np.exp(logs)))


# Whether the second of two pairs takes the place of the first, on a toss of a
# coin if need be; None where a score that this depends on is missing.
Rule = Callable[[Scores, Scores, bool], bool | None]


def refined(old: Scores, new: Scores, coin: bool) -> bool | None:
  """The second, whatever it is."""
  del old, new, coin
  return True


def tossed(old: Scores, new: Scores, coin: bool) -> bool | None:
  """Either, by chance."""
  del old, new
  return coin


def higher_ifd(old: Scores, new: Scores, coin: bool) -> bool | None:
  """The more difficult one."""
  del coin
  return _less(old.ifd, new.ifd)


def lower_r_ifd(old: Scores, new: Scores, coin: bool) -> bool | None:
  """The one whose answer tells more of its question."""
  del coin
  return _less(new.r_ifd, old.r_ifd)


def lower_perplexity(old: Scores, new: Scores, coin: bool) -> bool | None:
  """The one that is more the student's own."""
  del coin
  return _less(new.perplexity, old.perplexity)


def _less(a: float, b: float) -> bool | None:
  return None if np.isnan(a) or np.isnan(b) else a < b


# The rules of both phases, by name; None: there is no such phase.
CHOICES: Mapping[str, tuple[Rule | None, Rule | None]] = {
  'original': (None, None),
  'first': (refined, None),
  'second': (None, refined),
  'refined': (refined, refined),
  'random': (tossed, tossed),
  'ifd': (higher_ifd, higher_ifd),
  'r_ifd': (lower_r_ifd, lower_r_ifd),
  'both': (higher_ifd, lower_r_ifd),
  'perplexity': (lower_perplexity, lower_perplexity),
}
UNSCORED = frozenset((None, refined, tossed))


def useful(scores: Scores) -> bool:
  """Whether both IFD and r-IFD are below 1, as the authors' code asks.

  What has no score is not.
  """
  return scores.ifd < 1 and scores.r_ifd < 1

"""The held-out figures that a run is judged by, and how far off they may be."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxdistill.plots.curves import points_of
from jaxdistill.plots.intervals import Interval, binomial, paired


class Figure(NamedTuple):
  """A figure of a split, `eval/<split>/<name>`.

  Attributes:
    said: What it is of, on a page.
    short: The same in a terminal; empty: it is not shown there.
    share: Of what it is a share: `right` answers, or nothing that needs a word.
    decides: Whether a run is better or worse by it.
    among: The figure that is the share of the problems it is measured on;
      empty: all of them.
    moves: Where it is the difference of two shares of the same problems, the
      figures of those that rose and of those that fell.
  """

  said: str
  short: str = ''
  share: str = ' right'
  decides: bool = True
  among: str = ''
  moves: tuple[str, ...] = ()


FIGURES: Mapping[str, Figure] = {
  'accuracy_edited': Figure('answers once an edit is learned', 'edit learned'),
  'accuracy_passage': Figure(
    'answers once the passage is learned', 'passage learned', decides=False
  ),
  'accuracy_turn_2_sampled': Figure(
    'second attempts, sampled', '2nd attempt, sampled'
  ),
  'delta_sampled': Figure(
    'second less first attempts, sampled',
    '2nd less 1st, sampled',
    decides=False,
    moves=('wrong_to_right_sampled', 'right_to_wrong_sampled'),
  ),
  'accuracy_turn_2': Figure('second attempt, greedy'),
  'accuracy_sampled': Figure('sampled answers', 'sampled'),
  'accuracy_greedy': Figure('greedy answer', 'greedy'),
  'judge_accuracy': Figure(
    "judge's verdicts on labelled pairs", 'judge', among='labelled'
  ),
  'win_rate': Figure('win rate over what it began as', 'win rate', share=''),
  'order_accuracy': Figure('order of pairs of items', 'order of pairs'),
}


def spread(
  name: str, value: float, line: Mapping[str, Any], split: str, n: int | None
) -> Interval | None:
  """How far off a figure may be that was measured on n problems.

  Several answers to one problem are taken as one, for they are not independent:
  the interval is rather too wide.

  Args:
    name: Of `FIGURES`.
    value: Its.
    line: All that was measured with it.
    split: Of what.
    n: None where that is not known; then nothing is known of this either.
  """
  figure = FIGURES[name]

  def beside(other: str) -> float | None:
    return line.get(f'eval/{split}/{other}')

  if n and figure.among:
    n = round(n * (beside(figure.among) or 0))
  if not n:
    return None
  if figure.moves:
    rose, fell = map(beside, figure.moves)
    return None if rose is None or fell is None else paired(rose, fell, n)
  return binomial(value, n)


def measured_on(split: str, metrics: Sequence[Mapping[str, Any]]) -> int | None:
  """How many problems of a split there were; runs of before do not say."""
  points = points_of(metrics, f'eval/{split}/problems')
  return int(points[-1][1]) if points else None

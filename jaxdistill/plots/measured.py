"""The held-out figures that a run is judged by, and how far off they may be."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxdistill.plots.files import points_of
from jaxdistill.plots.intervals import Interval, binomial, paired


class Measure(NamedTuple):
  """A figure of a split, `eval/<split>/<name>`.

  Attributes:
    said: What it is of, on a page.
    short: The same in a terminal and in a comparison.
    share: Of what it is a share: `right` answers, or nothing that needs a word.
    decides: Whether a run is better or worse by it. Not by what judges itself,
      or is better where something else is worse.
    pooled: Whether problems have more or less of what it is the mean of: then
      how far off it is cannot be said from their number.
    moves: Where it is the difference of two shares of the same problems, the
      figures of those that rose and of those that fell.
  """

  said: str
  short: str
  share: str = ' right'
  decides: bool = True
  pooled: bool = False
  moves: tuple[str, ...] = ()


# Held-out problems by what they are called.
SPLITS = {'test': 'held out', 'ood': 'out of distribution', 'dev': 'dev'}
MEASURES: Mapping[str, Measure] = {
  'accuracy_edited': Measure('answers once an edit is learned', 'edit learned'),
  'accuracy_passage': Measure(
    'answers once the passage is learned', 'passage learned', decides=False
  ),
  'accuracy_turn_1_sampled': Measure(
    'first attempts, sampled', '1st attempt, sampled', decides=False
  ),
  'accuracy_turn_2_sampled': Measure(
    'second attempts, sampled', '2nd attempt, sampled'
  ),
  'delta_sampled': Measure(
    'second less first attempts, sampled',
    '2nd less 1st, sampled',
    decides=False,
    moves=('wrong_to_right_sampled', 'right_to_wrong_sampled'),
  ),
  'accuracy_turn_2': Measure('second attempt, greedy', '2nd attempt, greedy'),
  'accuracy_sampled': Measure('sampled answers', 'sampled'),
  'accuracy_greedy': Measure('greedy answer', 'greedy'),
  'judge_accuracy': Measure(
    "judge's verdicts on pairs of its answers (chance: half)",
    'judge on labelled pairs',
    decides=False,
    pooled=True,
  ),
  'fixed_judge_accuracy': Measure(
    "judge's verdicts on pairs of the base's answers (chance: half)",
    "judge on the base's pairs",
    decides=False,
    pooled=True,
  ),
  'win_rate': Measure(
    'win rate over what it began as (even: half)',
    'win rate over the base',
    share='',
    decides=False,
  ),
  'order_accuracy': Measure(
    'order of pairs of items', 'order of pairs', pooled=True
  ),
}


def spread(
  name: str, value: float, line: Mapping[str, Any], split: str, n: int | None
) -> Interval | None:
  """How far off a figure may be that was measured on n problems.

  Several answers to one problem are taken as one, for they are not independent:
  the interval is rather too wide.

  Args:
    name: Of `MEASURES`.
    value: Its.
    line: All that was measured with it.
    split: Of what.
    n: None where that is not known; then nothing is known of this either.
  """
  measure = MEASURES[name]
  if not n or measure.pooled:
    return None
  if measure.moves:
    rose, fell = (line.get(f'eval/{split}/{move}') for move in measure.moves)
    return None if rose is None or fell is None else paired(rose, fell, n)
  return binomial(value, n)


def measured_on(split: str, metrics: Sequence[Mapping[str, Any]]) -> int | None:
  """How many problems of a split there were; runs of before do not say."""
  points = points_of(metrics, f'eval/{split}/problems')
  return int(points[-1][1]) if points else None

"""Differences between arms, and within one, as claims and as what is seen."""

from jaxdistill.plots.claims import (
  apart,
  at_holm,
  by_seed,
  interval,
  judged,
  logged,
  looked_at,
  rise,
  rows,
)


def told(arms, claims, seen, columns):
  """Where arms began and ended, claims together by Holm, and the rest.

  Args:
    arms: Of a summary.
    claims: By a short name the claim, its interval, and its sign.
    seen: By a short name what is looked at, and its interval.
    columns: Metric -> its heading.
  """
  assert not claims.keys() & seen.keys(), 'each has a name of its own'
  record, text = judged(at_holm(claims) | looked_at(seen))
  return record, f'{ends(arms, columns)}\n{text}'


def ends(arms, columns):
  """The mean of each metric of every arm at first and at last."""
  lines = [
    [name, len(arm['seeds'])]
    + [
      f'{arm[c]["first"]:.3f} → {arm[c]["last"]:.3f}' if arm.get(c) else ''
      for c in map(logged, columns)
    ]
    for name, arm in arms.items()
  ]
  return rows(['arm', 'seeds', *columns.values()], lines)


def less(arms, metric, *pairs):
  """Differences of the last values of two arms, `ONE_OTHER_METRIC`."""
  return {
    f'{one}_{other}_{metric.rpartition("/")[2]}': (
      f'{one} less {other}, {metric}',
      apart(arms[one], arms[other], metric),
    )
    for one, other in pairs
  }


def risen(arms, metric, name, title):
  """Of every arm by how much a metric rose, `NAME_ARM`."""
  return {
    f'{name}_{arm}': (f'{arm}{title}', rise(found, metric))
    for arm, found in arms.items()
  }


def claimed(title, found, sign):
  """Differences that a claim is about."""
  return {
    name: (f'{title}: {said}', value, sign)
    for name, (said, value) in found.items()
  }


def last(arm, metric):
  return interval(by_seed(arm, metric).values())


def within(arm, metric, other, kind):
  """A metric less another of the same arm, at first or at last."""
  one, two = (by_seed(arm, x, kind) for x in (metric, other))
  return interval([one[s] - two[s] for s in one])


def within_apart(arm, other, value, minus):
  """By how much more one value exceeds another in an arm than in another arm.

  Args:
    arm: Of a summary.
    other: What it is held against, on the seeds of both.
    value: A metric, and whether its `first` or its `last`.
    minus: Likewise what is taken from it.
  """
  one, two = (
    {
      seed: x - by_seed(a, *minus)[seed]
      for seed, x in by_seed(a, *value).items()
    }
    for a in (arm, other)
  )
  return interval([one[s] - two[s] for s in one if s in two])

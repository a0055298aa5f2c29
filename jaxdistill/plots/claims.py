"""Claims against what arms came to: differences, intervals, verdicts.

Differences are taken in each seed; intervals are Student's t over seeds, at
95%. A claim `holds` where its interval lies beyond its margin (0, if none is
said) on the claim's side, `does not hold` where it lies on the other side of
the margin, and is `inconclusive` elsewhere; also where all seeds have the very
same value, which says nothing of how much it varies. Claims that stand together
have the intervals of their steps in Holm's procedure.
"""

from scipy import stats

from jaxdistill.plots.intervals import estimate

ROUNDING = 1e-9


def logged(metric):
  """The name of a metric in the log: evaluations are named by their split."""
  namespace = metric.partition('/')[0]
  return f'eval/{metric}' if namespace in ('dev', 'test', 'ood') else metric


def by_seed(arm, metric, kind='last'):
  """Seed -> a value of an arm."""
  return arm[logged(metric)]['by_seed'][kind]


def apart(arm, other, metric):
  """Last values of an arm less those of another, on the seeds of both."""
  one, two = by_seed(arm, metric), by_seed(other, metric)
  seeds = [s for s in one if s in two]
  return interval([one[s] - two[s] for s in seeds])


def rise(arm, metric):
  """Last values less first ones."""
  last, first = by_seed(arm, metric), by_seed(arm, metric, 'first')
  return interval([last[s] - first[s] for s in last])


def interval(values):
  """Mean and bounds; no bounds of one value."""
  mean, bounds = estimate(list(values))
  return {'mean': mean, 'interval': bounds, 'seeds': len(values)}


def verdict(found, sign, margin=0.0):
  """What an interval says of a claim that the value is beyond a margin.

  Args:
    found: From `interval`.
    sign: On which side the claim sees it; 0: there is no claim.
    margin: How far from 0.
  """
  if not sign:
    return ''
  if found['interval'] is None:
    return 'inconclusive'
  low, high = sorted(sign * x for x in found['interval'])
  if high - low < ROUNDING:  # all seeds alike: how much it varies is unknown
    return 'inconclusive'
  if low > margin:
    return 'holds'
  return 'does not hold' if high < margin else 'inconclusive'


def cell(found, digits=3):
  """A mean with its bounds, bold where they leave out 0."""
  text = f'{found["mean"]:+.{digits}f}'
  if found['interval'] is None:
    return text
  low, high = found['interval']
  clear = '**' if low * high > 0 else ''
  return f'{clear}{text}{clear} ({low:+.{digits}f} to {high:+.{digits}f})'


def rows(head, lines):
  """A table in Markdown."""
  every = [head, ['---'] * len(head), *lines]
  return ''.join(f'| {" | ".join(map(str, line))} |\n' for line in every)


def judged(tests):
  """Verdicts as a record and as a table.

  Args:
    tests: By a short name the claim, its interval, which sign it has by the
      claim, and perhaps how far from 0.
  """
  record = {
    name: {'claim': title} | found | {'verdict': verdict(found, *claimed)}
    for name, (title, found, *claimed) in tests.items()
  }
  lines = [
    [found['claim'], cell(found), found['verdict']] for found in record.values()
  ]
  return {'tests': record}, rows(['claim', 'difference', 'verdict'], lines)


def looked_at(seen):
  """What is there to be looked at, as tests without a claim."""
  return {name: (*found, 0) for name, found in seen.items()}


def at_holm(tests, level=0.05):
  """Claims with the intervals of their steps in Holm's procedure."""
  steps = holm({name: found for name, (_, found, *_) in tests.items()}, level)
  return {
    name: (
      title,
      found | steps[name] | {'interval': at_level(found, steps[name]['level'])},
      *claimed,
    )
    for name, (title, found, *claimed) in tests.items()
  }


def registered(tests, level=0.05):
  """Several claims together, in the words of the protocols.

  Each gets the interval of its step in Holm's procedure. It `holds` where that
  lies on the claim's side of 0, is `refuted` where it lies below the smallest
  effect that matters, is `too small to matter` where both are so, and else
  `inconclusive`.

  Args:
    tests: By a short name the claim, its interval, its sign, and the smallest
      effect that matters.
  """
  record, lines = {}, []
  for name, (title, found, sign, effect) in at_holm(tests, level).items():
    near, far = sorted(sign * x for x in found['interval'])
    said = {
      (True, True): 'too small to matter',
      (True, False): 'holds',
      (False, True): 'refuted',
    }.get((near > 0, far < effect), 'inconclusive')
    record[name] = {'claim': title} | found | {'verdict': said}
    lines.append([title, cell(found), f'{found["p"]:.4f}', said])
  head = ['claim', "difference, its interval at Holm's level", 'p', 'verdict']
  return record, rows(head, lines)


def error_of(found):
  """Standard error of a mean, from its 95% interval."""
  low, high = found['interval']
  return (high - low) / 2 / stats.t.ppf(0.975, found['seeds'] - 1)


def at_level(found, level):
  """Bounds of a mean that miss it with probability `level`."""
  half = error_of(found) * stats.t.ppf(1 - level / 2, found['seeds'] - 1)
  return [found['mean'] - half, found['mean'] + half]


def holm(tests, level=0.05):
  """Which of several differences are clear together, at a level.

  Returns:
    By name: `p`, two-sided; the `level` of its step, which after the first
    that is not clear stays what it was: what is clear has `p <= level`.

  Raises:
    ValueError: One of them has no interval.
  """
  p = {}
  for name, found in tests.items():
    if found['interval'] is None:
      raise ValueError(f'{name} has one seed, and no interval')
    error, mean = error_of(found), abs(found['mean'])
    t = mean / error if error > ROUNDING else 0.0
    p[name] = float(2 * stats.t.sf(t, found['seeds'] - 1))
  out, clear, step = {}, True, level
  for i, name in enumerate(sorted(p, key=lambda name: p[name])):
    step = level / (len(p) - i) if clear else step
    clear = clear and p[name] <= step
    out[name] = {'p': p[name], 'level': step}
  return out

"""What a run came to, in plain words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdistill.plots.files import points_of
from jaxdistill.plots.intervals import change
from jaxdistill.plots.measured import MEASURES, SPLITS, measured_on, spread

_UNKNOWN = (
  'of how many problems is not said',
  'several are of one item, and not independent',
)


def verdict(
  config: Mapping[str, Any],
  metrics: Sequence[Mapping[str, Any]],
  alarms: Sequence[Mapping[str, Any]],
  summary: Mapping[str, Any],
) -> dict[str, Any]:
  """Whether a run got better, and what else must be known of it.

  Args:
    config: Of the run.
    metrics: The lines that it logged.
    alarms: Those that went off.
    summary: Empty while the run is not finished.

  Returns:
    `headline`; `tone` (`up`, `down` or `flat`); `lead`, sentences;
    `rows`, one for each held-out accuracy; `notes`, pairs of a tone (`warn` or
    `plain`) and a sentence; `problems`, how many an accuracy is measured on.
  """
  n = _number(config, 'eval', 'problems')
  rows = [
    row
    for split in _splits(config, metrics)
    for row in _rows(split, metrics, measured_on(split, metrics) or n)
  ]
  put_back = any(alarm.get('action') == 'rollback' for alarm in alarms)
  headline, tone = _headline(rows, bool(summary), put_back)
  return {
    'headline': headline,
    'tone': tone,
    'lead': _lead(rows, config, metrics, bool(summary)),
    'rows': rows,
    'notes': _notes(config, metrics, alarms, summary),
    'problems': n,
  }


def learned_nothing(summary: Mapping[str, Any]) -> bool:
  """Whether a finished run neither updated nor replaced its weights."""
  steps = summary.get('optimizer_steps', 1) if summary else 1
  return not steps and not summary.get('adopted')


def _number(config, section, key):
  value = config.get(section, {}).get(key)
  return value if isinstance(value, int) and value > 0 else None


def _splits(config, metrics):
  """The splits with an accuracy; the one that the verdict is about is first."""
  seen = {
    name.split('/')[1]
    for line in metrics
    for name in line
    if name.startswith('eval/') and name.split('/')[-1] in MEASURES
  }
  ordered = [*config.get('eval', {}).get('splits', ()), *sorted(seen)]
  ordered.sort(key=lambda split: split != 'test')
  return [split for split in dict.fromkeys(ordered) if split in seen]


def _rows(split, metrics, of):
  for kind, measure in MEASURES.items():
    lines = [x for x in metrics if x.get(f'eval/{split}/{kind}') is not None]
    if not lines:
      continue
    values = [line[f'eval/{split}/{kind}'] for line in lines]
    highest = values.index(max(values))
    began, ended, best = (
      (values[i], spread(kind, values[i], lines[i], split, of))
      for i in (0, -1, highest)
    )
    rise, fall = _change(began, ended), _change(best, ended)
    yield {
      'split': SPLITS.get(split, split),
      'kind': measure.said,
      'share': measure.share,
      'decides': measure.decides,
      'signed': bool(measure.moves),
      'unknown': _UNKNOWN[measure.pooled],  # why, where noise is
      'times': len(values),
      'began': began,
      'ended': ended,
      'best': (best[0], lines[highest]['step']),
      'change': (ended[0] - began[0], rise),
      'way': _way(ended[0] - began[0], rise) if len(values) > 1 else 'once',
      'below_best': ended[0] < best[0],
      'fell_from_best': bool(fall and fall[1] < 0),
    }


def _change(before, after):
  known = before[1] and after[1]
  return change(*before, *after) if known else None


def _way(rise, interval):
  """`up` or `down` where a change is beyond noise, else `flat`."""
  if not interval:
    return 'unknown'
  if interval[0] > 0 or interval[1] < 0:
    return 'up' if rise > 0 else 'down'
  return 'flat'


def _headline(rows, finished, put_back):
  rows = [row for row in rows if row['decides']]
  if not rows:
    return 'Nothing was measured on held-out problems.', 'flat'
  ways = {row['way'] for row in rows if row['split'] == rows[0]['split']}
  if ways == {'once'}:
    return 'It was measured only once: there is no change to see yet.', 'flat'
  so_far = '' if finished else ' so far'
  if {'up', 'down'} <= ways:
    return f'Better in one way and worse in another{so_far}.', 'down'
  if 'up' in ways:
    return f'It got better{so_far}.', 'up'
  if 'down' in ways:
    return f'It got worse{so_far}.', 'down'
  if 'unknown' in ways:
    return 'Whether a change is more than noise cannot be said.', 'flat'
  if put_back:
    back = 'the guard put back a version before'
    return f'No change beyond noise{so_far}; {back}.', 'flat'
  return f'No change beyond noise{so_far}.', 'flat'


def _lead(rows, config, metrics, finished):
  said = []
  if not rows:
    said.append(
      'There is no held-out evaluation in its metrics, so whether it got '
      'better cannot be said: rewards and votes are the model judging itself.'
    )
  for row in rows:
    if row['split'] != rows[0]['split'] or row['times'] < 2:
      continue
    if not row['decides']:
      continue
    began, ended = row['began'][0], row['ended'][0]
    how = {
      'up': 'more than noise explains',
      'down': 'more than noise explains',
      'flat': 'within noise',
      'unknown': f'noise unknown: {row["unknown"]}; compare seeds',
    }[row['way']]
    kind = row['kind'][0].upper() + row['kind'][1:]
    words = f'{kind}: {_share(began)} → {_share(ended)}{row["share"]}'
    if row['below_best']:
      drop = (row['best'][0] - ended) * 100
      sure = 'beyond noise' if row['fell_from_best'] else 'which may be noise'
      words += f' ({how}); ended {drop:.1f} points below its best, {sure}.'
    elif row['best'][0] == began:
      words += f' ({how}); never better than at its start.'
    else:
      words += f' ({how}); ended at its best.'
    said.append(words)
  last = metrics[-1] if metrics else {}
  kept = last.get('guard/kept', last.get('step'))
  if finished and kept != last.get('step'):
    said.append(
      f'It ends with its version of step {kept:.0f}, the best on the problems '
      'that the guard looks at.'
    )
  if not finished:
    # After its last step a run logs a line more.
    done, steps = metrics[-1]['step'] + 1 if metrics else 0, config.get('steps')
    of = '' if steps is None else f' of {steps}'
    said.append(
      f'The run is not finished: {min(done, steps or done)}{of} steps are '
      'logged.'
    )
  return said


def _share(value):
  return f'{value:.1%}'


def _notes(config, metrics, alarms, summary):
  notes = [*_alarm_notes(config, alarms)]

  def warn(condition, text):
    if condition:
      notes.append(('warn', text))

  cut = [
    x
    for s in _splits(config, metrics)
    for x in points_of(metrics, f'eval/{s}/cut')[-1:]
  ]
  cut = max((value for _, value in cut), default=0)
  warn(
    cut > 0.1,
    f'{cut:.0%} of the held-out answers were cut at eval.max_tokens '
    f'({_number(config, "eval", "max_tokens")}) and count as wrong.',
  )
  cut = _late(metrics, 'rollout/cut')
  warn(
    cut is not None and cut > 0.1,
    f'{cut or 0:.0%} of the answers in training were cut at method.max_tokens '
    f'({_number(config, "method", "max_tokens")}).',
  )
  warn(
    learned_nothing(summary),
    'Nothing was learned: no step had an answer to train on.',
  )
  skipped = summary.get('skipped_updates', 0)
  warn(skipped, f'{skipped} updates were skipped because they were not finite.')
  bad = sum(1 for x in metrics if 'train/loss' in x and x['train/loss'] is None)
  warn(bad, f'The loss was not finite at {bad} of {len(metrics)} steps.')
  valid = _late(metrics, 'selfplay/valid')
  warn(
    valid is not None and valid < 0.5,
    f'Only {valid or 0:.0%} of its proposals could be asked towards the end.',
  )
  right = _late(metrics, 'selfplay/vote_accuracy')
  warn(
    right is not None and right < 0.5,
    f'Its votes were right on only {right or 0:.0%} of its own problems '
    'towards the end: most of what it learned from was wrong.',
  )
  return notes


def _alarm_notes(config, alarms):
  if not alarms:
    if config.get('alarms'):
      yield 'plain', 'No alarm went off.'
    return
  did = Counter(alarm.get('action', 'warn') for alarm in alarms)
  words = {
    'stop': ('stop', 'stops'),
    'rollback': ('rollback', 'rollbacks'),
    'warn': ('warning', 'warnings'),
  }
  # Alarms of one step share a rollback.
  steps = {x['step'] for x in alarms if x.get('action') == 'rollback'}
  did['rollback'] = len(steps)
  counts = ', '.join(
    f'{did[action]} {words[action][did[action] > 1]}'
    for action in words
    if did[action]
  )
  times = 'once' if len(alarms) == 1 else f'{len(alarms)} times'
  yield 'warn', f'Alarms went off {times}: {counts or "see below"}.'
  for action in ('stop', 'rollback'):
    last = [x for x in alarms if x.get('action') == action][-1:]
    for alarm in last:
      yield (
        'warn',
        f'The last {action}, at step {alarm["step"]} ({alarm.get("alarm")}): '
        f'{alarm.get("said", "")}',
      )


def _late(metrics, name):
  """The mean over the last third of the steps; None where there is none."""
  values = [value for _, value in points_of(metrics, name)]
  return float(np.mean(values[-max(1, len(values) // 3) :])) if values else None

"""What a run took, beside what was planned for it."""

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from jaxdistill.config import ConfigError
from jaxdistill.dist.chips import GIB

_NEEDS = 'chips', 'programs', 'tokens_a_step', 'step_s'


def read(path: str) -> Mapping[str, Any]:
  """A plan, as `jaxdistill plan --json` prints it.

  Raises:
    ConfigError: It is none.
  """
  try:
    found = json.loads(epath.Path(path).read_text())
  except (OSError, ValueError) as e:
    raise ConfigError(f'{path} is no plan: {e}') from None
  missing = [n for n in _NEEDS if not isinstance(found, dict) or n not in found]
  if missing:
    raise ConfigError(
      f'{path} is no plan, it has no {missing[0]!r}: jaxdistill plan --json '
      'prints one'
    )
  try:
    beside(found, [], None, 1)
  except (TypeError, KeyError, AttributeError, ValueError) as e:
    raise ConfigError(f'{path} is no plan: {e}') from None
  return found


def beside(
  plan: Mapping[str, Any],
  lines: Sequence[Mapping[str, float]],
  peak: int | None,
  chips: int,
) -> str:
  """A table: what was planned, and what was measured.

  Args:
    plan: From `read`.
    lines: Metrics of the run's steps; the first, which compiles, is left out,
      and of the others the median is shown.
    peak: Most bytes that were in use on a device; None: not known.
    chips: That it ran on.
  """
  steps = [x for x in lines if 'time/step_s' in x][1:]
  least = plan['step_s'] or {}
  draws = least.get('draw', 0.0)

  def median(name):
    return statistics.median(x[name] for x in steps) if steps else None

  collected = draws + least.get('score', 0.0)
  rows = (
    (
      'GiB of a device',
      max(p['peak_bytes'] for p in plan['programs']) / GIB,
      peak and peak / GIB,
    ),
    ('s a step', sum(least.values()), median('time/step_s')),
    ('s of it drawn and scored', collected, median('time/collect_s')),
    ('s of it trained', least.get('train'), median('time/update_s')),
    (
      'tokens a second, drawn',
      plan['tokens_a_step'] / draws if draws else None,
      median('rollout/tokens_per_s'),
    ),
  )

  def said(x):
    return f'{x:,.0f}' if x and x >= 1000 else f'{x:.3g}' if x else 'not known'

  out = [f'{"":26}{"planned":>10}{"measured":>12}']
  out += [f'{name:26}{said(a):>10}{said(b):>12}' for name, a, b in rows]
  out.append(
    'Planned is the least, of answers as long as may be; measured the median '
    'of all steps after the first.'
  )
  if plan['step_s'] is None:
    out.append(
      'Of these devices no rates are published, and so no times known.'
    )
  if plan['chips'] != chips:
    out.append(f'It was planned for {plan["chips"]} devices, and had {chips}.')
  return '\n'.join(out)

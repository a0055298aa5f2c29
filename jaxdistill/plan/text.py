"""A plan in words, and as one JSON object."""

from collections.abc import Mapping
from typing import Any

from jaxdistill.plan.chips import GIB
from jaxdistill.plan.estimate import Plan, Program

_BOUND = {'flops': 'computing', 'bytes': 'reading', 'sent': 'sending'}


def table(plan: Plan) -> str:
  """For the terminal."""
  chip = plan.chip
  mesh = ' '.join(
    f'{k}={v}' for k, v in plan.mesh.items() if v > 1 or k == 'data'
  )
  room = f' of {chip.memory / GIB:.2f}' if chip else ''
  lines = [
    f'{plan.name}: {plan.chips} devices, mesh {mesh}',
    '',
    f'{"":24}{"GiB" + room:>15}{"TFLOP":>9}{"GB moved":>10}'
    f'{"GB sent":>9}{"ms at best":>12}  bound by',
  ]
  lines += [_row(plan, p) for p in plan.programs]
  held = plan.held._asdict()
  said = ', '.join(f'{k} {v / GIB:.2f}' for k, v in held.items() if v)
  lines += ['', f'Held all along, GiB a device: {said}.']
  axes = _axes(plan)
  if axes:
    lines.append(f'Sent, GB a device: {axes}.')
  if chip:
    draw, train = plan.phases['draw'], plan.phases['train']
    rate = f', {plan.tokens / draw:,.0f} tokens/s' if draw else ''
    lines += [
      '',
      f'A step at best: {draw + train:.3g} s (drawing {draw:.3g}{rate}; '
      f'training {train:.3g}).',
      f'{plan.steps} steps and their evaluations: {plan.hours:.3g} h at best, '
      f'{plan.hours * plan.chips:.3g} chip-hours.',
      '',
      f'At best is max(TFLOP / {chip.flops / 1e12:.0f}, '
      f'GB moved / {chip.memory_rate / 1e9:.0f}, '
      f'GB sent / {chip.links_rate / 1e9:.0f}) s, by what is published of a '
      f'{chip.name} ({chip.source}): a bound, not a promise.',
    ]
  else:
    lines.append('What these devices can do is not published here: no times.')
  return '\n'.join(lines)


def _row(plan: Plan, p: Program) -> str:
  peak = f'{p.peak / GIB:.2f}'
  if p.cost is None:
    return f'{p.name:24}{peak:>15}  does not fit'
  sent = sum(p.cost.traffic().values())
  figures = (
    f'{peak:>15}{p.cost.flops / 1e12:9.3g}{p.cost.bytes / 1e9:10.3g}'
    f'{sent / 1e9:9.3g}'
  )
  late = ''
  if p.seconds is not None and plan.chip:
    late = f'{p.seconds * 1e3:12.3g}  {_bound(plan, p, sent)}'
  over = plan.chip and p.peak > plan.chip.memory
  return f'{p.name:24}{figures}{late}{"  does not fit" if over else ""}'


def _bound(plan: Plan, p: Program, sent: float) -> str:
  assert plan.chip and p.cost
  times = {
    'flops': p.cost.flops / plan.chip.flops,
    'bytes': p.cost.bytes / plan.chip.memory_rate,
    'sent': sent / plan.chip.links_rate,
  }
  return _BOUND[max(times, key=lambda k: times[k])]


def _axes(plan: Plan) -> str:
  parts = []
  for p in plan.programs:
    found = p.cost.traffic() if p.cost else {}
    said = ', '.join(
      f'{v / 1e9:.3g} over {k}' for k, v in found.items() if v > 1e6
    )
    if said:
      parts.append(f'{p.name} {said}')
  return '; '.join(parts)


def as_json(plan: Plan) -> Mapping[str, Any]:
  """All figures; bytes and seconds, of one device."""
  chip = plan.chip
  return {
    'devices': plan.name,
    'chips': plan.chips,
    'mesh': dict(plan.mesh),
    'fits': plan.fits,
    'memory_bytes': chip and chip.memory,
    'held_bytes': plan.held._asdict(),
    'programs': [
      {
        'name': p.name,
        'peak_bytes': p.peak,
        'flops': p.cost and p.cost.flops,
        'moved_bytes': p.cost and p.cost.bytes,
        'sent_bytes': p.cost and p.cost.traffic(),
        'at_best_s': p.seconds,
        'compiled_s': p.compiled_s,
      }
      for p in plan.programs
    ],
    'step_s': dict(plan.phases) if chip else None,
    'tokens_a_step': plan.tokens,
    'steps': plan.steps,
    'hours': plan.hours if chip else None,
    'chip_hours': plan.hours * plan.chips if chip else None,
  }

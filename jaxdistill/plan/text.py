"""A plan in words, and as one JSON object."""

from collections.abc import Mapping
from typing import Any

from jaxdistill.dist.chips import GIB
from jaxdistill.plan.estimate import Plan, Program
from jaxdistill.plan.hlo import Cost


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
  if chip and plan.fits:
    share = plan.worst.peak / chip.memory
    little = ', little room' if share > 0.95 else ''
    lines.append(
      f'It fits{little}: {plan.worst.name} takes {share:.0%} of the memory.'
    )
  if chip:
    draw = plan.phases['draw']
    rate = f', {plan.tokens / draw:,.0f} tokens/s' if draw else ''
    parts = {
      f'drawing{rate}': draw,
      'scoring': plan.phases['score'],
      'training': plan.phases['train'],
    }
    told = ', '.join(f'{k} {v:.3g} s' for k, v in parts.items() if v)
    network = ''
    if plan.mesh['slice'] > 1:
      network = f', GB over `slice` / {chip.network_rate / 1e9:.3g}'
    lines += [
      '',
      f'A step whose answers are all of full length, at best: '
      f'{plan.seconds:.3g} s ({told}).',
      f'{plan.steps} such steps and their evaluations: {plan.hours:.3g} h, '
      f'{plan.hours * plan.chips:.3g} chip-hours.',
      '',
      f'At best is max(TFLOP / {chip.flops / 1e12:.0f}, '
      f'GB moved / {chip.memory_rate / 1e9:.0f}, '
      f'GB sent / {chip.links_rate / 1e9:.0f}{network}) s, by what is '
      f'published of a {chip.name} ({chip.source}).',
    ]
  else:
    lines.append('What these devices can do is not known here: no times.')
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
  if p.times:
    late = f'{p.seconds * 1e3:12.3g}  {p.bound}'
  over = '  does not fit' * (p in plan.misfits)
  return f'{p.name:24}{figures}{late}{over}'


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
        'at_best_s': dict(p.times),
        'collectives': p.cost and _collectives(p.cost),
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


def _collectives(cost: Cost) -> list[dict[str, Any]]:
  """The ten that send most."""
  most = sorted(cost.sent, key=lambda s: -s.bytes * s.times)[:10]
  return [s._asdict() for s in most]

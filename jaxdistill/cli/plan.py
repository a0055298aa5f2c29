"""`jaxdistill plan`: what would a run take on devices that are not here?"""

import argparse

from jaxdistill.cli import options
from jaxdistill.cli.parser import Parser

LINE = 'say what a run takes on a TPU slice, before it is rented'
HELP = """\
Compiles the programs of a run for a TPU slice, none of which need be here (it
takes libtpu, see the extra [tpu]), or for the devices at hand: memory of each
chip, work, traffic by axis of the mesh, and, by what is published of the chip,
the shortest time that a step and the run can take. Nothing is trained, and no
weights are read. What does not fit is said, with a change that does. It takes
one to three minutes on two cores; --search plans every mesh, one by one.

  jaxdistill plan --config configs/sqlm_small.py
  jaxdistill plan --config configs/grpo_small.py --topology v5e:2x2
  jaxdistill plan --config MINE.py --topology v5e:4x8 --config.mesh.fsdp=32

--config.KEY=VALUE sets any key of the config; of two slices write 2xv5e:4x8.
Exit code 1 if it does not fit. Next: jaxdistill train --help"""
CONFIG = True


def add_options(parser: Parser) -> None:
  parser.add_argument(
    '--config',
    required=True,
    type=options.text,
    metavar='FILE.py',
    help='of the run, as for train; required',
  )
  parser.add_argument(
    '--topology',
    type=options.text,
    metavar='v5e:4x8',
    help='chips to compile for (default: the devices at hand)',
  )
  parser.add_argument(
    '--search',
    action='store_true',
    help='plan every mesh that fits, with and without remat; the best last',
  )
  parser.add_argument(
    '--json', action='store_true', help='print one JSON object; default text'
  )


def run(args: argparse.Namespace) -> int:
  import json

  from jaxdistill.api import planning

  config = planning.configure(args.config, args.overrides)
  devices, name = planning.devices(args.topology or '')
  if args.search:
    return _search(config, devices, name, args.json)
  found = planning.plan(config, devices, name, _tell)
  near = None
  if not found.fits:
    near = planning.nearest(config, devices, name, found, _tell)
  if args.json:
    told = dict(planning.as_json(found))
    told['nearest'] = near and dict(near.changes)
    told |= {'model': config.model, 'method': config.method.name}
    print(json.dumps(told, indent=1))
  else:
    print(planning.table(found))
    if not found.fits:
      print(f'\n{_misfit(found, near)}')
  return 0 if found.fits else 1


def _tell(text: str) -> None:
  import sys

  print(f'compiling: {text}', file=sys.stderr, flush=True)


def _misfit(found, near) -> str:
  worst = found.worst
  parts = {k: v for k, v in found.held._asdict().items() if v}
  parts['results and what is between'] = worst.needs
  blame = max(parts, key=lambda k: parts[k])
  said = (
    f'It does not fit: {worst.name} takes {worst.peak / 2**30:.2f} GiB of '
    f'{found.chip.memory / 2**30:.2f}, most of it {blame} '
    f'({parts[blame] / 2**30:.2f}).'
  )
  if near is None:
    return f'{said} Nothing tried fits; take more chips or a smaller model.'
  keys = ' '.join(f'--config.{k}={v}' for k, v in near.changes.items())
  peak = near.plan.worst.peak / 2**30
  return f'{said} This does, at {peak:.2f} GiB: {keys}'


def _search(config, devices, name, as_json: bool) -> int:
  import json
  import sys

  from jaxdistill.api import planning

  tried = []
  for one in planning.search(config, devices, name):
    tried.append(one)
    print(_line(one), file=sys.stderr, flush=True)
  fits = [t for t in tried if t.plan and t.plan.fits]
  fits.sort(key=lambda t: -t.plan.seconds)
  if as_json:
    told = [
      dict(planning.as_json(t.plan)) | {'changes': dict(t.changes)}
      for t in fits[::-1]
    ]
    print(json.dumps(told, indent=1))
    return 0 if fits else 1
  for t in fits:
    print(_line(t))
  print(f'{len(fits)} of {len(tried)} fit; the last is the fastest at best.')
  return 0 if fits else 1


def _line(tried) -> str:
  """A mesh and what it comes to."""
  keys = ' '.join(f'{k}={v}' for k, v in tried.changes.items())
  if not tried.plan:
    return f'{"cannot be":>17}{"":13}  {keys}'
  peak = f'{tried.plan.worst.peak / 2**30:9.2f} GiB'
  if not tried.plan.fits:
    return f'{"does not fit":>17}{peak}  {keys}'
  return f'{tried.plan.seconds:10.3g} s a step{peak}  {keys}'

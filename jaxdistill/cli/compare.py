"""`jaxdistill compare`: arms over seeds under one budget."""

import argparse

from jaxdistill.cli import ending, hosts, options
from jaxdistill.cli.parser import Parser

LINE = 'train arms with several seeds under one budget'
HELP = """\
Trains every arm of a comparison with every seed until each has spent the same
tokens; writes table.md, compare.png and summary.json. The same command goes on
where it stopped. Several may share the work, each with its own --arms or
--seeds; a last one without either collects it all.

  jaxdistill compare --config configs/compare_late.py --workdir runs/late
  jaxdistill compare --config configs/compare_late.py --workdir runs/late \\
    --arms sqlm,random_reward --seeds 0,1

--config.KEY=VALUE sets any key of the base. Next: jaxdistill plot --help"""
CONFIG = True


def add_options(parser: Parser) -> None:
  parser.add_argument(
    '--config',
    required=True,
    type=options.text,
    metavar='FILE.py',
    help='a Python file whose get_config() gives a Comparison; required',
  )
  parser.add_argument(
    '--workdir',
    required=True,
    type=options.text,
    metavar='FOLDER',
    help='where the runs live, each in FOLDER/ARM/SEED; required',
  )
  parser.add_argument(
    '--arms', default='', metavar='A,B', help='only these (default: all)'
  )
  parser.add_argument(
    '--seeds', default='', metavar='0,1', help='only these (default: all)'
  )
  hosts.add_hosts(parser)


def run(args: argparse.Namespace) -> None:
  from jaxdistill.api import comparing

  arms, seeds = (x.split(',') if x else () for x in (args.arms, args.seeds))
  hosts.start(args, saves=True)
  plan = comparing.plan(args.config, args.overrides, arms, seeds)
  hosts.meet('the plan is read')
  from etils import epath

  def announce(run: comparing.Next) -> None:
    done = ', finished' if run.finished else ''
    where = f'{run.number} of {run.total}: {run.arm}, seed {run.seed}'
    hosts.say(f'{where}{done}')

  with ending.training():
    found = comparing.carry_out(plan, args.workdir, announce)
  if not hosts.first():
    return
  print(f'\n{found}')
  for what, name in (
    *(('table', 'table.md'), ('figure', 'compare.png')),
    *(('numbers', 'summary.json'),),
  ):
    print(f'The {what + ":":9} {epath.Path(args.workdir) / name}')
  one = epath.Path(args.workdir) / plan.arms[0] / plan.seeds[0]
  print(f'Any run:      jaxdistill plot {one} --out run.html')

"""`jaxdistill plot`: figures and reports of what runs have left."""

import argparse

from jaxdistill.cli import options, places
from jaxdistill.cli.parser import Parser

LINE = 'draw the curves of runs, a comparison, or pass@k'
HELP = """\
Draws what runs have left: the curves of folders, or one comparison's
summary.json, or pass@k of files that eval --pass_k --out wrote; or writes the
report of one run. Runs that differ only in their seed are drawn as their mean
with its interval.

  jaxdistill plot runs/a runs/b --out runs/both.png
  jaxdistill plot runs/a --out runs/a/report.html
  jaxdistill plot runs/late/summary.json --out runs/late.png"""
CONFIG = False


def add_options(parser: Parser) -> None:
  parser.add_argument(
    'paths',
    nargs='+',
    type=options.text,
    metavar='PATH',
    help='folders of runs; or one summary.json; or files of eval --out',
  )
  parser.add_argument(
    '--out',
    type=options.text,
    default='curves.png',
    metavar='FILE.png',
    help='the figure to write, or for one run FILE.html, its report (default: '
    '%(default)s)',
  )


def run(args: argparse.Namespace) -> None:
  from jaxdistill import plots
  from jaxdistill.api.refusing import in_one_line

  places.check_file(args.out, '.png', '.html')
  with in_one_line():
    plots.draw(args.paths, args.out)
  print(args.out)

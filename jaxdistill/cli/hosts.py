"""The options of several processes, and how they are joined."""

import argparse
import sys

from jaxdistill.cli import options
from jaxdistill.cli.ending import AGAIN
from jaxdistill.cli.parser import Parser

ANEW = 'start it again on all hosts'


def add_hosts(parser: Parser) -> None:
  """Adds `--coordinator`, `--num_processes` and `--process_id`."""
  parser.add_argument(
    '--coordinator',
    default='',
    metavar='HOST:PORT',
    help='of process 0, or auto on a cluster (default: one process alone)',
  )
  parser.add_argument(
    '--num_processes',
    type=options.positive,
    default=0,
    metavar='N',
    help='how many processes, with --coordinator (default: one)',
  )
  parser.add_argument(
    '--process_id',
    type=options.index,
    default=-1,
    metavar='I',
    help='which of them this is, from 0, with --coordinator',
  )


def start(args: argparse.Namespace, then: str = AGAIN) -> None:
  """Joins the processes that a verb's options name.

  Args:
    args: The options.
    then: What to do where one of them is gone.
  """
  from jaxdistill import dist
  from jaxdistill.api.refusing import in_one_line

  if 0 <= args.process_id < args.num_processes > 1:
    others = f'{args.num_processes} processes at {args.coordinator}'
    print(f'process {args.process_id} waits for {others}', file=sys.stderr)
  with in_one_line():
    dist.start_hosts(
      *(args.coordinator, args.num_processes, args.process_id), then
    )


def meet(what: str) -> None:
  """Waits for the others, however long they take; one that fails ends all."""
  from jaxdistill import dist

  dist.meet(what)

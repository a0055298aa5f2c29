"""The options of several processes, and how they are joined."""

import argparse
import signal
import sys
from collections.abc import Callable
from typing import Any

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


def start(args: argparse.Namespace, saves: bool = False) -> None:
  """Joins the processes that a verb's options name.

  Args:
    args: The options.
    saves: Whether a SIGTERM is waited for, to save and go on later; otherwise
      it ends the process, as it does where there is only one.
  """
  from jaxdistill import dist
  from jaxdistill.api.refusing import in_one_line

  if 0 <= args.process_id < args.num_processes > 1:
    others = f'{args.num_processes} processes at {args.coordinator}'
    print(f'process {args.process_id} waits for {others}', file=sys.stderr)
  with in_one_line():
    dist.start_hosts(
      *(args.coordinator, args.num_processes, args.process_id),
      AGAIN if saves else ANEW,
    )
  if args.coordinator and not saves:  # JAX takes it for a notice
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def meet(what: str) -> None:
  """Waits for the others, however long they take; one that fails ends all."""
  from jaxdistill import dist

  dist.meet(what)


def first() -> bool:
  """Whether this is the process that prints and writes, by itself or of many.

  Known once they are joined.
  """
  import jax

  return jax.process_index() == 0


def say(what: object = '') -> None:
  """Prints a line, of several processes only once."""
  if first():
    print(what, flush=True)


def check(act: Callable[[], Any]) -> None:
  """Has process 0 look at something; what it refuses, all refuse."""
  from jaxdistill import dist
  from jaxdistill.api.refusing import in_one_line

  def look():
    act()

  with in_one_line():
    dist.by_first(look, 'what was asked is looked at')

"""`jaxdistill targets`: what would a teacher say next? Written down once."""

import argparse

from jaxdistill.cli import hosts, options
from jaxdistill.cli.parser import Parser

LINE = "write down a teacher's next-token distributions, to learn from offline"
HELP = """\
Has a teacher answer problems to train on, and writes its answers with the
likeliest tokens in each place of them and their log-probs. Any number of runs
learn from the folder (method offline_distill); none of them loads the teacher.

  jaxdistill targets --model small-late --problems 400 --out late
  jaxdistill targets --model DIRECTORY --task arithmetic:add:3,3 --out DIR
  jaxdistill targets --model hf:OWNER/NAME --tensor 8 --task FILE --out DIR

Next: jaxdistill train --config configs/learn_small.py:offline_kd --workdir
RUN --config.method.targets=late --config.pool=400"""
CONFIG = False


def add_options(parser: Parser) -> None:
  parser.add_argument(
    '--model',
    type=options.text,
    required=True,
    metavar='NAME',
    help='the teacher: a shipped base (small-late, ...), a directory, or '
    'hf:owner/name',
  )
  parser.add_argument(
    '--out',
    type=options.text,
    required=True,
    metavar='FOLDER',
    help='where they go; not there yet. Of several processes, seen by all',
  )
  options.add_task(parser)
  parser.add_argument(
    '--problems',
    type=options.positive,
    default=256,
    metavar='N',
    help='how many, the pool of a run with config.pool=N (default: '
    '%(default)s)',
  )
  parser.add_argument(
    '--samples',
    type=options.positive,
    default=4,
    metavar='N',
    help='answers to each problem (default: %(default)s)',
  )
  parser.add_argument(
    '--top_k',
    type=options.positive,
    default=32,
    metavar='K',
    help='how many of the likeliest tokens are kept in each place, 8 bytes '
    'each (default: %(default)s)',
  )
  parser.add_argument(
    '--max_tokens',
    type=options.positive,
    metavar='N',
    help='longest answer, in tokens (default: 64)',
  )
  parser.add_argument(
    '--temperature',
    type=options.temperature,
    default=1.0,
    metavar='T',
    help='of sampling and of the log-probs that are kept (default: '
    '%(default)s)',
  )
  for axis, what in (
    ('fsdp', "the teacher's parameters"),
    ('tensor', 'the work of each layer'),
  ):
    parser.add_argument(
      f'--{axis}',
      type=options.positive,
      default=1,
      metavar='N',
      help=f'devices that share {what} (default: %(default)s)',
    )
  hosts.add_hosts(parser)


def run(args: argparse.Namespace) -> None:
  from jaxdistill import api

  hosts.start(args)
  found = api.targets(
    args.model,
    args.out,
    args.task,
    problems=args.problems,
    samples=args.samples,
    top_k=args.top_k,
    max_tokens=args.max_tokens or 0,
    temperature=args.temperature,
    fsdp=args.fsdp,
    tensor=args.tensor,
  )
  hosts.say(found)

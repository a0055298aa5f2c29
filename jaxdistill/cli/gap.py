"""`jaxdistill gap`: is self-play worth it, before training?"""

import argparse

from jaxdistill.cli import hosts, options
from jaxdistill.cli.parser import Parser

LINE = 'say whether self-play will help a model, before training'
HELP = """\
Says whether learning from its own majority votes will help a model on a task,
why, and what to do instead: helps, risky, or does not help. It asks the model a
few dozen problems many times; nothing is trained. Any task will do: where no
answers are known, how often majorities are right is guessed from agreement.

  jaxdistill gap --model small-late
  jaxdistill gap --model DIRECTORY --task arithmetic:add:3,3 --max_tokens 12
  jaxdistill gap --model DIRECTORY --task my_problems.jsonl --json

Which of its verifiers is worth most, and what one round of learning what it
keeps can gain (vote; yes: probability of yes; check, score: in writing;
tournament: pairs; A+B: what both keep):

  jaxdistill gap --model small-late --verifier vote,yes,vote+yes

Next: jaxdistill train --help"""
CONFIG = False


def add_options(parser: Parser) -> None:
  options.add_model(parser)
  options.add_task(parser)
  parser.add_argument(
    '--split',
    choices=('dev', 'train', 'test', 'ood'),
    help='which problems (default: dev, or train where there is none)',
  )
  parser.add_argument(
    '--problems',
    type=options.positive,
    default=128,
    metavar='N',
    help='most problems (default: %(default)s)',
  )
  parser.add_argument(
    '--samples',
    type=options.several,
    default=16,
    metavar='N',
    help='answers to each problem, at least 2 (default: %(default)s)',
  )
  parser.add_argument(
    '--max_tokens',
    type=options.positive,
    metavar='N',
    help="longest answer, in tokens (default: the run's own, or 64)",
  )
  parser.add_argument(
    '--verifier',
    type=options.names,
    default=(),
    metavar='A,B,A+B',
    help='also what its verifiers are worth, by known answers: vote, yes, '
    'check, score, tournament',
  )
  parser.add_argument(
    '--check_tokens',
    type=options.positive,
    default=256,
    metavar='N',
    help='longest check that a verifier writes (default: %(default)s)',
  )
  parser.add_argument(
    '--json', action='store_true', help='print one JSON object; default text'
  )
  hosts.add_hosts(parser)


def run(args: argparse.Namespace) -> None:
  import json

  from jaxdistill import api
  from jaxdistill.api import gaps

  gaps.check_names(args.verifier)
  hosts.start(args)
  if named := args.task:  # before a model is loaded
    hosts.check(lambda: gaps.chosen(api.task(named), args.split, args.problems))
  model = options.model(args)
  problems = gaps.chosen(model.task, args.split, args.problems)
  if not args.json:
    hosts.say(
      f'{model.name}: {len(problems)} problems of {model.task.name}, '
      f'{args.samples} samples each (the first answers compile)'
    )
  found = api.gap(
    model,
    problems=problems,
    samples=args.samples,
    max_tokens=args.max_tokens or 0,
    verifiers=args.verifier,
    check_tokens=args.check_tokens,
  )
  hosts.say(json.dumps(found.figures) if args.json else found)

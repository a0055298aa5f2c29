"""`jaxdistill context`: what does a model do when it is told more?"""

import argparse

from jaxdistill.cli import hosts, options, places
from jaxdistill.cli.parser import Parser

LINE = 'show what a model does when it is told more, before self-distillation'
HELP = """\
Asks a model the same problems with ever more told beside them: nothing, the
answer, whether it was right, a correction, a solution, another problem's, a
wrong one. How often it is right then, how long its answers are, how much it
doubts; and how far each context would pull it, token by token, if it learned
from itself so told (method self_distill). Nothing is trained.

  jaxdistill context --model small-middle
  jaxdistill context --model small-middle --solution reference --out ladder.png
  jaxdistill context --model DIRECTORY --task arithmetic:add:3,3 --judge vote

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
    default=64,
    metavar='N',
    help='most problems (default: %(default)s)',
  )
  parser.add_argument(
    '--samples',
    type=options.several,
    default=8,
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
    '--contexts',
    type=lambda text: tuple(text.split(',')),
    metavar='NAME,NAME',
    help='only these (default: all)',
  )
  parser.add_argument(
    '--judge',
    choices=('known', 'vote'),
    default='known',
    help='who says what is right: the task, or a vote (default: %(default)s)',
  )
  parser.add_argument(
    '--solution',
    choices=('sibling', 'reference'),
    default='sibling',
    help='whose solutions are told: those of other samples, or those that come '
    'with the problems (default: %(default)s)',
  )
  parser.add_argument(
    '--out', type=options.text, metavar='FILE.png', help='draw it, too'
  )
  parser.add_argument(
    '--json', action='store_true', help='print one JSON object; default text'
  )
  hosts.add_hosts(parser)


def run(args: argparse.Namespace) -> None:
  import json

  from jaxdistill import api, plots
  from jaxdistill.api import gaps

  def check():  # before a model is loaded
    if args.out:
      places.check_file(args.out, '.png')
    if args.task:
      gaps.chosen(api.task(args.task), args.split, args.problems)

  hosts.start(args)
  hosts.check(check)
  model = options.model(args)
  problems = gaps.chosen(model.task, args.split, args.problems)
  if not args.json:
    hosts.say(
      f'{model.name}: {len(problems)} problems of {model.task.name}, '
      f'{args.samples} samples each (the first answers compile)'
    )
  found = api.context(
    model,
    problems=problems,
    samples=args.samples,
    max_tokens=args.max_tokens or 0,
    rungs=args.contexts or (),
    judge=args.judge,
    solution=args.solution,
  )
  hosts.say(json.dumps(found.figures) if args.json else found)
  if args.out and hosts.first():
    plots.draw_ladder(found.figures, args.out)

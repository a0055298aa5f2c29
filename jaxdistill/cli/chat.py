"""`jaxdistill chat`: ask a model, and see how it votes."""

import argparse

from jaxdistill.cli import hosts, options
from jaxdistill.cli.parser import Parser

LINE = 'ask a model; see how it votes, or what it writes'
HELP = """\
Asks a model, of a run or by name, and shows each answer and the vote. As
proposer it writes problems on a topic. An empty line ends.

  jaxdistill chat --workdir runs/a
  jaxdistill chat --workdir runs/a --role proposer
  jaxdistill chat --model small-late --samples 16

Next: jaxdistill eval --workdir runs/a"""
CONFIG = False


def add_options(parser: Parser) -> None:
  options.add_model(parser)
  parser.add_argument(
    '--role',
    choices=('solver', 'proposer'),
    default='solver',
    help='who speaks (default: %(default)s)',
  )
  options.add_samples(parser)
  options.add_task(parser)
  parser.add_argument(
    '--temperature',
    type=options.temperature,
    default=1.0,
    help='of sampling; 0 takes the likeliest token (default: %(default)s)',
  )
  hosts.add_hosts(parser)


def run(args: argparse.Namespace) -> None:
  from jaxdistill import api, dist

  hosts.start(args)
  if args.task:  # before a model is loaded
    api.task(args.task)
  model = options.model(args)
  first, solver = model.example(), args.role == 'solver'
  ask = model.ask if solver else model.propose
  hint = f'a problem, e.g. {first.text}' if solver else f'e.g. {first.topic}'
  hosts.say(f'{hint}; an empty line ends.')
  for turn in range(10**6):
    text = dist.by_first(lambda: _line(f'{args.role}> '), f'line {turn}')
    if not text:
      break
    try:
      said = ask(text, args.samples, temperature=args.temperature, seed=turn)
    except api.ConfigError as e:
      hosts.say(f'  {e}')
      continue
    for line in said.lines:
      hosts.say(f'  {line}')


def _line(prompt: str) -> str:
  """What a person types; empty at the end."""
  try:
    return input(prompt).strip()
  except (EOFError, KeyboardInterrupt):
    print()
    return ''

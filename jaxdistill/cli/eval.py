"""`jaxdistill eval`: accuracy on held-out problems."""

import argparse

from jaxdistill.cli import hosts, options, places
from jaxdistill.cli.parser import Parser

LINE = 'measure accuracy on held-out problems'
HELP = """\
Measures a model, of a run or by name, on held-out problems: greedy, sampled, by
vote, and with --pass_k whether any of K answers is right.

  jaxdistill eval --workdir runs/a --split ood
  jaxdistill eval --workdir runs/a --anchor base@0
  jaxdistill eval --model small-late --samples 64 --pass_k 1,8,64 --out p.json

Next: jaxdistill plot p.json, or jaxdistill export --help"""
CONFIG = False


def add_options(parser: Parser) -> None:
  options.add_model(parser)
  options.add_task(parser)
  parser.add_argument(
    '--split',
    choices=('dev', 'test', 'ood'),
    default='test',
    help='which problems; ood: out of distribution (default: %(default)s)',
  )
  options.add_samples(parser)
  parser.add_argument(
    '--problems',
    type=options.positive,
    metavar='N',
    help="most problems (default: the run's own eval.problems)",
  )
  parser.add_argument(
    '--pass_k',
    type=options.positives,
    default=(),
    metavar='K,K,...',
    help='also the chance that any of K samples is right, each K at most '
    '--samples: 1,8,64 (default: none)',
  )
  parser.add_argument(
    '--max_tokens',
    type=options.positive,
    metavar='N',
    help="longest answer, in tokens (default: the run's own eval.max_tokens)",
  )
  parser.add_argument(
    '--out',
    type=options.text,
    metavar='FILE.json',
    help='also write the figures there (default: only print them)',
  )
  hosts.add_hosts(parser)


def run(args: argparse.Namespace) -> None:
  import json

  from jaxdistill.api.model import check_pass_k
  from jaxdistill.api.refusing import in_one_line
  from jaxdistill.checkpoint import write_atomically

  check_pass_k(args.pass_k, args.samples)
  hosts.start(args)
  hosts.check(lambda: _check(args))
  model = options.model(args)
  n = len(model.problems(args.split, args.problems or 0))
  hosts.say(
    f'{model.name}: {n} {args.split} problems of {model.task.name}, '
    f'{args.samples} samples each (the first answers compile)'
  )
  found = model.evaluate(
    args.split,
    args.samples,
    problems=n,
    max_tokens=args.max_tokens or 0,
    pass_k=args.pass_k,
  )
  if not hosts.first():
    return
  for name, value in found.items():
    print(f'{name:32} {value:.4f}')
  if (cut := found.get(f'eval/{args.split}/cut', 0.0)) > 0.1:
    print(f'{cut:.0%} of the answers are cut: set a longer --max_tokens')
  if args.out:
    about = {'of': model.name, 'problems': n, 'samples': args.samples}
    with in_one_line():
      write_atomically(args.out, json.dumps(about | found, indent=1))


def _check(args: argparse.Namespace) -> None:
  """Refuses what cannot be done, before a model is loaded."""
  from jaxdistill import api

  if args.out:
    places.check_file(args.out, '.json')
    _check_ours(args.out)
  if args.task:
    api.task(args.task).problems(args.split)


def _check_ours(path: str) -> None:
  """Refuses to overwrite what `eval` has not written."""
  import json

  from etils import epath

  from jaxdistill.config import ConfigError

  if epath.Path(path).exists():
    try:
      ours = 'of' in json.loads(epath.Path(path).read_text())
    except (ValueError, TypeError):
      ours = False
    if not ours:
      raise ConfigError(f'--out {path} is there and not from eval')

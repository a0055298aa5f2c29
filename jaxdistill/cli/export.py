"""`jaxdistill export`: one role of a model as a directory."""

import argparse

from jaxdistill.cli import hosts, options, places
from jaxdistill.cli.parser import Parser

LINE = 'write a model to a directory'
HELP = """\
Writes one role of a model to a directory: of a shipped base in our own format,
of a Hugging Face model as transformers or peft loads it.

  jaxdistill export --workdir runs/a --to runs/a_model
  jaxdistill export --workdir runs/a --anchor past@10 --to runs/past10

Next: jaxdistill train ... --config.model=runs/a_model"""
CONFIG = False


def add_options(parser: Parser) -> None:
  options.add_model(parser)
  parser.add_argument(
    '--role',
    choices=('solver', 'proposer'),
    default='solver',
    help='whose weights (default: %(default)s)',
  )
  parser.add_argument(
    '--to',
    required=True,
    type=options.text,
    metavar='FOLDER',
    help='directory to make; one with files in it is refused; required',
  )
  parser.add_argument(
    '--kind',
    choices=('merged', 'peft'),
    default='merged',
    help='of a Hugging Face model: whole weights, or only its LoRA for peft '
    '(default: %(default)s)',
  )
  parser.add_argument(
    '--dtype',
    choices=('bfloat16', 'float32'),
    default='bfloat16',
    help='of the weights; float32 for Hugging Face models only '
    '(default: %(default)s)',
  )
  hosts.add_hosts(parser)


def run(args: argparse.Namespace) -> None:
  from jaxdistill import models
  from jaxdistill.api.refusing import in_one_line
  from jaxdistill.config import ConfigError
  from jaxdistill.models import store

  hosts.start(args)
  hosts.check(lambda: places.check_new_folder(args.to))
  plain = (args.kind, args.dtype) == ('merged', 'bfloat16')
  if not plain and store.is_own(options.config(args).model):
    raise ConfigError('--kind and --dtype are for Hugging Face models')
  model = options.model(args)
  loaded = model.run.loaded
  with model.run.computing(), in_one_line():
    if loaded.source:
      models.export(
        *(args.to, model.decoder, loaded.source),
        role=args.role,
        kind=args.kind,
        dtype=args.dtype,
        base=loaded.base,
      )
    else:
      manifest = {'source': model.name, 'role': args.role}
      merged = models.merge(model.decoder, args.role)
      models.save(args.to, merged, loaded.tokenizer, manifest)
  hosts.meet('what is exported is written')
  hosts.say(args.to)

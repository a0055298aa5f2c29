"""A command line read, and what is wrong with it said in one line."""

import argparse
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol, runtime_checkable

from jaxdistill.spelling import among

WRONG = 2  # exit code for bad input

_DESCRIPTION = """\
Language models that improve themselves, or learn from a teacher: one model
writes problems, answers each several times, and learns from the majority vote;
or from itself where it is told more, or from another model.

A first run, three minutes on a laptop, nothing downloaded:

  jaxdistill doctor
  jaxdistill train --config configs/sqlm_small.py --workdir runs/quickstart
  jaxdistill chat --workdir runs/quickstart
"""
_EPILOG = """\
jaxdistill VERB --help explains a verb, with examples. Exit codes: 0 done, 1
something failed (doctor: something would stop a run; plan: it does not fit), 2
bad input, named in one line before anything was done, 69 another process of the
run is gone, 75 stopped by SIGTERM and saved (after both the same command goes
on), 130 stopped by Ctrl-C.
"""


@runtime_checkable
class Verb(Protocol):
  """A module of a verb.

  Attributes:
    LINE: What it does, in a line.
    HELP: The same in full, with examples.
    CONFIG: Whether `--config.KEY=VALUE` may follow.
  """

  @property
  def LINE(self) -> str: ...

  @property
  def HELP(self) -> str: ...

  @property
  def CONFIG(self) -> bool: ...

  def add_options(self, parser: 'Parser') -> None:
    """Adds what it takes."""

  def run(self, args: argparse.Namespace) -> int | None:
    """Does it; returns an exit code other than 0."""


class Parser(argparse.ArgumentParser):
  """Says what is wrong in one line."""

  def error(self, message: str) -> NoReturn:
    line = ' '.join(message.removeprefix('argument ').splitlines())
    self.exit(WRONG, f'jaxdistill: {line}; see {self.prog} --help\n')

  def _check_value(self, action: argparse.Action, value: Any) -> None:
    choices = action.choices
    if choices is None or value in choices:
      return
    known = among(str(value), map(str, choices))
    raise argparse.ArgumentError(action, f'there is no {value!r}{known}')


def parse(argv: Sequence[str], verbs: Mapping[str, Verb]) -> argparse.Namespace:
  """The options of a command line; `overrides` are the keys of the config.

  Raises:
    SystemExit: It is wrong (code 2), or help was asked for (code 0).
  """
  parser, parsers = _parser(verbs)
  if not argv:
    parser.error(f'a verb is missing: {", ".join(verbs)}')
  verb = argv[0]
  if verb not in verbs and verb not in ('-h', '--help', '--version'):
    if verb.startswith('-'):
      parser.error(f'a verb comes first, then {verb!r}')
    parser.error(f'there is no verb {verb!r}{among(verb, verbs)}')
  if verb in verbs:
    _check_names(parsers[verb], verb, argv[1:], verbs[verb].CONFIG)
  args, rest = parser.parse_known_args(argv)
  for text in rest:
    if not text.startswith('--config.'):
      parsers[verb].error(f'{text!r} is not understood by {verb}')
  args.overrides = [
    (key, value)
    for key, _, value in (t[len('--config.') :].partition('=') for t in rest)
  ]
  return args


def _check_names(
  parser: Parser, verb: str, words: Sequence[str], config: bool
) -> None:
  """Finds an option that there is not, or that is there twice.

  Before argparse, which would rather miss a required one than name a typo.
  """
  known = [o for o in parser._option_string_actions if o.startswith('--')]
  seen = set()
  for text in words:
    if text == '--':
      return
    name, equals, _ = text.partition('=')
    if not text.startswith('--'):
      continue
    if name.startswith('--config.'):
      if not config:
        parser.error(f'{text!r}: {verb} takes no keys of a config')
      if not equals:
        parser.error(f'{text!r} has no value; keys are set as {name}=VALUE')
    elif name not in known:
      keys = '; keys of the config are set as --config.KEY=VALUE'
      parser.error(
        f'{verb} has no option {text!r}{among(name, known)}{keys * config}'
      )
    if name in seen:
      parser.error(f'{name} is given twice')
    seen.add(name)


def _parser(verbs: Mapping[str, Verb]) -> tuple[Parser, dict[str, Parser]]:
  """The whole parser, and that of each verb."""
  plain: Any = {
    'formatter_class': argparse.RawDescriptionHelpFormatter,
    'allow_abbrev': False,  # so that a typo is one
  }
  parser = Parser(
    prog='jaxdistill', description=_DESCRIPTION, epilog=_EPILOG, **plain
  )
  version = importlib.metadata.version('jaxdistill')
  parser.add_argument(
    '--version', action='version', version=f'jaxdistill {version}'
  )
  known = parser.add_subparsers(
    dest='verb', required=True, metavar='VERB', title='verbs'
  )
  for name, verb in verbs.items():
    own = known.add_parser(name, help=verb.LINE, description=verb.HELP, **plain)
    verb.add_options(own)
  return parser, dict(known.choices)

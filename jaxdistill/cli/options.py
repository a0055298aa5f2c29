"""Options that several verbs share: their types, their help, what they name.

Imports nothing that takes time, so that help is there at once.
"""

import argparse
import math
from collections.abc import Callable
from typing import Any

from jaxdistill.cli.parser import Parser


def add_model(parser: Parser) -> None:
  """Adds `--workdir` or `--model`, and `--anchor`; `model` reads them."""
  group = parser.add_mutually_exclusive_group(required=True)
  group.add_argument(
    '--workdir',
    type=text,
    metavar='FOLDER',
    help='of a run: its newest checkpoint; this or --model is required',
  )
  group.add_argument(
    '--model',
    type=text,
    metavar='NAME',
    help='a shipped base (small-early, small-middle, small-late, small-wide, '
    'small-judge, small-foreign, small-peer), a directory, or hf:owner/name',
  )
  parser.add_argument(
    '--anchor',
    type=text,
    metavar='NAME@STEP',
    help='with --workdir: a past version, such as base@0 (default: the newest)',
  )
  parser.add_argument(
    '--mesh',
    type=mesh,
    default={},
    metavar='DATA,FSDP,TENSOR[,CONTEXT]',
    help='how devices share it, see config.mesh (default: whole on each)',
  )


def add_samples(parser: Parser) -> None:
  """Adds `--samples`."""
  parser.add_argument(
    '--samples',
    type=positive,
    default=8,
    metavar='N',
    help='answers to each problem (default: %(default)s)',
  )


def add_task(parser: Parser) -> None:
  """Adds `--task`; `model` reads it."""
  parser.add_argument(
    '--task',
    type=text,
    metavar='NAME',
    help='a name such as arithmetic:add:3,3 or, of small-wide, '
    'small:relevance; or a file; needed with --model of a Hugging Face model '
    "(default: the run's own, or small)",
  )


def config(args: argparse.Namespace) -> Any:
  """The checked config by which the model that options name is asked."""
  from jaxdistill.api import model as models
  from jaxdistill.config import ConfigError

  if args.anchor and not args.workdir:
    raise ConfigError('--anchor needs --workdir')
  if args.workdir:
    return models.run_config(args.workdir, args.anchor)
  return models.base_config(args.model)


def model(args: argparse.Namespace) -> Any:
  """The model that options name, asked the task that they name, if any."""
  from jaxdistill.api import model as models
  from jaxdistill.config import ConfigError

  if args.anchor and not args.workdir:
    raise ConfigError('--anchor needs --workdir')
  if args.workdir:
    found = models.load_run(args.workdir, args.anchor, **args.mesh)
  else:
    found = models.load_base(args.model, **args.mesh)
  named = getattr(args, 'task', None)  # export has none
  return found.on(named) if named else found


def text(text: str) -> str:
  """A text that is not empty."""
  if not text.strip():
    raise argparse.ArgumentTypeError('it is empty')
  return text


def _number(kind: Callable[[str], Any], text: str, wanted: str) -> Any:
  try:
    return kind(text)
  except ValueError:
    raise argparse.ArgumentTypeError(f'{text!r} is not {wanted}') from None


def _at_least(least: int, text: str, why: str = '') -> int:
  value = _number(int, text, 'a whole number')
  if value < least:
    raise argparse.ArgumentTypeError(f'{value} must be at least {least}{why}')
  return value


def positive(text: str) -> int:
  """A whole number, 1 or more."""
  return _at_least(1, text)


def several(text: str) -> int:
  """A whole number, 2 or more."""
  return _at_least(2, text, ', for a vote')


def index(text: str) -> int:
  """A whole number, 0 or more."""
  return _at_least(0, text)


def positives(text: str) -> tuple[int, ...]:
  """Whole numbers with commas, each 1 or more."""
  return tuple(positive(part) for part in text.split(','))


def mesh(text: str) -> dict[str, int]:
  """Whole numbers with commas, as keys of `config.mesh`."""
  parts = [_number(int, part, 'a whole number') for part in text.split(',')]
  if len(parts) not in (3, 4):
    raise argparse.ArgumentTypeError(
      f'{text!r} must be DATA,FSDP,TENSOR or DATA,FSDP,TENSOR,CONTEXT'
    )
  return dict(zip(('data', 'fsdp', 'tensor', 'context'), parts, strict=False))


def names(text: str) -> tuple[str, ...]:
  """Names with commas between."""
  found = tuple(part.strip() for part in text.split(','))
  if not all(found):
    raise argparse.ArgumentTypeError(f'{text!r} has an empty name in it')
  return found


def temperature(text: str) -> float:
  """A finite number, 0 or more."""
  value = _number(float, text, 'a number')
  if not math.isfinite(value) or value < 0:
    raise argparse.ArgumentTypeError(f'{text} must be finite and at least 0')
  return value

"""What the command line takes: verbs, options, and their help.

Imports nothing that takes time, so that help is there at once. What cannot be
right ends in one line and exit code 2.
"""

import argparse
import importlib.metadata
import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jaxdistill.spelling import among

WRONG = 2  # exit code for bad input

_DESCRIPTION = """\
Language models that improve themselves: one model writes problems, answers
each several times, and learns from the majority vote.

A first run, three minutes on a laptop, nothing downloaded:

  jaxdistill doctor
  jaxdistill train --config configs/sqlm_small.py --workdir runs/quickstart
  jaxdistill chat --workdir runs/quickstart
"""
_EPILOG = """\
jaxdistill VERB --help explains a verb, with examples. Exit codes: 0 done, 1
something failed (doctor: something would stop a run), 2 bad input, named in one
line before anything was done, 130 stopped by Ctrl-C.
"""


class _Parser(argparse.ArgumentParser):
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


def parse(argv: Sequence[str]) -> argparse.Namespace:
  """The options of a command line; `overrides` are the keys of the config.

  Raises:
    SystemExit: It is wrong (code 2), or help was asked for (code 0).
  """
  parser, verbs = _parser()
  if not argv:
    parser.error(f'a verb is missing: {", ".join(verbs)}')
  verb = argv[0]
  if verb not in verbs and verb not in ('-h', '--help', '--version'):
    if verb.startswith('-'):
      parser.error(f'a verb comes first, then {verb!r}')
    parser.error(f'there is no verb {verb!r}{among(verb, verbs)}')
  if verb in verbs:
    _check_names(verbs[verb], verb, argv[1:])
  args, rest = parser.parse_known_args(argv)
  for text in rest:
    if not text.startswith('--config.'):
      verbs[verb].error(f'{text!r} is not understood by {verb}')
  args.overrides = [
    (key, value)
    for key, _, value in (t[len('--config.') :].partition('=') for t in rest)
  ]
  return args


def _check_names(parser: _Parser, verb: str, words: Sequence[str]) -> None:
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
      if verb not in ('train', 'compare'):
        parser.error(f'{text!r}: {verb} takes no keys of a config')
      if not equals:
        parser.error(f'{text!r} has no value; keys are set as {name}=VALUE')
    elif name not in known:
      parser.error(f'{verb} has no option {text!r}{among(name, known)}')
    if name in seen:
      parser.error(f'{name} is given twice')
    seen.add(name)


def _parser() -> tuple[_Parser, dict[str, _Parser]]:
  """The whole parser, and that of each verb, as a newcomer needs them."""
  parser = _Parser(
    prog='jaxdistill',
    description=_DESCRIPTION,
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,  # so that a typo is one
  )
  version = importlib.metadata.version('jaxdistill')
  parser.add_argument(
    '--version', action='version', version=f'jaxdistill {version}'
  )
  verbs = parser.add_subparsers(
    dest='verb', required=True, metavar='VERB', title='verbs'
  )

  def add(name: str, line: str, text: str) -> _Parser:
    return verbs.add_parser(
      name,
      help=line,
      description=text,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )

  doctor = add(
    'doctor',
    'look at this machine; say what is missing',
    """\
Looks at this machine: versions, devices, memory, disk, folders, extras. It
compiles a small program and writes a small checkpoint, to see that both work.
Exit code 1 if something would stop a run. Changes nothing.

  jaxdistill doctor
  jaxdistill doctor --json > doctor.json

Next: jaxdistill train --help""",
  )
  doctor.add_argument(
    '--json', action='store_true', help='print one JSON object; default a list'
  )

  gap = add(
    'gap',
    'say whether self-play will help a model, before training',
    """\
Says whether learning from its own majority votes will help a model on a task,
why, and what to do instead: helps, risky, or does not help. It asks the model a
few dozen problems many times; nothing is trained. Any task will do: where no
answers are known, how often majorities are right is guessed from agreement.

  jaxdistill gap --model small-late
  jaxdistill gap --model DIRECTORY --task arithmetic:add:3,3 --max_tokens 12
  jaxdistill gap --model DIRECTORY --task my_problems.jsonl --json

Next: jaxdistill train --help""",
  )
  _add_model(gap)
  _add_task(gap)
  gap.add_argument(
    '--split',
    choices=('dev', 'train', 'test', 'ood'),
    help='which problems (default: dev, or train where there is none)',
  )
  gap.add_argument(
    '--problems',
    type=_positive,
    default=128,
    metavar='N',
    help='most problems (default: %(default)s)',
  )
  gap.add_argument(
    '--samples',
    type=_several,
    default=16,
    metavar='N',
    help='answers to each problem, at least 2 (default: %(default)s)',
  )
  gap.add_argument(
    '--max_tokens',
    type=_positive,
    metavar='N',
    help="longest answer, in tokens (default: the run's own, or 64)",
  )
  gap.add_argument(
    '--json', action='store_true', help='print one JSON object; default text'
  )

  train = add(
    'train',
    'train a model as a config says; goes on where it stopped',
    """\
Trains a model as a config says. The same command in the same folder goes on
from its newest checkpoint; a folder of another config is refused.

  jaxdistill train --config configs/sqlm_small.py --workdir runs/a
  jaxdistill train --config configs/sqlm_small.py --workdir runs/b \\
    --config.steps=5 --config.method.samples=16

--config.KEY=VALUE sets any key of the config; WORKDIR/config.json has them all,
and the README explains them. Next: jaxdistill chat --workdir runs/a""",
  )
  train.add_argument(
    '--config',
    required=True,
    type=_text,
    metavar='FILE.py',
    help='a Python file with get_config(), such as those of configs/; required',
  )
  train.add_argument(
    '--workdir',
    required=True,
    type=_text,
    metavar='FOLDER',
    help='where the run lives, local or gs://...; made if needed; required',
  )
  _add_hosts(train)

  chat = add(
    'chat',
    'ask a model; see how it votes, or what it writes',
    """\
Asks a model, of a run or by name, and shows each answer and the vote. As
proposer it writes problems on a topic. An empty line ends.

  jaxdistill chat --workdir runs/a
  jaxdistill chat --workdir runs/a --role proposer
  jaxdistill chat --model small-late --samples 16

Next: jaxdistill eval --workdir runs/a""",
  )
  _add_model(chat)
  chat.add_argument(
    '--role',
    choices=('solver', 'proposer'),
    default='solver',
    help='who speaks (default: %(default)s)',
  )
  _add_samples(chat)
  _add_task(chat)
  chat.add_argument(
    '--temperature',
    type=_temperature,
    default=1.0,
    help='of sampling; 0 takes the likeliest token (default: %(default)s)',
  )

  score = add(
    'eval',
    'measure accuracy on held-out problems',
    """\
Measures a model, of a run or by name, on held-out problems: greedy, sampled, by
vote, and with --pass_k whether any of K answers is right.

  jaxdistill eval --workdir runs/a --split ood
  jaxdistill eval --workdir runs/a --anchor base@0
  jaxdistill eval --model small-late --samples 64 --pass_k 1,8,64 --out p.json

Next: jaxdistill plot p.json, or jaxdistill export --help""",
  )
  _add_model(score)
  _add_task(score)
  score.add_argument(
    '--split',
    choices=('dev', 'test', 'ood'),
    default='test',
    help='which problems; ood: out of distribution (default: %(default)s)',
  )
  _add_samples(score)
  score.add_argument(
    '--problems',
    type=_positive,
    metavar='N',
    help="most problems (default: the run's own eval.problems)",
  )
  score.add_argument(
    '--pass_k',
    type=_positives,
    default=(),
    metavar='K,K,...',
    help='also the chance that any of K samples is right, each K at most '
    '--samples: 1,8,64 (default: none)',
  )
  score.add_argument(
    '--max_tokens',
    type=_positive,
    metavar='N',
    help="longest answer, in tokens (default: the run's own eval.max_tokens)",
  )
  score.add_argument(
    '--out',
    type=_text,
    metavar='FILE.json',
    help='also write the figures there (default: only print them)',
  )

  plot = add(
    'plot',
    'draw the curves of runs, a comparison, or pass@k',
    """\
Draws what runs have left: the curves of folders, or one comparison's
summary.json, or pass@k of files that eval --pass_k --out wrote; or writes the
report of one run. Runs that differ only in their seed are drawn as their mean
with its interval.

  jaxdistill plot runs/a runs/b --out runs/both.png
  jaxdistill plot runs/a --out runs/a/report.html
  jaxdistill plot runs/late/summary.json --out runs/late.png""",
  )
  plot.add_argument(
    'paths',
    nargs='+',
    type=_text,
    metavar='PATH',
    help='folders of runs; or one summary.json; or files of eval --out',
  )
  plot.add_argument(
    '--out',
    type=_text,
    default='curves.png',
    metavar='FILE.png',
    help='the figure to write, or for one run FILE.html, its report (default: '
    '%(default)s)',
  )

  export = add(
    'export',
    'write a model to a directory',
    """\
Writes one role of a model to a directory: of a shipped base in our own format,
of a Hugging Face model as transformers or peft loads it.

  jaxdistill export --workdir runs/a --to runs/a_model
  jaxdistill export --workdir runs/a --anchor past@10 --to runs/past10

Next: jaxdistill train ... --config.model=runs/a_model""",
  )
  _add_model(export)
  export.add_argument(
    '--role',
    choices=('solver', 'proposer'),
    default='solver',
    help='whose weights (default: %(default)s)',
  )
  export.add_argument(
    '--to',
    required=True,
    type=_text,
    metavar='FOLDER',
    help='directory to make; one with files in it is refused; required',
  )
  export.add_argument(
    '--kind',
    choices=('merged', 'peft'),
    default='merged',
    help='of a Hugging Face model: whole weights, or only its LoRA for peft '
    '(default: %(default)s)',
  )
  export.add_argument(
    '--dtype',
    choices=('bfloat16', 'float32'),
    default='bfloat16',
    help='of the weights; float32 for Hugging Face models only '
    '(default: %(default)s)',
  )

  compare = add(
    'compare',
    'train arms with several seeds under one budget',
    """\
Trains every arm of a comparison with every seed until each has spent the same
tokens; writes table.md, compare.png and summary.json. The same command goes on
where it stopped. Several may share the work, each with its own --arms or
--seeds; a last one without either collects it all.

  jaxdistill compare --config configs/compare_late.py --workdir runs/late
  jaxdistill compare --config configs/compare_late.py --workdir runs/late \\
    --arms sqlm,random_reward --seeds 0,1

--config.KEY=VALUE sets any key of the base. Next: jaxdistill plot --help""",
  )
  compare.add_argument(
    '--config',
    required=True,
    type=_text,
    metavar='FILE.py',
    help='a Python file whose get_config() gives a Comparison; required',
  )
  compare.add_argument(
    '--workdir',
    required=True,
    type=_text,
    metavar='FOLDER',
    help='where the runs live, each in FOLDER/ARM/SEED; required',
  )
  compare.add_argument(
    '--arms', default='', metavar='A,B', help='only these (default: all)'
  )
  compare.add_argument(
    '--seeds', default='', metavar='0,1', help='only these (default: all)'
  )
  _add_hosts(compare)
  return parser, dict(verbs.choices)


def _add_hosts(parser: _Parser) -> None:
  parser.add_argument(
    '--coordinator',
    default='',
    metavar='HOST:PORT',
    help='of process 0, or auto on a cluster (default: one process alone)',
  )
  parser.add_argument(
    '--num_processes',
    type=_positive,
    default=0,
    metavar='N',
    help='how many processes, with --coordinator (default: one)',
  )
  parser.add_argument(
    '--process_id',
    type=_index,
    default=-1,
    metavar='I',
    help='which of them this is, from 0, with --coordinator',
  )


def _add_model(parser: _Parser) -> None:
  group = parser.add_mutually_exclusive_group(required=True)
  group.add_argument(
    '--workdir',
    type=_text,
    metavar='FOLDER',
    help='of a run: its newest checkpoint; this or --model is required',
  )
  group.add_argument(
    '--model',
    type=_text,
    metavar='NAME',
    help='a shipped base (small-early, small-middle, small-late), a directory, '
    'or hf:owner/name',
  )
  parser.add_argument(
    '--anchor',
    type=_text,
    metavar='NAME@STEP',
    help='with --workdir: a past version, such as base@0 (default: the newest)',
  )


def _add_samples(parser: _Parser) -> None:
  parser.add_argument(
    '--samples',
    type=_positive,
    default=8,
    metavar='N',
    help='answers to each problem (default: %(default)s)',
  )


def _add_task(parser: _Parser) -> None:
  parser.add_argument(
    '--task',
    type=_text,
    metavar='NAME',
    help='a name such as arithmetic:add:3,3, or a file; needed with --model of '
    "a Hugging Face model (default: the run's own, or small)",
  )


def _text(text: str) -> str:
  if not text.strip():
    raise argparse.ArgumentTypeError('it is empty')
  return text


def _number(kind: Callable[[str], Any], text: str, wanted: str) -> Any:
  try:
    return kind(text)
  except ValueError:
    raise argparse.ArgumentTypeError(f'{text!r} is not {wanted}') from None


def _whole(text: str) -> int:
  return _number(int, text, 'a whole number')


def _at_least(least: int, text: str, why: str = '') -> int:
  value = _whole(text)
  if value < least:
    raise argparse.ArgumentTypeError(f'{value} must be at least {least}{why}')
  return value


def _positive(text: str) -> int:
  return _at_least(1, text)


def _several(text: str) -> int:
  return _at_least(2, text, ', for a vote')


def _index(text: str) -> int:
  return _at_least(0, text)


def _positives(text: str) -> tuple[int, ...]:
  return tuple(_positive(part) for part in text.split(','))


def _temperature(text: str) -> float:
  value = _number(float, text, 'a number')
  if not math.isfinite(value) or value < 0:
    raise argparse.ArgumentTypeError(f'{text} must be finite and at least 0')
  return value

"""`jaxdistill train`: one run, from where it stopped."""

import argparse
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from jaxdistill.cli import ending, hosts, options
from jaxdistill.cli.parser import Parser

LINE = 'train a model as a config says; goes on where it stopped'
HELP = """\
Trains a model as a config says. The same command in the same folder goes on
from its newest checkpoint; a folder of another config is refused.

  jaxdistill train --config configs/sqlm_small.py --workdir runs/a
  jaxdistill train --config configs/sqlm_small.py --workdir runs/b \\
    --config.steps=5 --config.method.samples=16

--config.KEY=VALUE sets any key of the config; WORKDIR/config.json has them all,
and the README explains them. Next: jaxdistill chat --workdir runs/a"""
CONFIG = True


def add_options(parser: Parser) -> None:
  parser.add_argument(
    '--config',
    required=True,
    type=options.text,
    metavar='FILE.py',
    help='a Python file with get_config(), such as those of configs/; required',
  )
  parser.add_argument(
    '--workdir',
    required=True,
    type=options.text,
    metavar='FOLDER',
    help='where the run lives, local, gs://... or s3://...; made if '
    'needed; required',
  )
  parser.add_argument(
    '--plan',
    type=options.text,
    metavar='PLAN.json',
    help='what jaxdistill plan --json printed: shown at the end beside what '
    'was measured',
  )
  hosts.add_hosts(parser)


def run(args: argparse.Namespace) -> None:
  from jaxdistill.api import planning, training

  planned: dict[str, Any] = {}
  # Before anything that takes long, such as a download.
  hosts.start(args, saves=True)
  if args.plan:
    hosts.check(lambda: planned.update(planning.read(args.plan)))
  config = training.configure(args.config, args.overrides)
  hosts.meet('the config is read')
  with ending.training(), training.begin(config, args.workdir) as steps:
    loop = steps.loop
    if not loop.first_step and loop.workdir.has_logged():
      hosts.say(f'{args.workdir} begins again: nothing had been saved.')
    if loop.first_step:
      hosts.say(
        f'{args.workdir} is finished; this is what it came to.'
        if loop.finished()
        else f'{args.workdir} goes on from step {loop.first_step}.'
      )
    steps.finish()
    peak = training.peak() if args.plan else None
    if hosts.first():
      print(account(loop.summary, args.workdir))
      if planned:
        lines, chips = steps.result.metrics, loop.run.mesh.size
        print(f'\n{planning.beside(planned, lines, peak, chips)}')
        mine = {'model': config.model, 'method': config.method.name}
        for key, value in mine.items():
          if planned.get(key, value) != value:
            print(f'It was planned for the {key} {planned[key]}.')


def account(summary: Mapping[str, Any], workdir: str) -> str:
  """A run in a few plain lines: where it began, where it ended, what next."""
  from etils import epath

  from jaxdistill.plots.measured import MEASURES, SPLITS, spread
  from jaxdistill.plots.verdict import learned_nothing

  lines = ['', f'{"":46}{"began":>8}{"ended":>8}{"95%":>10}{"best":>14}']
  last = {
    name: values['last']
    for name, values in summary.items()
    if name.startswith('eval/')
  }
  for split in ('test', 'ood'):
    n = int(last.get(f'eval/{split}/problems', 0))
    for name, measure in MEASURES.items():
      values = summary.get(f'eval/{split}/{name}')
      if values:
        sign = '+' if measure.moves else ''
        ended = values['last']
        found = spread(name, ended, last, split, n)
        around = found and ' to '.join(f'{x:{sign}.2f}' for x in found)
        # Only of accuracies the best is kept.
        best = f'{values["best"]:.3f}' if 'best' in values else ''
        row = f'{values["first"]:{sign}8.3f}{ended:{sign}8.3f}'
        title = f'{SPLITS[split]}, {measure.short}'
        lines.append(f'{title:46}{row}{around or "":>16}{best:>8}'.rstrip())
  cut = summary.get('eval/test/cut', {}).get('last', 0)
  if cut > 0.1:
    lines += ['', f'{cut:.0%} of the answers were cut: eval.max_tokens is low.']
  if learned_nothing(summary):
    lines += ['', 'Nothing was learned: no step had an answer to train on.']
  if summary['kept_step'] != summary['last_step']:
    lines += [
      '',
      f'It ends with its version of step {summary["kept_step"]}, the best on '
      'the problems that the guard looks at.',
    ]
  root = epath.Path(workdir)
  skipped, scored = summary['skipped_updates'], summary.get('scored', 0)
  command = 'jaxdistill'
  if not shutil.which(command) and sys.argv[0].endswith(command):
    command = sys.argv[0]  # as the user has just called it
  lines += [
    '',
    f'{summary["wall_s"]:.0f} s, {summary["tokens"]:,} tokens generated'
    + (f', {scored:,} scored' if scored else '')
    + (f', {skipped} updates skipped (not finite)' if skipped else ''),
    f'The report:   {root / "report.html"}',
    f'The curves:   {root / "curves.png"}',
  ]
  if (root / 'rollouts').exists():
    lines.append(f'Every answer: {root / "rollouts"}')
  lines.append(f'Talk to it:   {command} chat --workdir {root}')
  return '\n'.join(lines)

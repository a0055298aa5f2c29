"""`jaxdistill doctor --pod`: do the hosts of a run fit together?"""

import argparse
import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jaxdistill.cli import hosts, options
from jaxdistill.cli.parser import WRONG, Parser

if TYPE_CHECKING:
  from jaxdistill.run.pod import Check, Meeting

SECONDS = 300  # in which devices compile and answer


def add_options(parser: Parser) -> None:
  """Adds `--pod` and what goes with it."""
  parser.add_argument(
    '--pod',
    action='store_true',
    help='hold the hosts of a run against each other; run it on all of them',
  )
  parser.add_argument(
    '--config',
    type=options.text,
    metavar='FILE.py',
    help='with --pod: of the run',
  )
  parser.add_argument(
    '--workdir',
    type=options.text,
    metavar='FOLDER',
    help='with --pod: of the run',
  )
  hosts.add_hosts(parser)


def run(args: argparse.Namespace) -> int:
  """Prints a line for each check; 1 if a host deviates, else 0."""
  from jaxdistill.config import ConfigError

  if not (args.pod and args.config and args.workdir and args.coordinator):
    print(
      'jaxdistill: --pod, --config, --workdir and --coordinator of doctor go '
      'together, as the run has them',
      file=sys.stderr,
    )
    return WRONG
  try:
    hosts.start(args)
  except ConfigError as e:
    print('jaxdistill:', e, file=sys.stderr)
    return WRONG
  from jax._src import distributed

  from jaxdistill.run.pod import Meeting

  state = distributed.global_state
  meeting = Meeting(state.client, state.process_id, state.num_processes)
  asked = args.config, args.overrides
  return report(look(meeting, asked, args.workdir), meeting, args.json)


def report(checks: Iterator['Check'], meeting: 'Meeting', as_json: bool) -> int:
  """Prints what process 0 is to say; the exit code, for all."""
  found, first = [], meeting.process == 0
  for check in checks:
    found.append(check)
    if first and not as_json:
      status = 'ok' if check.well else 'DEVIATES'
      print(f'{status:10}{check.name:14}{check.said}', flush=True)
  bad = [check for check in found if not check.well]
  who = sorted({host for check in bad for host in check.hosts})
  if first and as_json:
    checks_ = [check._asdict() for check in found]
    print(json.dumps({'pass': not bad, 'deviate': who, 'checks': checks_}))
  elif first:
    names = ', '.join(check.name for check in bad)
    print(f'\n{", ".join(who) or "the pod"}: {names}' if bad else '\nPASS')
  return int(bool(bad))


def look(
  meeting: 'Meeting', config: tuple[str, Sequence], workdir: str
) -> Iterator['Check']:
  """One check after the other; all processes call it.

  Args:
    meeting: Of the hosts.
    config: Its file, and what is set otherwise.
    workdir: Of the run.

  What computes together is left out where programs would not be the same.
  """
  from jaxdistill import dist
  from jaxdistill.dist.mesh import Sizes
  from jaxdistill.run import pod

  meeting.meet()
  read, mesh = _read(*config)
  first = [
    pod.hosts(meeting),
    pod.compare(meeting, 'code', pod.code(), 'jaxdistill'),
    pod.compare(meeting, 'versions', pod.versions(), 'Python and libraries'),
    pod.compare(meeting, 'config', read, config[0]),
  ]
  yield from first
  yield pod.folder(meeting, workdir)
  yield pod.clocks(meeting)
  with _in_time(meeting, 'ten steps'):
    yield pod.steps(meeting)
  if not all(check.well for check in first) or mesh is None:
    names = ', '.join(c.name for c in first if not c.well) or 'config'
    yield pod.Check('collectives', False, f'not measured: mend {names} first')
    return
  try:
    made = dist.make_mesh(*Sizes(**mesh))
  except ValueError as e:
    yield pod.Check('collectives', False, str(e))
    return
  with _in_time(meeting, 'collectives'):
    yield from pod.collectives(meeting, made)


@contextlib.contextmanager
def _in_time(meeting: 'Meeting', name: str) -> Iterator[None]:
  """Ends this process if devices do not come to an end; the others name it."""

  def give_up():
    who = meeting.names[meeting.process]
    print(f'DEVIATES  {name:14}{who}: no answer in {SECONDS} s', flush=True)
    os._exit(1)

  timer = threading.Timer(SECONDS, give_up)
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def _read(
  path: str, overrides: Sequence
) -> tuple[dict[str, Any], dict[str, int] | None]:
  """A config by its keys, and its mesh; or what is wrong with it."""
  from jaxdistill.api import training
  from jaxdistill.config.keys import flat

  try:
    config = training.configure(path, overrides)
  except Exception as e:  # it is told beside what the others read
    return {'it': f'refused: {e}'}, None
  return {k: repr(v) for k, v in flat(config).items()}, config.mesh.to_dict()

"""jaxdistill: language models that improve themselves.

jaxdistill train --config configs/sqlm_small.py --workdir runs/a
jaxdistill chat --workdir runs/a

A verb is a module of this folder: its options, its help, what it does. None
imports what takes time before it runs, so that help is there at once.
"""

import sys
from collections.abc import Mapping

from jaxdistill.cli import (
  chat,
  compare,
  context,
  doctor,
  export,
  gap,
  plan,
  plot,
  targets,
  train,
)
from jaxdistill.cli import eval as evaluate
from jaxdistill.cli.ending import AGAIN, Failed
from jaxdistill.cli.parser import WRONG, Verb, parse

FAILED = 1  # of the machine: a full disk
# By SIGTERM, and saved: sysexits.h's EX_TEMPFAIL, so that a scheduler takes it
# neither for finished nor for broken, and begins it again.
GOES_ON = 75
STOPPED = 130  # by Ctrl-C
# As a newcomer needs them.
VERBS: Mapping[str, Verb] = {
  'doctor': doctor,
  'gap': gap,
  'context': context,
  'targets': targets,
  'plan': plan,
  'train': train,
  'chat': chat,
  'eval': evaluate,
  'plot': plot,
  'export': export,
  'compare': compare,
}


def main(argv: list[str] | None = None) -> int:
  """Runs a verb; returns the exit code."""
  try:
    args = parse(sys.argv[1:] if argv is None else argv, VERBS)
  except SystemExit as e:  # help was asked for, or something is wrong
    return int(e.code or 0)
  verb = VERBS[args.verb]
  if verb is doctor:  # it must not need what may be broken
    return doctor.run(args)
  from jaxdistill import dist
  from jaxdistill.config import ConfigError
  from jaxdistill.run.stopping import Stopped

  try:
    return verb.run(args) or 0
  except ConfigError as e:
    dist.ended(WRONG, str(e))
    print('jaxdistill:', *str(e).splitlines(), file=sys.stderr)
    return WRONG
  except Stopped as e:
    print(f'jaxdistill: stopped as asked; {e}; {AGAIN}', flush=True)
    return GOES_ON
  except Failed as e:
    dist.ended(FAILED, str(e))
    print(f'jaxdistill: {e}', file=sys.stderr)
    return FAILED
  except KeyboardInterrupt:
    dist.ended(STOPPED, 'stopped by Ctrl-C')
    again = f'; {AGAIN}' if verb.CONFIG else ''
    print(f'\njaxdistill: stopped{again}', file=sys.stderr)
    return STOPPED
  return 0


def cli() -> None:
  """Entry point of the `jaxdistill` command."""
  sys.exit(main())


if __name__ == '__main__':
  cli()

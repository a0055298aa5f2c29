"""The stand-in for a scheduler that `launch/reproduce/preempt.py` has."""

import signal
import subprocess
import sys

import pytest
from preempt import ENOUGH, GONE, SAVED, Job, expected

# One that saves when it is told to end, and one that does not hear.
POLITE = 'signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))'
DEAF = 'signal.signal(signal.SIGTERM, signal.SIG_IGN)'


def begin():
  started = []
  for does in (POLITE, DEAF):
    code = f'import signal, sys, time\n{does}\nprint()\ntime.sleep(60)'
    command = [sys.executable, '-S', '-u', '-c', code]
    started.append(subprocess.Popen(command, stdout=subprocess.PIPE))
    started[-1].stdout.readline()
  return started


def test_who_does_not_end_within_the_grace_is_killed():
  job = Job(begin)
  assert job.alive()
  assert job.preempt([0, 1], signal.SIGTERM, 0.2) == [SAVED, -signal.SIGKILL]
  assert not job.alive()
  job.again()
  assert job.alive()
  assert job.preempt([1], signal.SIGKILL, 0.0) == [-signal.SIGKILL] * 2
  job.again()
  assert job.preempt([0], signal.SIGTERM, 0.1) == [SAVED, -signal.SIGKILL]


@pytest.mark.parametrize(
  ('kind', 'codes', 'well'),
  [
    ('notice to all', [SAVED, SAVED], True),
    ('notice to one', [SAVED, -signal.SIGKILL], False),
    ('notice to all, short', [SAVED, -signal.SIGKILL], True),
    ('one is killed', [-signal.SIGKILL, GONE], True),
    ('one is killed', [-signal.SIGKILL, 1], False),
    ('all are killed', [2, 2], False),
  ],
)
def test_how_each_may_end(kind, codes, well):
  at = {'begun_with_lines': 2, 'taken_at_lines': 5}
  assert expected({'kind': kind, 'codes': codes, 'grace': ENOUGH, **at}) == well

"""What a run of several processes survives: ten preemptions.

  python launch/reproduce/preempt.py

A run of four processes, joined by `jax.distributed`, is made without
interruption. Then the same run is begun under a stand-in for a scheduler, which
takes its machines away ten times, at moments drawn from a seed, and begins it
again each time:

- with a notice: SIGTERM to all processes, or to the one whose machine goes,
  and after a grace SIGKILL to what is left. Some graces are too short to save;
- without: SIGKILL to all at once, or to one, and to the others after a grace,
  as a scheduler ends a job that has lost a machine.

A run that ends before is followed by another. What comes out must be the
uninterrupted run, bit for bit: metrics, texts, and all that the newest
checkpoint holds, but for what is timed. Prints a line for each preemption, and
writes `results/preempt/cpu.json`. 25 minutes on two cores that were not idle.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

os.environ['JAX_PLATFORMS'] = 'cpu'

import jax
from processes import ROOT, metrics, record, start, stored, texts, train

PROCESSES, DEVICES = 4, 1
CONFIG = ROOT / 'configs/sqlm_small.py'
# Whatever can be lost is there: an anchor that blends, an archive, a schedule,
# rows drawn a step ahead; and a checkpoint at every other step, so that steps
# are taken again.
SETS = {
  'steps': 12,
  'eval_every': 4,
  'checkpoint_every': 2,
  'ahead': True,
  'anchors.past': 'every:2',
  'eval.problems': 8,
  'eval.samples': 2,
  'guard.every': 3,
  'guard.problems': 8,
  'guard.samples': 2,
  'method.problems': 8,
  'method.archive': 40,
  'method.propose_every': 2,
  'method.reference': 'ema:0.9',
  'batch.sequences': 4,
}
SAVED, GONE = 75, 69  # exit codes after which a scheduler begins a run again
ENOUGH = 60.0  # seconds of grace in which any run has saved
# What is taken, by which signal first, and how long the grace may be.
KINDS = {
  'notice to all': ('all', signal.SIGTERM, (ENOUGH, ENOUGH)),
  'notice to one': ('one', signal.SIGTERM, (ENOUGH, ENOUGH)),
  'notice to all, short': ('all', signal.SIGTERM, (0.0, 1.5)),
  'all are killed': ('all', signal.SIGKILL, (0.0, 0.0)),
  'one is killed': ('one', signal.SIGKILL, (0.0, 8.0)),
}


class Job:
  """Processes that a scheduler begins, takes away, and begins again.

  Args:
    begin: Starts them all.
  """

  def __init__(self, begin: Callable[[], list[subprocess.Popen]]):
    self._begin = begin
    self.processes = begin()

  def alive(self) -> bool:
    """Whether none has ended yet."""
    return all(p.poll() is None for p in self.processes)

  def again(self) -> None:
    """Begins it again; all that was has ended."""
    assert all(p.poll() is not None for p in self.processes)
    self.processes = self._begin()

  def codes(self) -> list[int]:
    """Waits for all; their exit codes, negative for a signal."""
    return [p.wait() for p in self.processes]

  def preempt(
    self, taken: Sequence[int], first: signal.Signals, grace: float
  ) -> list[int]:
    """Takes machines away.

    Args:
      taken: Which processes get the first signal.
      first: That signal.
      grace: Seconds after which whoever is left is killed.

    Returns:
      The exit codes of all.
    """
    for i in taken:
      if self.processes[i].poll() is None:
        self.processes[i].send_signal(first)
    end = time.monotonic() + grace
    while time.monotonic() < end:
      if all(p.poll() is not None for p in self.processes):
        break
      time.sleep(0.01)
    for p in self.processes:
      if p.poll() is None:
        p.kill()
    return self.codes()


def count(workdir: pathlib.Path) -> int:
  """How many lines of metrics there are."""
  logged = workdir / 'metrics.jsonl'
  return logged.read_bytes().count(b'\n') if logged.exists() else 0


def same(one: pathlib.Path, other: pathlib.Path) -> dict[str, bool]:
  """In what two finished runs are the same."""
  step = SETS['steps']
  ours, theirs = (
    {k: (x.dtype, x.shape, x.tobytes()) for k, x in stored(run, step).items()}
    for run in (one, other)
  )
  return {
    'metrics': metrics(one) == metrics(other),
    'texts': texts(one) == texts(other),
    'arrays': ours == theirs,
    'record': record(one, step) == record(other, step),
  }


def moments(rng: random.Random, pace: tuple[float, float]) -> Iterator[tuple]:
  """When to strike: after how many more lines, and how many seconds later.

  Args:
    rng: Draws them.
    pace: Seconds to the first line, and from one to the next.
  """
  while True:
    lines = rng.randrange(0, 4)
    yield lines, rng.random() * pace[bool(lines)] * (1 + bool(lines))


def preemptions(
  work: pathlib.Path,
  whole: pathlib.Path,
  n: int,
  rng: random.Random,
  pace: tuple[float, float],
) -> Iterator[dict]:
  """Takes machines away n times; a run that ends is followed by another."""
  kinds = [list(KINDS)[i % len(KINDS)] for i in range(n)]
  rng.shuffle(kinds)
  when, done, runs = moments(rng, pace), 0, 0
  while done < n:
    folder, found = work / f'preempted{runs}', []
    job = Job(lambda folder=folder: begin(folder))
    while done < n:
      before, (lines, delay) = count(folder), next(when)
      while job.alive() and count(folder) < before + lines:
        time.sleep(0.005)
      time.sleep(delay if job.alive() else 0)
      if not job.alive():  # it was faster
        break
      who, first, graces = KINDS[kinds[done]]
      taken = range(PROCESSES)
      if who == 'one':
        taken = [rng.randrange(PROCESSES)]
      grace, at = rng.uniform(*graces), count(folder)
      codes = job.preempt(taken, first, grace)
      found.append(
        {
          'run': runs,
          'kind': kinds[done],
          'taken': list(taken),
          'grace': round(grace, 2),
          'begun_with_lines': before,
          'taken_at_lines': at,
          'codes': codes,
        }
      )
      print(f'preempted: {found[-1]}', flush=True)
      done += 1
      job.again()
    codes = job.codes()
    ended = {'ended': codes, 'lines': count(folder)}
    if not any(codes):
      ended |= same(whole, folder)
    print(f'and ended: {ended}', flush=True)
    yield {'preemptions': found, **ended}
    runs += 1


def begin(folder: pathlib.Path) -> list[subprocess.Popen]:
  words = train(CONFIG, folder, SETS)
  logs = folder.with_name(f'{folder.name}.logs')
  return start(words, PROCESSES, DEVICES, logs)


def uninterrupted(folder: pathlib.Path) -> tuple[float, float]:
  """Makes the whole run; seconds to its first line, and from line to line."""
  began, at = time.monotonic(), []
  job = Job(lambda: begin(folder))
  while job.alive():
    if count(folder) > len(at):
      at.append(time.monotonic())
    time.sleep(0.02)
  codes = job.codes()
  logs = folder.with_name(f'{folder.name}.logs')
  assert not any(codes), (codes, (logs / '0.txt').read_text()[-3000:])
  return at[0] - began, (at[-1] - at[0]) / max(len(at) - 1, 1)


def expected(one: dict) -> bool:
  """Whether all processes ended as they say they do."""
  killed = {GONE, -signal.SIGKILL}
  allowed = {SAVED} | (killed if 'notice' not in one['kind'] else set())
  if 'short' in one['kind']:
    allowed |= killed
  if one['taken_at_lines'] == one['begun_with_lines']:  # had it begun at all?
    allowed |= {-signal.SIGTERM} | killed
  return {*one['codes']} <= allowed


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--out', default=str(ROOT / 'results/preempt/cpu.json'))
  parser.add_argument('--times', type=int, default=10)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--work', default='', help='keeps the runs there')
  args = parser.parse_args()
  out, begun = pathlib.Path(args.out), time.time()
  libraries = ('jax', 'jaxlib', 'flax', 'orbax-checkpoint')
  about: dict = {
    'date': datetime.date.today().isoformat(),
    'versions': {n: importlib.metadata.version(n) for n in libraries},
    'device': jax.devices()[0].device_kind,
    'processes': PROCESSES,
    'seed': args.seed,
    'sets': SETS,
  }
  with tempfile.TemporaryDirectory() as name:
    work = pathlib.Path(args.work or name)
    pace = uninterrupted(work / 'first')  # compiles for all that follow
    pace = uninterrupted(work / 'whole')
    print(f'seconds to the first line, and between two: {pace}', flush=True)
    twice = same(work / 'whole', work / 'first')
    rng = random.Random(args.seed)
    runs = [*preemptions(work, work / 'whole', args.times, rng, pace)]
  found = [x for run in runs for x in run['preemptions']]
  what = ('metrics', 'texts', 'arrays', 'record')
  counts = {
    'preemptions': len(found),
    'ended_as_they_say': sum(map(expected, found)),
    'runs': len(runs),
    'runs_bit_equal': sum(all(r.get(k) for k in what) for r in runs),
    'uninterrupted_twice_bit_equal': all(twice.values()),
  }
  about |= {'seconds': round(time.time() - begun), 'counts': counts}
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_text(json.dumps(about | {'runs': runs}, indent=1) + '\n')
  for key, value in counts.items():
    print(f'{key.replace("_", " "):32} {value}')
  right = counts['ended_as_they_say'] == len(found) and counts[
    'runs_bit_equal'
  ] == len(runs)
  print('all as it should be' if right else 'SOMETHING IS WRONG')
  return int(not right)


if __name__ == '__main__':
  sys.exit(main())

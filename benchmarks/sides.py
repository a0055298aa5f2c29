"""What the benchmarks share: sides in turn, each run a process of its own.

A script of this folder has a function per side, from a job (a dict) to what was
seen (a dict). `Sides.start` runs the script anew with `--side`, and there
`answer` calls the function. Linux only: peak memory and load are read from
/proc.
"""

import argparse
import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import pathlib
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

_MARK = ' of '  # of a side's name with a tree: `ours of before`
DEVICES = {
  'cpu': {'JAX_PLATFORMS': 'cpu', 'CUDA_VISIBLE_DEVICES': ''},
  'gpu': {
    'JAX_PLATFORMS': 'cuda,cpu',
    'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',  # memory is to be seen
  },
}


def parser(doc: str | None, runs: int, name: str) -> argparse.ArgumentParser:
  """A parser with the options that every comparison has."""
  parser = argparse.ArgumentParser(
    description=doc, formatter_class=argparse.RawTextHelpFormatter
  )
  cpus = len(os.sched_getaffinity(0))
  add = parser.add_argument
  add('--runs', type=int, default=runs, help=f'processes of a side ({runs})')
  add('--threads', type=int, default=cpus, help=f'of each side ({cpus})')
  add('--out', default=f'runs/{name}.json', help=f'(runs/{name}.json)')
  add('--device', choices=DEVICES, default='cpu', help='(cpu)')
  add('--lock', help='a file to lock for each run, where others measure too')
  add(
    '--tree',
    action='append',
    default=[],
    metavar='NAME=DIRECTORY',
    help='measure the jaxdistill of this directory; may be given repeatedly,\n'
    'and each is a side then, in the place of `ours`',
  )
  for option in ('--side', '--job', '--result'):  # of a run of one side
    add(option, help=argparse.SUPPRESS)
  return parser


def answer(
  args: argparse.Namespace, sides: Mapping[str, Callable[[dict], dict]]
) -> bool:
  """Does what a run of one side is asked, if this process is one."""
  if not args.side:
    return False
  job = json.loads(pathlib.Path(args.job).read_text())
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job['threads']])
  found = sides[args.side](job)
  found['peak_gb'] = peak_gb()
  pathlib.Path(args.result).write_text(json.dumps(found))
  return True


@dataclasses.dataclass(frozen=True)
class Sides:
  """The sides of a comparison.

  Attributes:
    script: Its file.
    pythons: By side, the Python that has what it needs.
    trees: By name, directories whose jaxdistill is measured; may be empty.
    lock: A file that is locked while a run lasts; may be empty.
    device: Which of `DEVICES` they compute on.
  """

  script: str
  pythons: Mapping[str, str]
  trees: Mapping[str, str]
  lock: str
  device: str

  @classmethod
  def of(
    cls,
    script: str,
    args: argparse.Namespace,
    pythons: Mapping[str, str],
  ) -> 'Sides':
    """By the options; a side without a Python is left out."""
    trees = dict(tree.split('=', 1) for tree in args.tree)
    named = {}
    for side, python in pythons.items():
      if side.startswith('ours') and trees:
        named |= {f'{side}{_MARK}{tree}': python for tree in trees}
      elif python:
        named[side] = python
    return cls(script, named, trees, args.lock or '', args.device)

  def in_turn(self, runs: int) -> Iterator[tuple[int, str]]:
    """Every side as often; each is first in turn."""
    names = [*self.pythons]
    for i in range(runs):
      first = i % len(names)
      for side in names[first:] + names[:first]:
        yield i, side

  def start(self, side: str, job: Mapping) -> dict:
    """One run, and what else the machine did meanwhile."""
    kind, _, tree = side.partition(_MARK)
    environment = os.environ | {
      **DEVICES[self.device],
      'JAX_ENABLE_COMPILATION_CACHE': 'false',  # compiling is to be seen
      'HF_HUB_OFFLINE': '1',
      'TOKENIZERS_PARALLELISM': 'false',
      'TF_CPP_MIN_LOG_LEVEL': '2',
    }
    if not kind.startswith('ours'):
      environment.pop('PYTHONPATH', None)
    elif tree:
      environment['PYTHONPATH'] = os.path.abspath(self.trees[tree])
    with tempfile.TemporaryDirectory() as folder, self._locked():
      asked, result = (pathlib.Path(folder, x) for x in ('job', 'result'))
      asked.write_text(json.dumps(job))
      files = ['--job', str(asked), '--result', str(result)]
      before, begin = cpu_seconds(), time.perf_counter()
      done = subprocess.run(
        [self.pythons[side], self.script, '--side', kind, *files],
        env=environment,
        stdout=sys.stderr,
      )
      if done.returncode:
        raise SystemExit(f'{self.script}: {side} failed, as it says above')
      wall = time.perf_counter() - begin
      (busy, own), (busy_before, own_before) = cpu_seconds(), before
      found = json.loads(result.read_text())
    others = (busy - busy_before - (own - own_before)) / wall
    return found | {'wall': wall, 'others': max(others, 0.0)}

  @contextlib.contextmanager
  def _locked(self) -> Iterator[None]:
    if not self.lock:
      yield
      return
    with open(self.lock, 'a') as file:
      fcntl.flock(file, fcntl.LOCK_EX)
      yield


# What is said of a run


def machine() -> dict[str, str | int]:
  """What ran it and when, and the command."""
  names = re.findall(
    r'model name\s*: (.*)', pathlib.Path('/proc/cpuinfo').read_text()
  )
  return {
    'cpu': names[0].strip() if names else platform.machine(),
    'cpus': len(os.sched_getaffinity(0)),
    'memory_gb': round(
      os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9
    ),
    'python': platform.python_version(),
    'date': datetime.datetime.now(datetime.UTC).date().isoformat(),
    'command': ' '.join(['python', *_public(sys.argv)]),
  }


def _public(words: Sequence[str]) -> list[str]:
  """A command's words, with the last part of paths alone."""

  def of(word):
    name, equals, value = word.rpartition('=')
    if os.path.isabs(value):
      value = os.path.basename(value)
    return name + equals + value

  return [f'benchmarks/{os.path.basename(words[0])}', *map(of, words[1:])]


def cpu_seconds() -> tuple[float, float]:
  """CPU time so far: of all that runs here, and of our finished children."""
  user, nice, system, _, _, *more = (
    int(x)
    for x in pathlib.Path('/proc/stat').read_text().split('\n')[0].split()[1:9]
  )
  own = resource.getrusage(resource.RUSAGE_CHILDREN)
  busy = (user + nice + system + sum(more)) / os.sysconf('SC_CLK_TCK')
  return busy, own.ru_utime + own.ru_stime


def peak_gb() -> float:
  """The most memory that this process has had, from VmHWM."""
  status = pathlib.Path('/proc/self/status').read_text()
  return int(re.findall(r'VmHWM:\s+(\d+) kB', status)[0]) * 1024 / 1e9


def write(out: str, record: Mapping) -> None:
  """Writes a record as JSON."""
  path = pathlib.Path(out)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(record, indent=1) + '\n')


# Tables


def spread(seen: Sequence[float], form: str = '.2f') -> str:
  """Median, least and most."""
  low, middle, high = (
    format(x, form) for x in (min(seen), statistics.median(seen), max(seen))
  )
  return f'{middle} ({low} to {high})'


def text(rows: Sequence[Sequence[str]]) -> str:
  """A table of Markdown; the first row is its head."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = [
    '| ' + ' | '.join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + ' |'
    for r in rows
  ]
  rule = '|' + '|'.join('-' * (w + 2) for w in widths) + '|'
  return '\n'.join([lines[0], rule, *lines[1:]])


def torch_device(kind: str) -> str:
  """PyTorch's name of a device, with products as exact as JAX's defaults.

  On a GPU JAX multiplies float32 in TF32, and PyTorch does where it is told to.
  """
  import torch

  torch.set_float32_matmul_precision('highest' if kind == 'cpu' else 'high')
  return 'cpu' if kind == 'cpu' else 'cuda'


class Compiled:
  """Counts what JAX compiles from here on."""

  def __init__(self):
    import jax

    self.programs, self.seconds = 0, 0.0
    jax.monitoring.register_event_duration_secs_listener(self._listen)

  def _listen(self, event: str, seconds: float, **_):
    if event.endswith('backend_compile_duration'):
      self.programs += 1
      self.seconds += seconds

  def take(self) -> dict[str, float]:
    """What was compiled since last asked."""
    seen = {'programs': self.programs, 'compiling': self.seconds}
    self.programs, self.seconds = 0, 0.0
    return seen

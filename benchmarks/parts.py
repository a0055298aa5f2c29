"""Where the time of a run goes, part by part, and what is compiled for it.

  python benchmarks/parts.py --model DIRECTORY

Two runs: `quickstart`, that of `configs/sqlm_small.py`, and `qwen05`, that of
`configs/sqlm_qwen05_addition.py` with a model on disk, if one is given. Each is
taken twice, a process each, with one folder for compiled programs: cold, with
nothing in it, and warm.
"""

import argparse
import contextlib
import functools
import os
import pathlib
import statistics
import sys
import tempfile
import time

import sides

CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'
# Evaluating takes its time by the problem; here it takes enough to be seen.
RUNS = {
  'quickstart': ('sqlm_small.py', {}),
  'qwen05': ('sqlm_qwen05_addition.py', {'eval.problems': 64}),
}
# Parts by who does them; within another part they count there no more.
PARTS = {
  'draws and judges': ('loop', '_collect'),
  'generates': ('player', 'generate'),
  'scores': ('player', '_score'),
  'evaluates': ('module', 'evaluate'),
  'learns': ('loop', 'update'),
  'keeps anchors': ('loop', '_refresh_anchors'),
  'watches': ('loop', '_watch'),
  'saves': ('loop', '_save'),
}


def main() -> None:
  args = _parser().parse_args()
  if sides.answer(args, {'ours': run}):
    return
  measured = sides.Sides.of(__file__, args, {'ours': sys.executable})
  record = {'machine': sides.machine(), 'runs': {}}
  for name in args.only.split(','):
    file, overrides = RUNS[name]
    if name == 'qwen05':
      if not args.model:
        print('qwen05 is left out: it wants --model')
        continue
      overrides = overrides | {'model': args.model}
    job = {
      'config': str(CONFIGS / file),
      'overrides': overrides,
      'steps': args.steps or 0,
      'threads': args.threads,
    }
    for i, side in measured.in_turn(args.runs):
      with tempfile.TemporaryDirectory() as folder:
        for state in ('cold', 'warm'):
          found = measured.start(side, job | {'compiled': folder})
          named = f'{name}, {side}, {state}'
          record['runs'].setdefault(named, []).append(found)
          print(f'\n{named}, run {i + 1} of {args.runs}\n')
          print(sides.text(table(found)), flush=True)
          sides.write(args.out, record)
  print(f'\nall runs: {args.out}')


def _parser() -> argparse.ArgumentParser:
  parser = sides.parser(__doc__, 1, 'parts')
  add = parser.add_argument
  add('--model', help="Qwen2.5-Coder-0.5B-Instruct in Hugging Face's layout")
  add('--only', default=','.join(RUNS), help=f'({",".join(RUNS)})')
  add('--steps', type=int, help='of a run; as the config says by default')
  return parser


def table(found: dict) -> list[list[str]]:
  """A row per part: the whole run, its first step, and a step after it."""
  rows = [['part', 's of the run', 'first step', 'a later step, median']]
  rows[0] += ['programs', 'of these from disk', 'XLA, s']
  for part, total in found['total'].items():
    steps = [s.get(part, 0.0) for s in found['steps']]
    later = statistics.median(steps[1:]) if steps[1:] else 0.0
    seen = found['compiled'].get(part, {})
    rows.append(
      [
        part,
        f'{total:.2f}',
        f'{steps[0]:.2f}',
        f'{later:.3f}',
        *(str(seen.get(x, 0)) for x in ('programs', 'from_disk')),
        f'{seen.get("seconds", 0.0):.2f}',
      ]
    )
  sums = [sum(s.values()) for s in found['steps']]
  compiled = found['compiled'].values()
  rows.append(
    [
      'all',
      f'{sum(found["total"].values()):.2f}',
      f'{sums[0]:.2f}',
      f'{statistics.median(sums[1:] or [0.0]):.3f}',
      *(str(sum(c[x] for c in compiled)) for x in ('programs', 'from_disk')),
      f'{sum(c["seconds"] for c in compiled):.2f}',
    ]
  )
  rows.append(['peak memory, GB', f'{found["peak_gb"]:.2f}', *[''] * 5])
  rows.append(['CPUs used by others', f'{found["others"]:.2f}', *[''] * 5])
  return rows


class Clock:
  """Seconds by part, each without the parts within it; and compilations."""

  def __init__(self):
    self.seconds: dict[str, float] = {}
    self.compiled: dict[str, dict[str, float]] = {}
    self._within = ['imports and loading']
    self._since = time.perf_counter()

  def _note(self) -> None:
    now = time.perf_counter()
    part = self._within[-1]
    self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
    self._since = now

  def switch(self, part: str) -> None:
    """From here on, all that is in no other part is of this one."""
    self._note()
    self._within[0] = part

  @contextlib.contextmanager
  def part(self, name: str):
    self._note()
    self._within.append(name)
    try:
      yield
    finally:
      self._note()
      self._within.pop()

  def timed(self, name: str, act):
    """The same function, as a part; what it starts is waited for."""
    import jax

    @functools.wraps(act)
    def timed(*args, **kwargs):
      with self.part(name):
        return jax.block_until_ready(act(*args, **kwargs))

    return timed

  def take(self) -> dict[str, float]:
    """Seconds by part since last asked."""
    self._note()
    seen, self.seconds = self.seconds, {}
    return seen

  def listen(self) -> None:
    """Notes what JAX compiles, and what it finds compiled on disk."""
    import jax

    def compiled(event, seconds, **_):
      if event.endswith('backend_compile_duration'):
        self._add('programs', 1)
        self._add('seconds', seconds)

    def found(event, **_):
      if event.endswith('compilation_cache/cache_hits'):
        self._add('from_disk', 1)

    jax.monitoring.register_event_duration_secs_listener(compiled)
    jax.monitoring.register_event_listener(found)

  def _add(self, name: str, much: float) -> None:
    none = {'programs': 0, 'from_disk': 0, 'seconds': 0.0}
    self.compiled.setdefault(self._within[-1], none)[name] += much


def run(job: dict) -> dict:
  """A run of a config through `jaxdistill.steps`."""
  os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'true'
  os.environ['JAX_COMPILATION_CACHE_DIR'] = job['compiled']
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.3'
  clock = Clock()
  import jax

  import jaxdistill as jd
  from jaxdistill.rollout import Player
  from jaxdistill.run import loop as looping

  clock.listen()
  where = {'loop': looping.Loop, 'player': Player, 'module': looping}
  for name, (owner, member) in PARTS.items():
    act = clock.timed(name, getattr(where[owner], member))
    setattr(where[owner], member, act)
  overrides = dict(job['overrides'])
  if job['steps']:
    overrides['steps'] = job['steps']
  by_step = []
  with (
    tempfile.TemporaryDirectory() as folder,
    jd.steps(job['config'], folder, **overrides) as steps,
  ):
    loading = clock.take()
    clock.switch('logs, and all else')
    for _ in steps:
      by_step.append(clock.take())
    rest = clock.take()
  last = by_step.pop()  # the line of the end
  total: dict[str, float] = {}
  for seen in (loading, *by_step, last, rest):
    for part, seconds in seen.items():
      total[part] = total.get(part, 0.0) + seconds
  return {
    'version': f'jax {jax.__version__}',
    'total': total,
    'steps': by_step,
    'compiled': clock.compiled,
  }


if __name__ == '__main__':
  main()

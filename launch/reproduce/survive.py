"""What a run survives: kill -9, damaged files, a full disk.

  python launch/reproduce/survive.py

A run of six steps is made without interruption. Then

- the same run is killed ten times, most of them while something is being
  written, and each time started again;
- a copy of the finished run is damaged in every way the script knows, one at a
  time, and taken up;
- the run is made on a disk that is too small, which is then enlarged (a tmpfs;
  needs root).

What comes out must be the uninterrupted run, bit for bit, or a refusal in one
line. Prints a table and writes `results/survive/cpu.json`. About 15 minutes on
two cores.
"""

import argparse
import collections
import contextlib
import datetime
import importlib.metadata
import io
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

os.environ['JAX_PLATFORMS'] = 'cpu'

import jax
import numpy as np
from damages import all_cut, cut, damages, empty, flip

from jaxdistill import config as configs
from jaxdistill.checkpoint import RefusedError
from jaxdistill.cli.main import main as jaxdistill
from jaxdistill.run.loop import Loop

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = ROOT / 'configs/sqlm_small.py'
# Whatever can be lost is there: an anchor that blends, an archive, a schedule.
SETS = {
  'steps': 6,
  'eval_every': 3,
  'checkpoint_every': 1,
  'anchors.past': 'every:2',
  'eval.problems': 8,
  'eval.samples': 2,
  'guard.every': 2,
  'guard.problems': 8,
  'guard.samples': 2,
  'method.problems': 4,
  'method.archive': 40,
  'method.propose_every': 2,
  'method.reference': 'ema:0.9',
  'batch.sequences': 4,
}
TIMED = ('time', '_per_s')
LAST = SETS['steps']
BAR = re.compile(r'^ *\d+%\|.*\] *$')


def command(workdir):
  sets = [f'--config.{k}={v}' for k, v in SETS.items()]
  return ['train', '--config', str(CONFIG), '--workdir', str(workdir), *sets]


def start(workdir):
  return subprocess.Popen(
    [sys.executable, '-m', 'jaxdistill.cli.main', *command(workdir)],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def run(workdir):
  """Runs the command; returns its exit code and its last lines."""
  process = start(workdir)
  said = process.communicate()[1].replace('\r', '\n').splitlines()
  said = [x for x in said if x.strip() and not BAR.search(x)]
  return process.returncode, said


def metrics(workdir):
  """`metrics.jsonl` without what is timed, and all the text that was said."""
  lines = map(json.loads, (workdir / 'metrics.jsonl').open())
  kept = [
    {k: v for k, v in x.items() if not any(t in k for t in TIMED)}
    for x in lines
  ]
  said = {p.name: p.read_bytes() for p in (workdir / 'rollouts').iterdir()}
  return kept, said


class Judge:
  """Takes a folder up as the command would, and looks at what it got."""

  def __init__(self):
    pairs = [(k, str(v)) for k, v in SETS.items()]
    self.config = configs.read_config(str(CONFIG), pairs)
    configs.prepare(self.config)
    self.run = configs.build(self.config)
    self.right = {}

  def loop(self, workdir):
    with jax.set_mesh(self.run.mesh):
      return Loop(self.run, workdir, self.config.to_dict())

  def state(self, loop):
    """All that a run goes on from."""
    arrays = (loop.state, loop.anchors.params)
    leaves = [np.asarray(x).tobytes() for x in jax.tree.leaves(arrays)]
    return leaves, loop.method_state, loop.anchors.held, loop.tokens

  def learn(self, workdir, step):
    loop = self.loop(workdir)
    assert loop.first_step == step
    self.right[step] = self.state(loop)
    loop.workdir.close()

  def same_end(self, workdir, whole):
    """Whether a finished run is the uninterrupted one."""
    loop = self.loop(workdir)
    loop.workdir.close()
    at_end = loop.first_step == LAST and self.state(loop) == self.right[LAST]
    return at_end and metrics(workdir) == metrics(whole)


# Moments to be killed at.


def cut_save(folder):
  """An Orbax save of a checkpoint that is on its way."""
  return any('tmp' in p.name for p in (folder / 'checkpoints').glob('*'))


def unsealed(folder):
  """A checkpoint without its manifest."""
  return any(
    p.name.isdecimal() and not (folder / f'manifests/{p.name}.json').exists()
    for p in (folder / 'checkpoints').glob('*')
  )


def cut_anchor(folder):
  """An Orbax save of an anchor that is on its way."""
  return any('tmp' in p.name for p in (folder / 'anchors').glob('*/*'))


def unsealed_anchor(folder):
  """An anchor without its hashes."""
  return any(
    p.name.isdecimal() and not p.with_name(f'{p.name}.json').exists()
    for p in (folder / 'anchors').glob('*/*')
  )


MOMENTS = {
  'any time': None,
  'a checkpoint is being written': cut_save,
  'a checkpoint has no manifest yet': unsealed,
  'an anchor is being written': cut_anchor,
  'an anchor has no hashes yet': unsealed_anchor,
}


def count(workdir):
  logged = workdir / 'metrics.jsonl'
  return logged.read_bytes().count(b'\n') if logged.exists() else 0


def kill(workdir, moment, rng):
  """Kills a run a step or two later; returns what it left."""
  process = start(workdir)
  steps, delay = count(workdir) + rng.randrange(1, 3), rng.random()
  while process.poll() is None and count(workdir) < steps:
    time.sleep(0.001)
  if moment is None:
    time.sleep(delay)
  while moment and process.poll() is None:
    with contextlib.suppress(FileNotFoundError):
      if moment(workdir):
        break
  process.kill()
  process.communicate()
  left = [
    name
    for name, found in MOMENTS.items()
    if found and (workdir / 'checkpoints').exists() and found(workdir)
  ]
  return {
    'after_lines': count(workdir),
    'left': left,
    'code': process.returncode,
  }


def kills(judge, work, whole, n, rng):
  """Kills runs `n` times over; one is started again until it ends."""
  killed, folders = 0, 0
  while killed < n:
    folder, found = work / f'killed{folders}', []
    while killed < n:
      name, moment = list(MOMENTS.items())[killed % len(MOMENTS)]
      this = {'run': folders, 'moment': name} | kill(folder, moment, rng)
      if this['code'] == 0:  # it was faster
        break
      killed += 1
      found.append(this)
      print(f'killed: {this}', flush=True)
    code, said = run(folder)
    same = code == 0 and judge.same_end(folder, whole)
    print(f'and ended: {code}, {same} {said if code else ""}', flush=True)
    yield from (x | {'same': same} for x in found)
    folders += 1
    shutil.rmtree(folder)


def take_up(judge, folder):
  """What comes of a damaged folder, in a word, and what was said."""
  said = io.StringIO()
  try:
    with contextlib.redirect_stderr(said):
      loop = judge.loop(folder)
  except (RefusedError, OSError) as e:
    line = str(e)
    return ('refused' if line.count('\n') == 0 else 'LONG'), line, None
  except Exception as e:
    return 'FAILED', f'{type(e).__name__}: {str(e)[:300]}', None
  step = loop.first_step
  if step and judge.state(loop) != judge.right[step]:
    return 'WRONG', said.getvalue(), loop
  return f'goes on from {step}', said.getvalue(), loop


def harmed(judge, work, whole, rng):
  folder = work / 'harmed'
  for i, (path, harm) in enumerate(damages(whole, LAST)):
    shutil.copytree(whole, folder)
    name = path.relative_to(whole)
    try:
      harm(folder / name, rng)
    except Exception as e:
      raise RuntimeError(f'{harm.__name__} {name}') from e
    what, said, loop = take_up(judge, folder)
    found: dict = {'file': str(name), 'harm': harm.__name__, 'outcome': what}
    found['said'] = said.strip().replace(str(folder), 'RUN')
    if loop:
      if i % 10 == 0:
        with jax.set_mesh(judge.run.mesh):
          loop.train()
        whole_log = name.name != 'metrics.jsonl'
        found['same_end'] = judge.state(loop) == judge.right[LAST] and (
          metrics(folder) == metrics(whole) or not whole_log
        )
      loop.checkpoints.close()
      loop.workdir.close()
    yield found
    bad = what.isupper() or found.get('same_end') is False
    if bad or i % 10 == 0:
      print(f'damaged: {found}', flush=True)
    shutil.rmtree(folder)


def by_command(judge, work, whole, rng):
  """A few damages through the command itself."""
  newest = f'checkpoints/{LAST}'
  largest = max(
    (p for p in (whole / newest).rglob('*') if p.is_file()),
    key=lambda p: p.stat().st_size,
  ).relative_to(whole)
  for name, harm in (
    (largest, flip),
    (f'anchors/base/{LAST}/manifest.ocdbt', cut),
    (f'manifests/{LAST}.json', cut),
    ('checkpoints', all_cut),
    ('config.json', empty),
  ):
    folder = work / 'command'
    shutil.copytree(whole, folder)
    harm(folder / name, rng)
    code, said = run(folder)
    found = {'file': str(name), 'harm': harm.__name__, 'code': code}
    found['said'] = [x.replace(str(folder), 'RUN') for x in said]
    found['right'] = (
      judge.same_end(folder, whole)
      if code == 0
      else code == 2 and len(said) == 1
    )
    print(f'by command: {found}', flush=True)
    yield found
    shutil.rmtree(folder)


def full_disks(judge, work, whole, sizes):
  disk = work / 'disk'
  disk.mkdir()
  for size in sizes:
    mount = ['mount', '-t', 'tmpfs', '-o', f'size={size}k', 'tmpfs', str(disk)]
    if os.getuid() or subprocess.run(mount).returncode:
      print('no tmpfs can be mounted here: the full disk is left out')
      break
    try:
      code, said = run(disk / 'run')
      logged = disk / 'run/metrics.jsonl'
      lines = logged.read_bytes().count(b'\n') if logged.exists() else 0
      found = {'kib': size, 'code': code, 'after_lines': lines}
      found['said'] = [x.replace(str(disk), 'DISK') for x in said]
      subprocess.run(
        ['mount', '-o', 'remount,size=400m', str(disk)], check=True
      )
      again, more = run(disk / 'run')
      found |= {'again': again, 'said_again': more}
      found['same'] = again == 0 and judge.same_end(disk / 'run', whole)
      found['right'] = found['same'] and code == 1 and len(said) == 1
    finally:
      subprocess.run(['umount', str(disk)], check=True)
    print(f'full disk: {found}', flush=True)
    yield found


def counted(found):
  """What was done, and of that what came out as it should."""
  outcomes = collections.Counter(x['outcome'] for x in found['damaged'])
  ends = [x['same_end'] for x in found['damaged'] if 'same_end' in x]
  return {
    'kills': len(found['killed']),
    'kills_bit_equal': sum(x['same'] for x in found['killed']),
    'full_disks': len(found['full_disk']),
    'full_disks_in_one_line_then_bit_equal': sum(
      x['right'] for x in found['full_disk']
    ),
    'damages_by_command': len(found['by_command']),
    'damages_by_command_right': sum(x['right'] for x in found['by_command']),
    'damages': len(found['damaged']),
    'damages_by_outcome': dict(outcomes),
    'damages_trained_to_the_end': len(ends),
    'damages_trained_to_the_end_bit_equal': sum(ends),
  }


def all_right(counts):
  pairs = (
    *(('kills', 'kills_bit_equal'),),
    *(('full_disks', 'full_disks_in_one_line_then_bit_equal'),),
    *(('damages_by_command', 'damages_by_command_right'),),
    ('damages_trained_to_the_end', 'damages_trained_to_the_end_bit_equal'),
  )
  wrong = any(x.isupper() for x in counts['damages_by_outcome'])
  return not wrong and all(counts[a] == counts[b] for a, b in pairs)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--out', default=str(ROOT / 'results/survive/cpu.json'))
  parser.add_argument('--kills', type=int, default=10)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument(
    '--kib', default='6000,14000,20000,27000', help='sizes of full disks'
  )
  parser.add_argument(
    '--parts',
    default='damaged,killed,by_command,full_disk',
    help='what to do; the rest is taken from what --out holds',
  )
  args = parser.parse_args()
  begin, rng = time.time(), random.Random(args.seed)
  out = pathlib.Path(args.out)
  out.parent.mkdir(parents=True, exist_ok=True)
  old = json.loads(out.read_text()) if out.exists() else {}
  names = ('killed', 'full_disk', 'by_command', 'damaged')
  found = {name: old.get(name, []) for name in names}
  counts = counted(found)
  libraries = ('jax', 'jaxlib', 'flax', 'orbax-checkpoint', 'tensorboardX')
  about: dict = {
    'date': datetime.date.today().isoformat(),
    'versions': {n: importlib.metadata.version(n) for n in libraries},
    'device': jax.devices()[0].device_kind,
    'seed': args.seed,
  }
  with tempfile.TemporaryDirectory() as name:
    work = pathlib.Path(name)
    whole = work / 'whole'
    assert jaxdistill(command(whole)) == 0  # compiles for all that follow
    judge = Judge()
    for step in (LAST, LAST - 1, LAST - 2):  # as nothing is damaged yet
      judge.learn(shutil.copytree(whole, work / f'at{step}'), step)
      newest = whole / 'checkpoints' / str(step)
      if step > LAST - 2:
        shutil.move(newest, work / f'kept{step}')
        shutil.move(whole / f'manifests/{step}.json', work / f'kept{step}.json')
    for step in (LAST, LAST - 1):
      shutil.move(work / f'kept{step}', whole / 'checkpoints' / str(step))
      shutil.move(work / f'kept{step}.json', whole / f'manifests/{step}.json')
    sizes = [int(x) for x in args.kib.split(',') if x]
    parts = {
      'damaged': lambda: harmed(judge, work, whole, rng),
      'killed': lambda: kills(judge, work, whole, args.kills, rng),
      'by_command': lambda: by_command(judge, work, whole, rng),
      'full_disk': lambda: full_disks(judge, work, whole, sizes),
    }
    for part in args.parts.split(','):
      found[part] = []
      for one in parts[part]():
        found[part].append(one)
        counts = counted(found)
        about |= {'seconds': round(time.time() - begin), 'counts': counts}
        text = json.dumps(about | found, indent=1)
        out.write_text(text + '\n')
  for key, value in counts.items():
    print(f'{key.replace("_", " "):42} {value}')
  right = all_right(counts)
  print('all as it should be' if right else 'SOMETHING IS WRONG')
  return int(not right)


if __name__ == '__main__':
  sys.exit(main())

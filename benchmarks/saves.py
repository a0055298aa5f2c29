"""How long a save holds up a run, on a disk and in an object store.

  python benchmarks/saves.py --gib 1
  python benchmarks/saves.py --gib .1 --scheme gs --delay 0.2

What `save` takes in the main thread, until the checkpoint is sealed, and what
hashing takes of that. The store is an emulator on this machine, in memory, that
waits before each answer: it says what waiting costs, not what a network does.
"""

import argparse
import contextlib
import json
import os
import pathlib
import sys
import tempfile
import time

import jax

from jaxdistill.checkpoint import Checkpoints, hashes
from jaxdistill.storage import absolute

TESTS = pathlib.Path(__file__).parents[1] / 'tests'


@contextlib.contextmanager
def folder_in(scheme: str, delay: float):
  """Where is saved: a folder on a disk, or one of an emulated store."""
  if not scheme:
    with tempfile.TemporaryDirectory() as folder:
      yield folder
    return
  sys.path.append(str(TESTS))
  import stores

  app = stores.Faulty(stores.Gcs() if scheme == 'gs' else stores.amazon())
  with stores.serving_at(app) as url:
    os.environ.update(stores.variables(scheme, url))
    app.delay = delay
    yield f'{scheme}://{stores.BUCKET}/run'


def measure(root: str, gib: float) -> dict[str, float]:
  """Seconds of a save, its steps apart; the second of two, which is warm."""
  n = int(gib * 2**30 / 4 / 16)
  keys = jax.random.split(jax.random.key(0), 16)  # not to be compressed
  state = {f'x{i}': jax.random.normal(key, (n,)) for i, key in enumerate(keys)}
  jax.block_until_ready(state)
  checkpoints, out = Checkpoints(root), {}
  for step in (1, 2):
    begin = time.perf_counter()
    checkpoints.save(step, state, {})
    pause = time.perf_counter() - begin
    checkpoints._manager.wait_until_finished()
    written = time.perf_counter() - begin
    checkpoints.seal(wait=True)
    sealed = time.perf_counter() - begin
    out = {'pause_s': pause, 'written_s': written, 'sealed_s': sealed}
  begin = time.perf_counter()
  hashes(absolute(root) / 'checkpoints/2')
  out['hash_s'] = time.perf_counter() - begin
  begin = time.perf_counter()
  found = checkpoints.newest()
  out['verify_s'] = time.perf_counter() - begin
  assert found == 2
  checkpoints.close()
  return {k: round(v, 3) for k, v in out.items()}


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--gib', type=float, default=1, help='of arrays')
  parser.add_argument('--scheme', choices=('', 'gs', 's3'), default='')
  parser.add_argument('--delay', type=float, default=0, help='seconds, of each')
  args = parser.parse_args()
  with folder_in(args.scheme, args.delay) as root:
    print(json.dumps(vars(args) | measure(root, args.gib)))


if __name__ == '__main__':
  main()

"""Do several processes take the same steps as one?

  python launch/reproduce/hosts.py

Ten steps of `configs/sqlm_small.py`, from its own base, on eight devices: by
one process, by two of four devices each, and by four of two. Every number that
is logged, every parameter after every step, and every text are held against
those of the one process. Prints a table, and writes `results/hosts/cpu.json`.
About ten minutes on two cores.
"""

import argparse
import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import sys
import tempfile

os.environ['JAX_PLATFORMS'] = 'cpu'

import jax
import numpy as np
from processes import ROOT, metrics, start, stored, texts, train

CONFIG = ROOT / 'configs/sqlm_small.py'
STEPS = 10
SETS = {'steps': STEPS, 'checkpoint_every': 1, 'keep_checkpoints': STEPS}
LAYOUTS = ((1, 8), (2, 4), (4, 2))  # processes, and devices of each
BOUND = 1e-5


def run(workdir: pathlib.Path, processes: int, devices: int) -> None:
  """Trains."""
  words = train(CONFIG, workdir, SETS)
  logs = workdir.with_name(f'{workdir.name}.logs')
  codes = [p.wait() for p in start(words, processes, devices, logs)]
  said = '\n'.join(p.read_text()[-2000:] for p in sorted(logs.iterdir()))
  assert codes == [0] * processes, f'{codes}\n{said}'


def apart(one: float, other: float) -> float:
  """How far two numbers are apart: of large ones as a share of them."""
  if math.isnan(one) and math.isnan(other):
    return 0.0
  return abs(one - other) / max(1.0, abs(one))


def compare(alone: pathlib.Path, other: pathlib.Path) -> list[dict]:
  """By step how far two runs are apart."""
  out = []
  said, theirs = texts(alone), texts(other)
  for ours, line in zip(metrics(alone), metrics(other), strict=True):
    assert ours.keys() == line.keys() and ours['step'] == line['step']
    step = ours['step']
    far = {k: apart(float(ours[k]), float(line[k])) for k in ours}
    worst = max(far, key=far.__getitem__)
    found = {'step': step, 'metrics': far[worst], 'metric': worst}
    if step < STEPS:  # the last line is of the end
      name = f'{step:06d}'
      found['same_texts'] = words(said[name]) == words(theirs[name])
      arrays = farthest(stored(alone, step + 1), stored(other, step + 1))
      parameters = {k: x for k, x in arrays.items() if "'params." in k}
      found['parameters'] = max(parameters.values())
      found['arrays'] = max(arrays.values())
    out.append(found)
  return out


def words(lines: list[str]) -> list[str]:
  """Problems and answers, without numbers that are rounded sums."""
  return [
    json.dumps([x.get(k) for k in ('topic', 'proposal', 'problem', 'texts')])
    for x in map(json.loads, lines)
  ]


def farthest(ours: dict, theirs: dict) -> dict[str, float]:
  """By array the largest difference of an entry."""
  assert ours.keys() == theirs.keys()
  return {
    k: float(np.max(np.abs(x.astype(np.float64) - theirs[k]), initial=0.0))
    for k, x in ours.items()
  }


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--out', default=str(ROOT / 'results/hosts/cpu.json'))
  parser.add_argument('--work', default='', help='keeps the runs there')
  args = parser.parse_args()
  out = pathlib.Path(args.out)
  libraries = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint')
  found: dict = {
    'date': datetime.date.today().isoformat(),
    'versions': {n: importlib.metadata.version(n) for n in libraries},
    'device': jax.devices()[0].device_kind,
    'cores': os.cpu_count(),
    'config': 'configs/sqlm_small.py',
    'sets': SETS,
    'bound': BOUND,
    'seconds': {},
    'runs': {},
  }
  with tempfile.TemporaryDirectory() as name:
    work = pathlib.Path(args.work or name)
    names = [f'{n}x{m}' for n, m in LAYOUTS]
    for name, layout in zip(names, LAYOUTS, strict=True):
      if not (work / name / 'summary.json').exists():
        run(work / name, *layout)
      summary = json.loads((work / name / 'summary.json').read_text())
      found['seconds'][name] = round(summary['wall_s'])
    for name in names[1:]:
      lines = compare(work / names[0], work / name)
      found['runs'][name] = {
        'metrics': max(x['metrics'] for x in lines),
        'parameters': max(x.get('parameters', 0.0) for x in lines),
        'arrays': max(x.get('arrays', 0.0) for x in lines),
        'same_texts': all(x.get('same_texts', True) for x in lines),
        'steps': lines,
      }
      print(f'\n{name} against {names[0]}')
      for x in lines:
        print(
          f'step {x["step"]:3}  metrics {x["metrics"]:.1e} ({x["metric"]})  '
          f'parameters {x.get("parameters", 0.0):.1e}  '
          f'arrays {x.get("arrays", 0.0):.1e}  '
          f'same texts: {x.get("same_texts", "")}'
        )
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_text(json.dumps(found, indent=1) + '\n')
  worst = max(max(x['metrics'], x['arrays']) for x in found['runs'].values())
  print(f'\nthe largest difference is {worst:.1e}; the bound {BOUND:.0e}')
  return int(worst > BOUND)


if __name__ == '__main__':
  sys.exit(main())

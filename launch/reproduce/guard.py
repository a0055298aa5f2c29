"""What the alarms did in the runs of a comparison, as a table.

  python launch/reproduce/guard.py WORKDIR --out results/guard/NAME.json

WORKDIR is one of `jaxdistill compare` (or any folder of ARM/SEED runs). Prints
per run where test accuracy began and ended, which alarms asked for a rollback
(also where the guard was told only to warn) and which warned.
"""

import argparse
import json
import pathlib
import re

TEST = 'eval/test/accuracy_'


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('workdir', type=pathlib.Path)
  parser.add_argument('--out', type=pathlib.Path, required=True)
  args = parser.parse_args()
  runs = []
  for folder in sorted(args.workdir.glob('*/*')):
    if (folder / 'summary.json').exists():
      runs.append(read(folder))
  args.out.parent.mkdir(parents=True, exist_ok=True)
  args.out.write_text(json.dumps(runs, indent=1))
  print('| arm | seed | greedy | sampled | sent back | warned |')
  print('|---|---|---|---|---|---|')
  for run in runs:
    cells = [run['arm'], run['seed'], *(arrow(run[k]) for k in ENDS)]
    cells += [listed(run['rollback']), listed(run['warn'])]
    print('| ' + ' | '.join(map(str, cells)) + ' |')


ENDS = 'greedy', 'sampled'


def read(folder):
  """One run: its evaluations by step, and its alarms by what they asked for."""
  config = json.loads((folder / 'config.json').read_text())
  rules = config['alarms']
  found = {'arm': folder.parent.name, 'seed': config['seed']}
  summary = json.loads((folder / 'summary.json').read_text())
  found |= {k: summary[k] for k in ('versions', 'device', 'wall_s')}
  lines = read_lines(folder / 'metrics.jsonl')
  for kind in ENDS:
    key = TEST + kind
    found[kind] = {x['step']: x[key] for x in lines if key in x}
  found |= {'rollback': [], 'warn': []}
  for x in read_lines(folder / 'alarms.jsonl'):
    asked = re.sub('.*: ', '', rules[x['alarm']])
    found['warn' if asked == 'warn' else 'rollback'].append(
      f'{x["alarm"]}@{x["step"]}'
    )
  return found


def read_lines(path):
  return [json.loads(x) for x in path.open()] if path.exists() else []


def arrow(by_step):
  return ' → '.join(f'{value:.3f}' for value in by_step.values())


def listed(alarms):
  return ', '.join(alarms) or 'none'


if __name__ == '__main__':
  main()

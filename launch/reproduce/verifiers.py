"""What the verifiers of models are worth: the gap of C7, before any training.

  python launch/reproduce/verifiers.py --models DIRECTORY [--out DIR]

Runs `jaxdistill gap --verifier` on each pair of model and task (what is there
already is kept) and writes a JSON file each, and `table.md`. DIRECTORY holds
the checkpoints that `REAL` names; without it only the small bases are asked.
"""

import argparse
import json
import pathlib
import subprocess
import sys

SMALL = [
  (model, 'small', split, ('vote', 'yes', 'vote+yes'))
  for split in ('test', 'ood')
  for model in ('small-early', 'small-middle', 'small-late')
] + [
  (model, 'small', split, ('vote', 'yes', 'tournament', 'vote+yes'))
  for split in ('test', 'ood')
  for model in ('small-wide', 'small-judge')
]
ALL = ('vote', 'yes', 'check', 'score', 'tournament', 'vote+yes', 'vote+check')
REAL = [
  ('qwen2.5-coder-0.5b', 'arithmetic:add:3,3', 'dev', ALL),
  ('smollm2-135m', 'arithmetic:add:2,2', 'dev', ALL),
]
HEAD = ('model', 'task', 'verifier', 'sampled', 'kept is right', 'gap', '95%')
HEAD += ('relative', 'kept', 'AUC', 'mean score', 'unread')


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--models', help='folder of the real checkpoints')
  parser.add_argument('--out', type=pathlib.Path, default='results/verifiers')
  args = parser.parse_args()
  args.out.mkdir(parents=True, exist_ok=True)
  lines = [HEAD, ('---',) * len(HEAD)]
  for pair in SMALL + (REAL if args.models else []):
    found = asked(*pair, args.models, args.out, pair in SMALL)
    lines += [row(*pair[:3], *item) for item in found['verifiers'].items()]
  table = ''.join(f'| {" | ".join(cells)} |\n' for cells in lines)
  (args.out / 'table.md').write_text(table)
  print(table)


def asked(model, task, split, names, models, out, small):
  """What `gap` says of a pair, from its file if it is there."""
  file = out / f'{model}_{task.replace(":", "-")}_{split}.json'
  if not file.exists():
    path = model if small else f'{models}/{model}'
    ask = ['gap', '--model', path, '--task', task, '--split', split, '--json']
    ask += ['--verifier', ','.join(names)]
    ask += ['--problems', '400' if small else '96', '--samples', '8']
    ask += [] if small else ['--max_tokens', '12', '--check_tokens', '64']
    done = subprocess.run(
      [sys.executable, '-m', 'jaxdistill.cli.main', *ask],
      capture_output=True,
      text=True,
    )
    if done.returncode:
      sys.exit(done.stderr)
    about = {'model': model, 'task': task, 'split': split}
    found = about | json.loads(done.stdout)
    file.write_text(json.dumps(found, indent=1) + '\n')
  return json.loads(file.read_text())


def row(model, task, split, name, found):
  """A line of the table."""
  half = 1.96 * found['error']
  between = f'{found["gap"] - half:+.3f} to {found["gap"] + half:+.3f}'
  cells = [model, f'{task}, {split}', name]
  cells += [f'{found[k]:.3f}' for k in ('accuracy', 'kept_accuracy')]
  cells += [f'{found["gap"]:+.3f}', between, f'{found["relative"]:+.3f}']
  cells += [f'{found["kept"]:.0%}']
  for name in ('auc', 'confidence', 'unread'):
    value = found.get(name)
    cells.append('' if value is None else f'{value:.2f}')
  return cells


if __name__ == '__main__':
  main()

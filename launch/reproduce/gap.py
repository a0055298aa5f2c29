"""The gap of models on tasks, and what agreement alone tells of it.

  python launch/reproduce/gap.py --models DIRECTORY [--out results/gap]

DIRECTORY holds the checkpoints that `REAL` names. Runs `jaxdistill gap` on each
pair (what is there already is kept), then fits the log-odds that a majority of
eight is right to the share that agrees with it, each pair weighing the same;
prints the two numbers for `jaxdistill/eval/gap.py`, and how far the guess for
each pair is off when it is fitted to the others alone.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np
from scipy import optimize, special

SMALL = [
  (model, 'small', split)
  for split in ('dev', 'ood')
  for model in ('small-early', 'small-middle', 'small-late')
]
REAL = [
  ('qwen2.5-coder-0.5b', 'arithmetic:add:2,2', 'dev'),
  ('qwen2.5-coder-0.5b', 'arithmetic:add:3,3', 'dev'),
  ('qwen2.5-coder-0.5b', 'arithmetic:mul:2,1', 'dev'),
  ('qwen2.5-coder-0.5b', 'arithmetic:mul:2,2', 'dev'),
  ('smollm2-135m', 'arithmetic:add:2,2', 'dev'),
  ('gemma-3-270m', 'examples:4:arithmetic:add:2,2', 'dev'),
]


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--models', help='folder of the real checkpoints')
  parser.add_argument('--out', default='results/gap')
  args = parser.parse_args()
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  for pair in SMALL + (REAL if args.models else []):
    small = pair in SMALL
    more = [] if small else ['--max_tokens', '12']
    found = asked(*pair, out, '' if small else args.models, more)
    print(*pair, found['verdict'], f'{found["seconds"]} s')
  pairs = [json.loads(p.read_text()) for p in sorted(out.glob('*_*.json'))]
  judge(pairs, out / 'guess.json')


def asked(model, task, split, out, models, more):
  """What `gap` says of a model on a task, from its file if it is there.

  Args:
    model: Its name.
    task: Its name.
    split: Whose problems.
    out: Folder of the files.
    models: Folder of the checkpoint; empty: the model ships with the package.
    more: Other arguments.
  """
  file = out / f'{model}_{task.replace(":", "-")}_{split}.json'
  if not file.exists():
    path = f'{models}/{model}' if models else model
    ask = ['gap', '--model', path, '--task', task, '--split', split, '--json']
    done = subprocess.run(
      [sys.executable, '-m', 'jaxdistill.cli.main', *ask, *more],
      capture_output=True,
      text=True,
    )
    if done.returncode:
      sys.exit(done.stderr)
    about = {'model': model, 'task': task, 'split': split}
    found = about | json.loads(done.stdout)
    file.write_text(json.dumps(found, indent=1) + '\n')
  return json.loads(file.read_text())


def judge(pairs, out):
  """Fits to all pairs, and to all but each."""
  fitted = fit(pairs)
  rows = []
  for i, pair in enumerate(pairs):
    guessed = predict(fit(pairs[:i] + pairs[i + 1 :]), pair)
    name = f'{pair["model"]} {pair["task"]} {pair["split"]}'
    known = pair['right_majority']['8']
    rows.append({'pair': name, 'known': known, 'guessed': guessed})
    print(f'{name:60} right {known:.3f}, guessed {guessed:.3f}')
  errors = [abs(r['known'] - r['guessed']) for r in rows]
  print(f'INTERCEPT, SLOPE = {fitted[0]:.2f}, {fitted[1]:.2f}')
  print(f'left out: mean error {np.mean(errors):.3f}, most {max(errors):.3f}')
  found = {'fitted': list(fitted), 'mean_error': float(np.mean(errors))}
  found |= {'largest_error': max(errors), 'pairs': rows}
  out.write_text(json.dumps(found, indent=1))


def fit(pairs):
  """Intercept and slope: the least log-loss, over pairs of equal weight."""

  def loss(ab):
    total = 0.0
    for share, problems, right in map(table, pairs):
      odds = ab[0] + ab[1] * share
      each = np.logaddexp(0, odds) - right * odds
      total += np.sum(problems * each) / max(problems.sum(), 1e-9)
    return total

  return optimize.minimize(loss, (0.0, 1.0)).x


def predict(ab, pair):
  share, problems, _ = table(pair)
  return float(
    np.average(special.expit(ab[0] + ab[1] * share), weights=problems)
  )


def table(pair):
  found = pair['by_agreement']
  share = np.array([int(n) / 8 for n in found])
  problems = np.array([v['problems'] for v in found.values()])
  return share, problems, np.array([v['right'] for v in found.values()])


if __name__ == '__main__':
  main()

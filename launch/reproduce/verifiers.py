"""What the verifiers of models are worth: the gap of C7, before any training.

  python launch/reproduce/verifiers.py --models DIRECTORY [--out DIR]

Runs `jaxdistill gap --verifier` on each pair of model and task (what is there
already is kept) and writes a JSON file each, and `table.md`. DIRECTORY holds
the checkpoints that `REAL` names; without it only the small bases are asked.
"""

import argparse
import pathlib

import gap

SMALL = [
  (model, 'small', split, ('vote', 'yes', 'vote+yes'))
  for split in ('test', 'ood')
  for model in ('small-early', 'small-middle', 'small-late')
] + [
  (model, 'small', split, ('vote', 'yes', 'tournament', 'vote+yes'))
  for split in ('test', 'ood', 'dev')  # dev: to take thresholds from
  for model in ('small-wide', 'small-judge')
  if (model, split) != ('small-wide', 'dev')
]
ALL = ('vote', 'yes', 'check', 'score', 'tournament', 'vote+yes', 'vote+check')
REAL = [
  ('qwen2.5-coder-0.5b', 'arithmetic:add:3,3', 'dev', ALL),
  ('smollm2-135m', 'arithmetic:add:2,2', 'dev', ALL),
  # It has no chat template, and writes no checks.
  (
    *('gemma-3-270m', 'examples:4:arithmetic:add:2,2', 'dev'),
    ('vote', 'yes', 'tournament', 'vote+yes'),
  ),
]
HEAD = ('model', 'task', 'verifier', 'sampled', 'kept is right', 'gap', '95%')
HEAD += ('relative', 'kept', 'AUC', 'mean score', 'unread')


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--models', help='folder of the real checkpoints')
  parser.add_argument(
    '--out', type=pathlib.Path, default='results/gap_by_verifier'
  )
  args = parser.parse_args()
  args.out.mkdir(parents=True, exist_ok=True)
  lines = [HEAD, ('---',) * len(HEAD)]
  for model, task, split, names in SMALL + (REAL if args.models else []):
    small = model.startswith('small-')
    more = ['--verifier', ','.join(names), '--samples', '8']
    more += ['--problems', '400' if small else '96']
    more += [] if small else ['--max_tokens', '12', '--check_tokens', '64']
    models = '' if small else args.models
    found = gap.asked(model, task, split, args.out, models, more)
    every = found['verifiers'].items()
    lines += [row(model, task, split, *item) for item in every]
  table = ''.join(f'| {" | ".join(cells)} |\n' for cells in lines)
  (args.out / 'table.md').write_text(table)
  print(table)


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

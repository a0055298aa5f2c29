"""Main effects and interactions of a factorial comparison, over its seeds.

  python launch/reproduce/factorial.py runs/factorial results/factorial

Reads the `summary.json` that `jaxdistill compare` wrote for
`configs/compare_fit_coverage_verifier.py`, whose arms are named by their
levels. Each effect is a contrast of cells, computed in each seed: of a factor
the mean of the cells at one level minus that at the first, of two factors how
much the one changes the other. The same of the student's own wording alone
follows. Their 95% intervals are Student's t over seeds. Writes `effects.json`,
`effects.md` and copies of what `compare` wrote.
"""

import argparse
import itertools
import json
import pathlib
import shutil

import numpy as np

from jaxdistill.plots.intervals import estimate

FACTORS = {
  'wording': ('foreign', 'own'),
  'coverage': ('narrow', 'broad'),
  'verifier': ('none', 'vote', 'known'),
}
OWN = {'wording': 'own'}
METRICS = (
  *('test/accuracy_greedy', 'test/accuracy_sampled'),
  *('ood/accuracy_greedy', 'ood/accuracy_sampled'),
  *('ood/calibration_error', 'test/markers_per_1k'),
)


def cells(arms, metric):
  """Last values, float[wording, coverage, verifier, seed], of seeds of all.

  Raises:
    SystemExit: An arm is missing, or there are not two such seeds.
  """
  names = ['_'.join(levels) for levels in itertools.product(*FACTORS.values())]
  if missing := [name for name in names if name not in arms]:
    raise SystemExit(f'factorial: no finished runs of {", ".join(missing)}')
  values = [arms[name][f'eval/{metric}']['by_seed']['last'] for name in names]
  seeds = sorted(set.intersection(*map(set, values)))
  if len(seeds) < 2:
    raise SystemExit(f'factorial: {len(seeds)} seeds are in all arms; 2 needed')
  shape = [len(levels) for levels in FACTORS.values()]
  return np.array([[x[s] for s in seeds] for x in values]).reshape(*shape, -1)


def contrasts(given=()):
  """Effect -> weights of the cells, float[wording, coverage, verifier].

  Args:
    given: Factor -> the level that alone is looked at; its effects are left
      out.
  """
  given = dict(given)
  names = [name for name in FACTORS if name not in given]
  steps = {}  # of a factor: a level beside the first
  for name in names:
    for i, level in enumerate(FACTORS[name][1:], 1):
      weights = np.zeros(len(FACTORS[name]))
      weights[[0, i]] = -1, 1
      steps[name, level] = weights
  out = {}
  for many in range(1, 1 + len(names)):
    for chosen in itertools.combinations(names, many):
      levels = ([k for k in steps if k[0] == name] for name in chosen)
      for keys in itertools.product(*levels):
        weights = np.ones(())
        for name, every in FACTORS.items():
          own = next((k for k in keys if k[0] == name), None)
          part = np.full(len(every), 1 / len(every))
          if own:
            part = steps[own]
          elif name in given:
            part = np.array([float(level == given[name]) for level in every])
          weights = np.multiply.outer(weights, part)
        out['*'.join(f'{name}_{level}' for name, level in keys)] = weights
  return out


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('workdir', type=pathlib.Path)
  parser.add_argument('out', type=pathlib.Path)
  args = parser.parse_args()
  summary = json.loads((args.workdir / 'summary.json').read_text())
  values = {metric: cells(summary['arms'], metric) for metric in METRICS}
  found = effects(values, contrasts())
  own = effects(values, contrasts(OWN))
  args.out.mkdir(parents=True, exist_ok=True)
  for name in ('summary.json', 'table.md', 'compare.png'):
    if (args.workdir / name).exists():
      shutil.copy(args.workdir / name, args.out / name)
  record = {'factors': FACTORS, 'effects': found, 'within_own': own}
  text = f"{table(found)}\nOf the student's own wording alone:\n\n{table(own)}"
  (args.out / 'effects.json').write_text(json.dumps(record, indent=1) + '\n')
  (args.out / 'effects.md').write_text(text)
  print(text)


def effects(values, weighed):
  """Metric -> effect -> mean and interval over seeds."""
  out = {}
  for metric, cells_of in values.items():
    out[metric] = {}
    for name, weights in weighed.items():
      by_seed = np.tensordot(weights, cells_of, 3)
      mean, interval = estimate(by_seed.tolist())
      out[metric][name] = {'mean': mean, 'interval': interval}
  return out


def table(found):
  """The effects as Markdown; those whose interval leaves out 0 are bold."""
  lines = [
    '| effect | ' + ' | '.join(found) + ' |',
    '|' + '---|' * (1 + len(found)),
  ]
  for name in next(iter(found.values())):
    cells = []
    for of_metric in found.values():
      mean, interval = of_metric[name]['mean'], of_metric[name]['interval']
      text = f'{mean:+.3f} ({interval[0]:+.3f} to {interval[1]:+.3f})'
      clear = interval[0] * interval[1] > 0
      cells.append(f'**{text}**' if clear else text)
    lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


if __name__ == '__main__':
  main()

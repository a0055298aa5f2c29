"""Main effects and interactions of a factorial comparison, over its seeds.

  python launch/reproduce/factorial.py runs/factorial results/factorial

Reads the `summary.json` that `jaxdistill compare` wrote for
`configs/compare_fit_coverage_verifier.py`, whose arms are named by their
levels. Each effect is a contrast of cells, computed in each seed: of a factor
the mean of the cells at one level minus that at the first, of two factors how
much the one changes the other. Their 95% intervals are Student's t over seeds.
Writes `effects.json` and `effects.md`.
"""

import argparse
import itertools
import json
import pathlib

import numpy as np

from jaxdistill.plots.intervals import estimate

FACTORS = {
  'wording': ('foreign', 'own'),
  'coverage': ('narrow', 'broad'),
  'verifier': ('none', 'vote', 'known'),
}
METRICS = (
  *('test/accuracy_greedy', 'test/accuracy_sampled'),
  *('ood/accuracy_greedy', 'ood/accuracy_sampled'),
  *('ood/calibration_error', 'test/markers_per_1k'),
)


def cells(arms, metric):
  """Last values, float[wording, coverage, verifier, seed]."""
  shape = [len(levels) for levels in FACTORS.values()]
  rows = []
  for levels in itertools.product(*FACTORS.values()):
    last = arms['_'.join(levels)][f'eval/{metric}']['by_seed']['last']
    rows.append([last[seed] for seed in sorted(last)])
  return np.array(rows).reshape(*shape, -1)


def contrasts():
  """Effect -> weights of the cells, float[wording, coverage, verifier]."""
  names = list(FACTORS)
  steps = {}  # of a factor: a level beside the first
  for name, levels in FACTORS.items():
    for i, level in enumerate(levels[1:], 1):
      weights = np.zeros(len(levels))
      weights[[0, i]] = -1, 1
      steps[name, level] = weights
  out = {}
  for many in (1, 2, 3):
    for chosen in itertools.combinations(names, many):
      levels = ([k for k in steps if k[0] == name] for name in chosen)
      for keys in itertools.product(*levels):
        weights = np.ones(())
        for name in names:
          own = next((k for k in keys if k[0] == name), None)
          n = len(FACTORS[name])
          part = steps[own] if own else np.full(n, 1 / n)
          weights = np.multiply.outer(weights, part)
        out[' x '.join(f'{name} {level}' for name, level in keys)] = weights
  return out


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('workdir', type=pathlib.Path)
  parser.add_argument('out', type=pathlib.Path)
  args = parser.parse_args()
  summary = json.loads((args.workdir / 'summary.json').read_text())
  found = {}
  for metric in METRICS:
    values = cells(summary['arms'], metric)
    found[metric] = {}
    for name, weights in contrasts().items():
      by_seed = np.tensordot(weights, values, 3)
      mean, interval = estimate(by_seed.tolist())
      found[metric][name] = {'mean': mean, 'interval': interval}
  args.out.mkdir(parents=True, exist_ok=True)
  record = {'factors': FACTORS, 'effects': found}
  (args.out / 'effects.json').write_text(json.dumps(record, indent=1) + '\n')
  (args.out / 'effects.md').write_text(table(found))
  print(table(found))


def table(found):
  """The effects as Markdown; those whose interval leaves out 0 are bold."""
  lines = [
    '| effect | ' + ' | '.join(found) + ' |',
    '|' + '---|' * (1 + len(found)),
  ]
  for name in contrasts():
    cells = []
    for effects in found.values():
      mean, interval = effects[name]['mean'], effects[name]['interval']
      text = f'{mean:+.3f} ({interval[0]:+.3f} to {interval[1]:+.3f})'
      clear = interval[0] * interval[1] > 0
      cells.append(f'**{text}**' if clear else text)
    lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


if __name__ == '__main__':
  main()

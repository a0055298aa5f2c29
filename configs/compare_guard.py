"""What the guards are worth: the three bases, guarded and not.

  jaxdistill compare --config configs/compare_guard.py --workdir runs/guard

20 steps of the quickstart's settings; `unguarded` runs are watched all the
same, but their alarms only warn.
"""

import pathlib

from jaxdistill.config import Comparison, read_config

BASES = {'weak': 'small-early', 'middle': 'small-middle', 'late': 'small-late'}


def get_config():
  here = pathlib.Path(__file__)
  base = read_config(str(here.with_name('sqlm_small.py')), ())
  base.steps, base.tokens = 20, 10_000_000  # more tokens than the steps take
  base.eval_every = 10
  base.eval.splits = ('test',)
  base.eval.problems = 400
  arms = {}
  for name, model in BASES.items():
    arms[name] = {'model': model}
    arms[f'{name}_unguarded'] = {'model': model, 'guard.act': False}
  few = (0, 1, 2)
  seeds = {arm: (*few, 3, 4) if 'weak' in arm else few for arm in arms}
  return Comparison(base, arms, seeds)

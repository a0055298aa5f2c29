"""What the guard is worth on a real model, in a run that destroys it.

  jaxdistill compare --config configs/compare_guard_qwen05.py \\
    --workdir runs/guard_qwen05 --config.model=DIRECTORY

Qwen2.5-Coder-0.5B-Instruct on three-digit addition with about 16 problems a
step and a constant learning rate of 5e-5; 15 minutes a run on two cores.
"""

import pathlib

from jaxdistill.config import Comparison, read_config


def get_config():
  here = pathlib.Path(__file__)
  base = read_config(str(here.with_name('sqlm_qwen05_addition.py')), ())
  base.tokens = 10_000_000  # more than the steps take
  base.method.problems, base.method.propose_every = 6, 0
  base.method.band = (0.0, 1.0)
  base.optimizer.lr, base.optimizer.schedule = 5e-5, 'constant'
  base.eval_every, base.checkpoint_every = 10, 5
  base.guard.problems, base.guard.samples = 192, 2  # a look takes 20 s
  arms = {
    'guarded': {},
    'unguarded': {'guard.act': False, 'guard.every': 10},
  }
  return Comparison(base, arms, (0, 1))

"""Does it hold? Self-play on the middle small base for 300 steps.

  jaxdistill train --config configs/sqlm_small_long.py --workdir runs/long

The arm of `compare_middle.py` whose proposals come from a league of past
selves, with a quarter of its learning rate and five times its KL. About 25
minutes on two cores.
"""

import pathlib

from jaxdistill.config import read_comparison


def get_config():
  here = pathlib.Path(__file__)
  arms = read_comparison(str(here.with_name('compare_middle.py')), ())
  config = arms.config('league', seed=0)
  config.steps = 300
  config.tokens = 0
  config.eval_every = 50
  config.checkpoint_every = 25
  config.method.kl = 0.1
  config.optimizer.lr = 1e-4
  config.optimizer.steps = 300
  return config

"""Does it hold? Self-play on the middle small base for 300 steps.

  jaxdistill train --config configs/sqlm_small_long.py --workdir runs/long

About 25 minutes on two cores.
"""

import pathlib

from jaxdistill.config import read_comparison


def get_config():
  here = pathlib.Path(__file__)
  arms = read_comparison(str(here.with_name('compare_middle.py')), ())
  config = arms.config('sqlm', seed=0)
  config.steps = 300
  config.tokens = 0
  config.eval_every = 25
  config.checkpoint_every = 25
  # The proposer's steps are optimizer steps too.
  config.optimizer.steps = 330
  return config

"""Does a real model teach itself addition, and what do the controls reach?

  jaxdistill compare --config configs/compare_qwen05.py --workdir runs/qwen05 \\
    --config.model=DIRECTORY

Self-play on Qwen2.5-Coder-0.5B-Instruct (see `sqlm_qwen05_addition.py`), two
seeds of 30 steps; the controls one seed of 15 steps each. On an accelerator,
`--config.steps=100` and more seeds are affordable.
"""

import pathlib

from jaxdistill.config import CONTROLS, Comparison, read_config


def get_config():
  here = pathlib.Path(__file__)
  base = read_config(str(here.with_name('sqlm_qwen05_addition.py')), ())
  base.tokens = 1_000_000  # more than the steps take
  base.guard.every, base.guard.act = 0, False  # what it does by itself
  arms = {'sqlm': {}}
  for name in ('known_answers', 'random_reward', 'format_only'):
    arms[name] = CONTROLS[name] | {'steps': 15}
  seeds = dict.fromkeys(arms, (0,))
  return Comparison(base, arms, seeds | {'sqlm': (0, 1)})

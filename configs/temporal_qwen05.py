"""A real model judges its own sums and learns from pairs drawn apart in time.

  jaxdistill train --config configs/temporal_qwen05.py \\
    --workdir runs/temporal_qwen --config.model=DIRECTORY

Temporal self-rewarding of Qwen2.5-Coder-0.5B-Instruct on three-digit addition,
as `sqlm_qwen05_addition.py` has it; no answer is read. The judge is the model
itself, by P(yes) of *yes or no*; `--config.method.judge=score` has it write a
check that ends in a number, as the paper has, at twenty times the cost. Look at
`eval/test/judge_auc` first: at .5 it judges by chance, and nothing of what
follows is about sums. `--config.method.judge=vote` is a better judge here.
"""

import pathlib

from jaxdistill.config import override, read_config, system


def get_config():
  here = pathlib.Path(__file__)
  config = read_config(str(here.with_name('sqlm_qwen05_addition.py')), ())
  override(config, system('tsr').items())
  config.method.judge = 'yes'
  config.method.problems = 32
  config.method.max_tokens = 8
  config.anchors = {}
  config.steps = 10
  config.eval_every = 5
  config.optimizer.schedule = 'constant'
  return config

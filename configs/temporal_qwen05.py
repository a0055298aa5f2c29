"""A real model judges its own sums and learns from pairs drawn apart in time.

  jaxdistill train --config configs/temporal_qwen05.py \\
    --workdir runs/temporal_qwen --config.model=DIRECTORY

Temporal self-rewarding of Qwen2.5-Coder-0.5B-Instruct on three-digit addition,
as `sqlm_qwen05_addition.py` has it; no answer is read. The judge is the model
itself, by P(yes) of *yes or no*, asked about every different answer: that is
most of the work, minutes a step on two cores. `--config.method.judge=score` has
it write a check that ends in a number, as the paper has, which takes longer;
`vote` asks nobody. Look at `eval/test/judge_auc` first: where it is about .5
the judge knows nothing, and what is learned from it is not how to add.
"""

import pathlib

from jaxdistill.config import override, read_config, system


def get_config():
  here = pathlib.Path(__file__)
  config = read_config(str(here.with_name('sqlm_qwen05_addition.py')), ())
  override(config, system('tsr').items())
  config.method.judge = 'yes'
  config.method.problems = 16
  config.method.max_tokens = 8
  config.anchors = {}
  config.steps = 10
  config.eval_every = 5
  config.eval.problems = 128  # each is answered and judged seven times
  config.optimizer.schedule = 'constant'
  return config

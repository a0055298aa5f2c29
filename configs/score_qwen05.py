"""A real model learns to correct itself on three-digit addition.

  jaxdistill train --config configs/score_qwen05.py --workdir runs/correct \\
    --config.model=DIRECTORY

DIRECTORY is Qwen2.5-Coder-0.5B-Instruct in Hugging Face's layout; without
`--config.model` it is fetched from the hub. Lengths and adapter are those of
`sqlm_qwen05_addition.py`; known answers are read. A step draws 64 pairs of
attempts and scores both under the base: 65 to 95 s on two cores. All 20 took 55
minutes, of which two evaluations of 96 problems are 20, and 13 GB.

One seed, `results/score_qwen05`: at first second attempts spoil half of what
was right (greedy .71, then .20): half of them have no number in 8 tokens, and
most others another one. At the end both are .81, sampled .64 (.50 and .07
before): it learns to answer better and to say the same again. Nothing wrong was
put right before or after, and what does not occur cannot be reinforced. Of
`eval/test`, look at `accuracy_turn_1` and `_turn_2`, `changed`,
`right_to_wrong` and `wrong_to_right`.
"""

import pathlib

from jaxdistill.config import override, read_config, system


def get_config():
  here = pathlib.Path(__file__)
  config = read_config(str(here.with_name('sqlm_qwen05_addition.py')), ())
  override(config, system('score').items())
  config.anchors = {}
  config.steps = config.eval_every = 20
  config.optimizer.steps = 20
  config.eval.problems = 96
  config.method.problems = 8
  config.method.stage1_steps = 8
  return config

"""A real model learns to correct itself on three-digit addition.

  jaxdistill train --config configs/score_qwen05.py --workdir runs/correct \\
    --config.model=DIRECTORY

DIRECTORY is Qwen2.5-Coder-0.5B-Instruct in Hugging Face's layout; without
`--config.model` it is fetched from the hub. Problems, length and adapter are
those of `sqlm_qwen05_addition.py`; known answers are read. Not run yet. A step
draws 128 pairs of attempts and scores both under the base; by what that config
takes, expect about a minute a step on two cores. Look at
`eval/test/accuracy_turn_1` and `_turn_2`: a second attempt that only repeats
the first has `changed` 0, and one that spoils it `right_to_wrong` above
`wrong_to_right`.
"""

import pathlib

from jaxdistill.config import override, read_config, system


def get_config():
  here = pathlib.Path(__file__)
  config = read_config(str(here.with_name('sqlm_qwen05_addition.py')), ())
  override(config, system('score').items())
  config.anchors = {}
  config.steps = 30
  config.optimizer.steps = 30
  config.eval.problems = 256
  config.method.problems = 16
  config.method.stage1_steps = 10
  return config

"""Where self-play cannot help: a model whose vote is wrong.

  jaxdistill train --config configs/sqlm_smollm2_addition.py \\
    --workdir runs/smollm2 --config.model=DIRECTORY

SmolLM2-135M-Instruct and two-digit addition, settings as in
`sqlm_qwen05_addition.py`; on two cores. Before training it is right greedily in
.07 of the problems and by sampling in .02: a majority is wrong, where there is
one. Seen in 10 steps: it does not come to that, for the model cannot write
problems either (`selfplay/valid` is .00 to .06 of 64), no majority is clear
enough to train on, and greedy accuracy is .07 still. DIRECTORY as there.
"""

import pathlib

from jaxdistill.config import read_config


def get_config():
  here = pathlib.Path(__file__)
  config = read_config(str(here.with_name('sqlm_qwen05_addition.py')), ())
  config.model = 'hf:HuggingFaceTB/SmolLM2-135M-Instruct'
  config.task = 'arithmetic:add:2,2'
  config.method.max_problem_tokens = 40  # it writes and answers in sentences
  config.method.max_tokens = 24
  config.eval.max_tokens = 24
  return config

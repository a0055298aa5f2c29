"""Where self-play cannot help: a model whose vote is wrong.

  jaxdistill train --config configs/sqlm_smollm2_addition.py \\
    --workdir runs/smollm2 --config.model=DIRECTORY

SmolLM2-135M-Instruct and two-digit addition, settings as in
`sqlm_qwen05_addition.py`; on two cores. Before training it is right greedily in
.08 of the problems, by sampling in .03 and by vote in .02: a majority is wrong,
where there is one, so agreement with it teaches nothing that is true. Expect
`selfplay/agreement` to rise and accuracy not to; watch
`selfplay/vote_accuracy`. We have not run it. DIRECTORY as there.
"""

import pathlib

from jaxdistill.config import read_config


def get_config():
  here = pathlib.Path(__file__)
  config = read_config(str(here.with_name('sqlm_qwen05_addition.py')), ())
  config.model = 'hf:HuggingFaceTB/SmolLM2-135M-Instruct'
  config.task = 'arithmetic:add:2,2'
  config.method.max_tokens = 24  # it answers in sentences
  config.eval.max_tokens = 24
  return config

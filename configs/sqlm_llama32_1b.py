"""SQLM (arXiv 2508.03682) on Llama-3.2-1B: three-digit multiplication.

  jaxdistill train --config configs/sqlm_llama32_1b.py \\
    --workdir runs/llama32_1b

Settings as in `sqlm_qwen25_3b_multiplication.py`, on 1,024 test problems.
Nothing is published for this model, and we have not run it: compare with
`--config.method.solver_reward=format` before believing a rise.
The weights are behind a licence: accept it on the hub and log in there first.

Runs on one GPU of 80 GB. By arithmetic, not measured: weights, moments and the
anchor are 20 GB in float32, gradients 10 more, the weights it began with 5;
keys and values of 32 prompts with 4 answers of 1,024 tokens are 4 GB, at times
held three times over, a copy to decode with 2.
"""

import pathlib

from jaxdistill.config import read_config


def get_config():
  here = pathlib.Path(__file__)
  name = 'sqlm_qwen25_3b_multiplication.py'
  config = read_config(str(here.with_name(name)), ())
  config.model = 'hf:meta-llama/Llama-3.2-1B-Instruct'
  config.eval.problems = 1024
  config.batch.tokens = 16384
  config.mesh.fsdp = 1
  return config

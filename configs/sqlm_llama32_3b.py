"""SQLM (arXiv 2508.03682) on Llama-3.2-3B: three-digit multiplication.

  jaxdistill train --config configs/sqlm_llama32_3b.py \\
    --workdir runs/llama32_3b

Settings as in `sqlm_qwen25_3b_multiplication.py`, on 1,024 test problems. The
paper has this model on programs only (.211 -> .243 +- .026); nothing is
published for it here, and we have not run it: compare with
`--config.method.solver_reward=format` before believing a rise. The weights are
behind a licence: accept it on the hub and log in there first.

Runs on 4 GPUs of 80 GB, or one of 141 (`--config.mesh.fsdp=1`). By arithmetic,
not measured: weights, moments and the anchor are 51 GB in float32, gradients 26
more, the weights it began with 13, shared out evenly; keys and values of 32
prompts with 4 answers of 1,024 tokens are 15 GB, at times held three times
over, shared out too; and while it writes each GPU has the policy and the anchor
whole, 32 GB with the copy to decode with.
"""

import pathlib

from jaxdistill.config import read_config


def get_config():
  here = pathlib.Path(__file__)
  name = 'sqlm_qwen25_3b_multiplication.py'
  config = read_config(str(here.with_name(name)), ())
  config.model = 'hf:meta-llama/Llama-3.2-3B-Instruct'
  config.eval.problems = 1024
  return config

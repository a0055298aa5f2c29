"""SQLM (arXiv 2508.03682) on Qwen3-1.7B: three-digit multiplication.

  jaxdistill train --config configs/sqlm_qwen3_17b.py \\
    --workdir runs/qwen3_17b

Settings as in `sqlm_qwen25_3b_multiplication.py`, on 1,024 test problems.
Nothing is published for this model, and we have not run it: compare with
`--config.method.solver_reward=format` before believing a rise. It is
asked not to think aloud first: its thoughts would be part of its proposal.

Runs on one GPU of 80 GB. By arithmetic, not measured: weights, moments and the
anchor are 28 GB in float32, gradients 14 more, the weights it began with 7;
keys and values of 8 prompts with 4 answers of 1,024 tokens are 4 GB, at times
held three times over, a copy to decode with 3.
"""

import pathlib

from jaxdistill.config import read_config


def get_config():
  here = pathlib.Path(__file__)
  name = 'sqlm_qwen25_3b_multiplication.py'
  config = read_config(str(here.with_name(name)), ())
  config.model = 'hf:Qwen/Qwen3-1.7B'
  config.eval.problems = 1024
  config.batch.tokens = 16384
  config.mesh.fsdp = 1
  return config

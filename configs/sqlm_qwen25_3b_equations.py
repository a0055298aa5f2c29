"""Self-Questioning Language Models, table 1: linear equations.

  jaxdistill train --config configs/sqlm_qwen25_3b_equations.py \\
    --workdir runs/equations

arXiv 2508.03682, Qwen2.5-3B-Instruct. Published, on 100 linear equations of
OMEGA, as the best test score within 100 steps, three seeds: .440 before, .600
+- .010 after, .553 +- .015 if only the form of an answer is paid. Ours are
other problems, 512 systems of two equations, so scores do not compare, only how
far they rise. We have not run it.

From the paper: answers up to 3,072 tokens, and what
`sqlm_qwen25_3b_multiplication.py` says. Ours: a proposal is one system in a
fixed form; the paper's proposer writes three word problems and keeps the last.
Answers compare as rationals; the published code reads whole numbers only.

Memory as there: 4 GPUs of 80 GB.
"""

import pathlib

from jaxdistill.config import read_config


def get_config():
  here = pathlib.Path(__file__)
  name = 'sqlm_qwen25_3b_multiplication.py'
  config = read_config(str(here.with_name(name)), ())
  config.task = 'equations:2'
  config.eval.problems = 512
  config.eval.max_tokens = 3072
  config.method.max_problem_tokens = 96
  config.method.max_tokens = 3072
  return config

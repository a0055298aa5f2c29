"""A real model answers three-digit additions with working, and judges itself.

  jaxdistill train --config configs/serl_qwen05.py --workdir runs/serl_qwen \\
    --config.model=DIRECTORY

DIRECTORY is Qwen2.5-Coder-0.5B-Instruct in Hugging Face's layout; without
`--config.model` it is fetched from the hub (`pip install 'jaxdistill[hf]'`).
The answers are written with working (two that are a number each differ in
nothing but the number), and so are the judgments. `--config.method.ask=compare`
with `--config.method.judge_tokens=4` has verdicts at once.

A step has 8 problems, 32 answers and at most 192 judgments of at most 128
tokens, 30,000 tokens in all: for an accelerator, and nothing here is measured.
To expect: such a judge names the first answer often (`serl/judge_first`,
`serl/judge_flips`), so that many pairs pay nobody (`serl/void`), and what can
be gained is bounded by how often it is right (`eval/test/judge_accuracy`).
"""

from jaxdistill.config import base_config


def get_config():
  config = base_config('serl')
  config.model = 'hf:Qwen/Qwen2.5-Coder-0.5B-Instruct'
  config.task = 'arithmetic:add:3,3:think'
  config.trainable = 'lora'
  config.roles = 'shared'
  config.rank = 16
  config.alpha = 32.0
  config.steps = 48
  config.eval_every = 12
  config.checkpoint_every = 4
  config.anchors = {}
  config.guard.every, config.guard.act = 0, False
  config.eval.splits = ('test',)
  config.eval.problems = 128
  config.eval.samples = 1
  config.eval.max_tokens = 192
  config.method.problems = 8
  config.method.max_tokens = 192
  config.method.judge_tokens = 128
  config.optimizer.lr = 2e-5
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup = 3
  config.optimizer.steps = 48
  config.batch.length = 1024
  config.batch.sequences = 1
  return config

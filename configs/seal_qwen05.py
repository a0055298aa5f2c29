"""SEAL with a real model: invented people in words, on two cores.

  jaxdistill train --config configs/seal_qwen05.py --workdir runs/seal_qwen05 \\
    --config.model=DIRECTORY

DIRECTORY is Qwen2.5-Coder-0.5B-Instruct in Hugging Face's layout; without
`--config.model` it is fetched from the hub (`pip install 'jaxdistill[hf]'`).
`--config.task=passages:FILE.jsonl` has passages of one's own.

Nobody knows these people, so without a passage the answers are guesses. A step
is a round: edits of 8 passages, three each, learned twice each, by adapters of
rank 8, four at a time, for memory: 64 trainings of 10 epochs on some 150
tokens, and half as many to evaluate 8 passages. Not run yet, so neither its
time nor what it gains is known; a guess by its tokens is half an hour a round.
"""

from jaxdistill.config import base_config


def get_config():
  config = base_config('seal')
  config.model = 'hf:Qwen/Qwen2.5-Coder-0.5B-Instruct'
  config.task = 'passages'
  config.trainable = 'lora'
  config.roles = 'shared'
  config.rank = 64
  config.alpha = 128.0
  config.steps = 2
  config.eval_every = 1
  config.checkpoint_every = 1
  config.anchors = {}
  config.guard.every = 0
  config.eval.splits = ('test',)
  config.eval.problems = 8
  config.eval.samples = 1
  config.eval.max_tokens = 16
  config.method.problems = 8
  config.method.samples = 3
  config.method.seeds = 2
  config.method.at_once = 4
  config.method.inner_rank = 8
  config.method.inner_alpha = 16.0
  config.method.max_tokens = 128
  config.method.minibatches = 1
  config.method.answer_tokens = 16
  config.optimizer.lr = 3e-4
  config.batch.length = 384
  config.batch.sequences = 1
  return config

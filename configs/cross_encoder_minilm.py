"""A cross-encoder on a real trunk, all-MiniLM-L6-v2 (22M weights).

  jaxdistill train --config configs/cross_encoder_minilm.py --workdir runs/ce

It learns the shop's known grades; `--config.method.teacher=model:DIRECTORY`
takes those of a language model, or of another cross-encoder, in their place.
`--config.model=grader:DIRECTORY` reads the trunk from a directory.
"""

from jaxdistill.config import base_config


def get_config():
  config = base_config('cross_encoder')
  config.model = 'grader:hf:sentence-transformers/all-MiniLM-L6-v2'
  config.roles = 'shared'
  config.task = 'shop'
  config.steps, config.eval_every = 200, 50
  config.checkpoint_every = 100
  config.method.problems = 8
  config.optimizer.lr = 1e-4
  config.optimizer.warmup = 20
  config.optimizer.schedule = 'cosine'
  config.optimizer.steps = 200
  config.optimizer.weight_decay = 0.01
  config.eval.problems = 60
  config.anchors = {}
  return config

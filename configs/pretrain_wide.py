"""Trains `small-wide`, the base that knows all formats of the small world.

  jaxdistill train --config configs/pretrain_wide.py --workdir runs/wide

`launch/reproduce/pretrain_small.py --wide` runs it and exports the base.
"""

from jaxdistill.config import base_config


def get_config():
  config = base_config('sft')
  config.model = 'small-wide-fresh'
  config.roles = 'shared'
  config.task = 'small:wide'
  config.steps = 2400
  config.eval_every = 800
  config.checkpoint_every = 200
  config.method.problems = 160
  config.optimizer.lr = 2e-3
  config.optimizer.warmup = 100
  config.optimizer.schedule = 'cosine'
  config.optimizer.steps = 2300
  config.optimizer.weight_decay = 0.05
  config.anchors = {'past': 'every:200'}
  config.eval.problems = 200
  config.batch.sequences = 16
  # Of a model that is only learning to read, accuracy goes up and down.
  config.guard.every, config.guard.act = 0, False
  return config

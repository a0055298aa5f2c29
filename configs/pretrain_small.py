"""Trains the small bases from nothing on the small world's corpus.

  jaxdistill train --config configs/pretrain_small.py --workdir runs/small

21 minutes on two cores. `launch/reproduce/pretrain_small.py` runs it,
scores its snapshots and exports the three bases that ship with the package.
"""

from jaxdistill.config import base_config


def get_config():
  config = base_config('sft')
  config.model = 'small-fresh'
  config.roles = 'shared'
  config.task = 'small:corpus'
  config.steps = 1800
  config.eval_every = 400
  config.checkpoint_every = 200
  config.method.problems = 160
  config.optimizer.lr = 2e-3
  config.optimizer.warmup = 100
  config.optimizer.schedule = 'cosine'
  config.optimizer.steps = 1700
  config.optimizer.weight_decay = 0.05
  config.anchors = {'past': 'every:50'}
  config.eval.problems = 200
  # Of a model that is only learning to read, accuracy goes up and down.
  config.guard.every, config.guard.act = 0, False
  return config

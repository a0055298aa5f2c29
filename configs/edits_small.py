"""Teaches `small-wide` to write edits without mistakes, from the world's own.

  jaxdistill train --config configs/edits_small.py --workdir runs/editor
  jaxdistill export --workdir runs/editor --to runs/editor_model

A writer for others: `jaxdistill compare --config
configs/compare_seal.py:runs/editor_model` has an arm that learns from it. Of
four facts the base misstates or leaves out 1.1, this one .1; that is all that
it knows better. Like the edits that it learns, it turns 1.6 of them round, and
it has seen those of all training passages ten times. Six minutes.
"""

import pathlib

from jaxdistill.config import read_config


def get_config():
  small = pathlib.Path(__file__).with_name('pretrain_small.py')
  config = read_config(str(small), ())
  config.model = 'small-wide'
  config.task = 'small:passages'
  config.steps = 200
  config.eval_every = 100
  config.optimizer.lr = 1e-3
  config.optimizer.warmup = 20
  config.optimizer.steps = 200
  config.anchors = {}
  config.eval.problems = 24
  return config

"""Trains `small-wide`, the base that knows all formats of the small world.

  jaxdistill train --config configs/pretrain_wide.py --workdir runs/wide

`launch/reproduce/pretrain_small.py --wide` runs it and exports the base.
"""

import pathlib

from jaxdistill.config import read_config


def get_config():
  small = pathlib.Path(__file__).with_name('pretrain_small.py')
  config = read_config(str(small), ())
  config.model = 'small-wide-fresh'
  config.task = 'small:wide'
  config.steps = 2400
  config.eval_every = 800
  config.optimizer.steps = 2300
  config.anchors = {'past': 'every:200'}
  return config

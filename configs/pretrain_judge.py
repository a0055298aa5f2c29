"""Trains `small-judge`: what `small-wide` is if it has judged far more often.

  jaxdistill train --config configs/pretrain_judge.py --workdir runs/judge

`small-wide` finds the better of two workings hardly more often than by chance,
which makes it no judge of its own answers. This goes on from it, on a corpus
that mostly judges. `launch/reproduce/pretrain_small.py --judge` runs it and
exports it; twenty minutes on two cores.
"""

import pathlib

from jaxdistill.config import read_config


def get_config():
  small = pathlib.Path(__file__).with_name('pretrain_small.py')
  config = read_config(str(small), ())
  config.model = 'small-wide'
  config.task = 'small:judging'
  config.steps = 1500
  config.eval_every = 500
  config.optimizer.lr = 1.5e-3
  config.optimizer.steps = 1500
  config.anchors = {'past': 'every:500'}
  return config

"""Trains `small-foreign`, a base that words its working otherwise.

  jaxdistill train --config configs/pretrain_foreign.py --workdir runs/foreign

All but the wording and the seed is as in `pretrain_small.py`.
`launch/reproduce/pretrain_small.py --foreign` runs it, and exports the snapshot
that is as strong as `small-late`.
"""

import pathlib

from jaxdistill.config import read_config


def get_config():
  small = pathlib.Path(__file__).with_name('pretrain_small.py')
  config = read_config(str(small), ())
  config.task = 'small:foreign'
  config.seed = 1
  return config

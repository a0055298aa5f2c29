"""Trains `small-peer`, a base as strong as `small-middle` and no copy of it.

  jaxdistill train --config configs/pretrain_peer.py --workdir runs/peer

All but the seed is as in `pretrain_small.py`.
`launch/reproduce/pretrain_small.py --peer` runs it, and exports the snapshot
that is as strong as `small-middle`.
"""

import pathlib

from jaxdistill.config import read_config


def get_config():
  small = pathlib.Path(__file__).with_name('pretrain_small.py')
  config = read_config(str(small), ())
  config.seed = 2
  return config

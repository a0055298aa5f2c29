"""Self-play on a real model whose proposals are scored by a guide.

  jaxdistill train --config configs/sqlm_guided_qwen05.py \\
    --workdir runs/guided --config.model=DIRECTORY

`sqlm_qwen05_addition.py`, and what a proposal earns is multiplied by how likely
the model as it began finds it related, clear and plain (SGS, arXiv 2604.20209).
The proposer learns at every second step. Not run yet; asking the guide takes a
second or two of a step's 25.
"""

import pathlib

from jaxdistill.config import read_config


def get_config():
  plain = pathlib.Path(__file__).with_name('sqlm_qwen05_addition.py')
  config = read_config(str(plain), ())
  config.method.guide = 'frozen'
  config.method.propose_every = 2
  return config

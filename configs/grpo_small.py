"""GRPO with known answers on the late small base.

  jaxdistill train --config configs/grpo_small.py --workdir runs/grpo

80 problems a step: as many as `sqlm_small.py` answers of its own. About 100
seconds on two cores; sampled accuracy rises from about .72 to about .97.
"""

import pathlib

from jaxdistill.config import override, read_config


def get_config():
  here = pathlib.Path(__file__)
  config = read_config(str(here.with_name('sqlm_small.py')), ())
  override(config, {'method.name': 'grpo', 'method.problems': 80}.items())
  return config

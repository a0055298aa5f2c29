"""SCoRe on the small world: a model learns to correct itself.

  jaxdistill train --config configs/score_small.py --workdir runs/score

The wide small base, which has seen second attempts. It learns on the mix of
kinds `broad`: a greedy first attempt at problems of `test` is all but always
right and leaves no room, at those of `ood` in seven of ten. 8 steps of stage I,
16 of stage II; 32 problems, 8 pairs of attempts each.
`eval/ood/accuracy_turn_1` and `_turn_2` are of greedy attempts, with `_sampled`
behind them of sampled ones; `fixed_` is of second attempts after those first
ones that the base has made.
"""

import pathlib

from jaxdistill.config import override, read_config, system


def get_config():
  here = pathlib.Path(__file__)
  config = read_config(str(here.with_name('grpo_small.py')), ())
  override(config, system('score').items())
  config.model = 'small-wide'
  config.task = 'small:broad'
  config.steps, config.eval_every = 24, 8
  config.anchors = {}
  config.method.problems = 32
  config.method.stage1_steps = 8
  config.optimizer.steps = 24
  return config

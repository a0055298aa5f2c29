"""A model that answers and judges itself, on the small base of all formats.

  jaxdistill train --config configs/serl_small.py --workdir runs/serl

The judge is asked `compare PROBLEM:WORKING or WORKING?` and says 1 or 2; its
shares of right verdicts are `eval/test/judge_accuracy` (on pairs of the model's
own responses), `fixed_judge_accuracy` (of the base's) and, on 500 other pairs,

  jaxdistill eval --workdir runs/serl --task small:compare

About 2 s a step on one core. This base judges by chance (.49) and prefers what
is longer; 40 steps, one seed, did not teach it to judge (.46). It learned what
the control of length pays for: to prefer the shorter (`judge_longer` .82 to
.32), and to write shorter (29.0 to 26.6 tokens), with which answers were right
less often (.67 to .52, sampled). With `method.verdicts=known` they went to .93:
it is the verdicts that fail.
"""

from jaxdistill.config import base_config


def get_config():
  config = base_config('serl')
  config.model = 'small-wide'
  config.roles = 'shared'  # actor and judge are one model
  config.steps = 40
  config.eval_every = 10
  config.checkpoint_every = 20
  config.anchors = {}
  config.guard.every, config.guard.act = 0, False
  config.eval.problems = 256
  config.eval.samples = 4
  config.method.problems = 32
  config.method.ask = 'compare'
  config.method.judge_tokens = 2
  config.optimizer.lr = 2e-4
  config.optimizer.warmup = 5
  config.optimizer.schedule = 'linear'
  config.optimizer.steps = 40
  return config

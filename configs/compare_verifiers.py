"""Is self-improvement bounded by what its verifier knows? (C7.)

  jaxdistill gap --model small-wide --verifier vote,yes,tournament,vote+yes
  jaxdistill compare --config configs/compare_verifiers.py \\
    --workdir runs/verifiers

(After arXiv 2412.02674.) `gap` says before what keeping by a verifier makes of
sampled accuracy; here the wide small base learns what each keeps. A step is a
round: 512 problems, 8 answers each, verified by the model that gave them and
learned by heart. Four rounds, evaluated after each. Arms: `all` (nothing is
verified: a control), `vote`, `yes`, `tournament`, `known` (what is right: the
most that any verifier can be worth), and `first_yes`, verified by the model as
it began. Thresholds are those that `gap` finds. Five seeds; a minute and a half
a run on two cores, an hour in all.
"""

import pathlib

from jaxdistill.config import Comparison, read_config


def get_config():
  here = pathlib.Path(__file__)
  base = read_config(f'{here.with_name("learn_small.py")}:rft_vote', ())
  base.model = 'small-wide'
  base.steps, base.tokens = 4, 10_000_000  # the rounds are what ends it
  base.eval_every = base.checkpoint_every = 1
  base.eval.splits = ('test', 'ood')
  base.eval.problems, base.eval.samples = 400, 8
  base.guard.every, base.guard.act = 0, False
  base.optimizer.schedule, base.optimizer.warmup = 'constant', 0
  base.optimizer.lr = 3e-4
  base.method.problems, base.method.samples = 512, 8
  base.method.minibatches = 16
  yes = {'method.keep': 'yes', 'method.threshold': 0.9}
  arms = {
    'all': {'method.keep': 'all'},
    'vote': {'method.threshold': 0.7},
    'yes': yes,
    'first_yes': yes | {'method.verifier': 'frozen'},
    'tournament': {'method.keep': 'tournament', 'method.threshold': 1.0},
    'known': {'method.keep': 'known'},
  }
  return Comparison(base, arms, (0, 1, 2, 3, 4))

"""Is self-improvement bounded by what its verifier knows? (C7.)

  jaxdistill gap --model small-judge --verifier vote,yes,tournament,vote+yes
  jaxdistill compare --config configs/compare_verifiers.py \\
    --workdir runs/verifiers

(After arXiv 2412.02674.) `gap` says before what keeping by a verifier makes of
sampled accuracy; here the small base that can judge learns what each keeps. A
step is a round: 512 problems, 8 answers each, verified by the model that gave
them and learned by heart. Four rounds, evaluated after each.

| | kept |
|---|---|
| `all` | all: nothing is verified, a control |
| `vote`, `yes`, `tournament` | what the verifier of that name scores high |
| `first_yes` | what the model as it began says yes to |
| `by_chance` | as `yes`, of `small-wide`, whose yes or no means nothing |
| `known` | what is right: the most that any verifier can be worth |

Thresholds are those that `gap` found on 400 test problems (on as many of dev,
.29 and .79 for `vote` and `yes`). Five seeds; two and a half minutes a run on
one core.
"""

import pathlib

from jaxdistill.config import Comparison, read_config


def get_config():
  here = pathlib.Path(__file__)
  base = read_config(f'{here.with_name("learn_small.py")}:rft_vote', ())
  base.model = 'small-judge'
  base.steps, base.tokens = 4, 10_000_000  # the rounds are what ends it
  base.eval_every = base.checkpoint_every = 1
  base.eval.splits = ('test',)
  base.eval.problems, base.eval.samples = 400, 8
  base.guard.every, base.guard.act = 0, False
  base.optimizer.schedule, base.optimizer.warmup = 'constant', 0
  base.optimizer.lr = 3e-4
  base.method.problems, base.method.samples = 512, 8
  base.method.minibatches = 16
  yes = {'method.keep': 'yes', 'method.threshold': 0.75}
  arms = {
    'all': {'method.keep': 'all'},
    'vote': {'method.threshold': 0.14},  # one of seven others agrees
    'yes': yes,
    'first_yes': yes | {'method.verifier': 'frozen'},
    'by_chance': yes | {'model': 'small-wide'},
    'tournament': {'method.keep': 'tournament', 'method.threshold': 1.0},
    'known': {'method.keep': 'known'},
  }
  return Comparison(base, arms, (0, 1, 2, 3, 4))

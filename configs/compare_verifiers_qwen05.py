"""Does a round of a real model gain what its verifier's gap says? (C7.)

  jaxdistill gap --model DIRECTORY --task arithmetic:add:3,3 --max_tokens 12 \\
    --check_tokens 64 --verifier vote,yes,check,score,tournament
  jaxdistill compare --config configs/compare_verifiers_qwen05.py \\
    --workdir runs/verifiers_qwen05 --config.model=DIRECTORY

DIRECTORY is Qwen2.5-Coder-0.5B-Instruct in Hugging Face's layout; without
`--config.model` it is fetched from the hub. One round, as in
`compare_verifiers.py`: 64 problems of three-digit addition, 8 answers each;
all of them, those with which three of seven others agree (`gap` says so on 96
dev problems), the half that it says yes to most, or what is right, are learned
by heart in 32 steps of the optimizer. How much more of 192 other problems'
answers (4 each) are right is held against `train/gap`, that of the 64.

Three seeds, on two cores: by the vote +.15 (+.25, +.02, +.18), of a gap of .15;
by what is right +.10, of .35. Seed 0: nothing chosen -.11; by yes or no, which
is chance, -.18. Those that choose took about five minutes each, on a machine
that did other work besides. The learning rate was not searched.
"""

import pathlib

from jaxdistill.config import Comparison, override, read_config, system


def get_config():
  here = pathlib.Path(__file__)
  base = read_config(str(here.with_name('sqlm_qwen05_addition.py')), ())
  keys = {'problems': 64, 'samples': 8, 'max_tokens': 12, 'minibatches': 32}
  rft = system('rft_vote') | {f'method.{k}': v for k, v in keys.items()}
  override(base, rft.items())
  base.steps, base.tokens = 1, 10_000_000  # the round is what ends it
  base.eval_every = base.checkpoint_every = 1
  base.eval.problems, base.eval.samples, base.eval.max_tokens = 192, 4, 12
  base.anchors = {}
  base.guard.every, base.guard.act = 0, False
  base.optimizer.schedule, base.optimizer.warmup = 'constant', 0
  base.optimizer.lr = 1e-4
  arms = {
    'all': {'method.keep': 'all'},
    'vote': {'method.threshold': 0.42},
    'yes': {'method.keep': 'yes', 'method.threshold': 0.24},
    'known': {'method.keep': 'known'},
  }
  return Comparison(base, arms, (0, 1, 2))

"""Does a round of a real model gain what its verifier's gap says? (C7.)

  jaxdistill gap --model DIRECTORY --task arithmetic:add:3,3 --max_tokens 12 \\
    --check_tokens 64 --verifier vote,yes,check,score,tournament
  jaxdistill compare --config configs/compare_verifiers_qwen05.py \\
    --workdir runs/verifiers_qwen05 --config.model=DIRECTORY

DIRECTORY is Qwen2.5-Coder-0.5B-Instruct in Hugging Face's layout; without
`--config.model` it is fetched from the hub. One round, as in
`compare_verifiers.py`: 96 problems of three-digit addition, 8 answers each,
kept by the vote (one of seven others agrees), by yes or no, all of them, or
what is right; and learned by heart, 16 answers a step of the optimizer.
Sampled accuracy of 256 other problems, 4 answers each, is held against
`train/gap`, the gap of those 96.
"""

import pathlib

from jaxdistill.config import Comparison, override, read_config, system


def get_config():
  here = pathlib.Path(__file__)
  base = read_config(str(here.with_name('sqlm_qwen05_addition.py')), ())
  keys = {'problems': 96, 'samples': 8, 'max_tokens': 12, 'minibatches': 48}
  rft = system('rft_vote') | {f'method.{k}': v for k, v in keys.items()}
  override(base, rft.items())
  base.steps, base.tokens = 1, 10_000_000  # the round is what ends it
  base.eval_every = base.checkpoint_every = 1
  base.eval.problems, base.eval.samples, base.eval.max_tokens = 256, 4, 12
  base.anchors = {}
  base.guard.every, base.guard.act = 0, False
  base.optimizer.schedule, base.optimizer.warmup = 'constant', 0
  base.optimizer.lr = 1e-4
  arms = {
    'all': {'method.keep': 'all'},
    'vote': {'method.threshold': 0.14},  # one of seven others agrees
    'yes': {'method.keep': 'yes', 'method.threshold': 0.75},
    'known': {'method.keep': 'known'},
  }
  return Comparison(base, arms, (0, 1, 2))

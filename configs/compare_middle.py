"""What makes the middle small base improve? Settings from the literature.

  jaxdistill compare --config configs/compare_middle.py --workdir runs/middle

450,000 tokens a run, generated or scored: 20 steps of the quickstart. About 65
s a run on two cores. The first arm is SQLM as the quickstart runs it.
"""

import pathlib

from jaxdistill.config import CONTROLS, Comparison, read_comparison


def get_config():
  here = pathlib.Path(__file__)
  base = read_comparison(str(here.with_name('compare_late.py')), ()).base
  base.model = 'small-middle'
  base.eval_every = 10
  arms = {
    'sqlm': {},
    # Only problems on which at least half of the answers agree.
    'band': {'method.band': (0.5, 1.0)},
    # One problem in a hundred with its known answer.
    'known_1_percent': {'method.known': 0.01},
    # A proposer after R-Zero: half agree, nothing said before, well formed.
    'r_zero': {
      'method.propose_every': 5,
      'method.malformed_penalty': 1.0,
      'method.proposer_reward': 'uncertain',
      'method.repeat_penalty': 1.0,
      'method.archive': 2000,
      'optimizer.steps': 22,
    },
    'league': {'method.propose_every': 0, 'method.proposer': 'league:5'},
    'ema': {'method.reference': 'ema:0.8', 'method.kl': 0.1},
    'best': {'method.reference': 'best:dev/accuracy_greedy', 'method.kl': 0.1},
    'known_answers': CONTROLS['known_answers'],
  }
  return Comparison(base, arms, (0, 1, 2))

"""Which part of self-play does the work? Ten arms on the late small base.

  jaxdistill compare --config configs/compare_late.py --workdir runs/late

450,000 tokens a run, generated or scored: 20 steps of the quickstart. About 80
s a run on two cores. The first arm is SQLM as the quickstart runs it, with five
seeds; the others have three.
"""

import pathlib

from jaxdistill.config import CONTROLS, Comparison, read_config


def get_config():
  here = pathlib.Path(__file__)
  base = read_config(str(here.with_name('sqlm_small.py')), ())
  base.tokens = 450_000
  base.steps = 40  # more than the tokens allow
  base.eval.splits = ('dev', 'test', 'ood')
  base.eval.problems = 400
  base.eval.samples = 2
  base.guard.every, base.guard.act = 0, False  # what each does by itself
  # A proposer that learns more often takes more optimizer steps: the learning
  # rate is made to fall over the same share of the run.
  every_step = {'optimizer.warmup': 10, 'optimizer.steps': 40}
  arms = {
    'sqlm': {},  # K = 10, a head for each role
    'k_1': {'method.propose_every': 1} | every_step,
    'k_5': {'method.propose_every': 5, 'optimizer.steps': 22},
    'adapter': {'roles': 'adapter'},
    'shared': {'roles': 'shared'},
    **{name: CONTROLS[name] for name in CONTROLS if name != 'given_problems'},
  }
  seeds = dict.fromkeys(arms, (0, 1, 2))
  return Comparison(base, arms, seeds | {'sqlm': (0, 1, 2, 3, 4)})

"""Does a teacher's foreign wording cost for good, or only at first?

  jaxdistill compare --config configs/compare_foreign_longer.py \\
    --workdir runs/foreign_longer

Two arms of `self_or_teacher_small.py`, a stronger teacher that words its
working as the student does and one that words it otherwise, with five times the
budget: 1,200,000 tokens, evaluated every ten steps. Three seeds, two to three
minutes a run on two cores.
"""

import pathlib

from jaxdistill.config import Comparison, read_comparison


def get_config():
  here = pathlib.Path(__file__)
  other = read_comparison(str(here.with_name('self_or_teacher_small.py')), ())
  base = other.base
  base.tokens, base.steps = 1_200_000, 200
  base.eval_every, base.checkpoint_every = 10, 200
  arms = {name: other.arms[f'broad_{name}'] for name in ('stronger', 'foreign')}
  return Comparison(base, arms, (0, 1, 2))

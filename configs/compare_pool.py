"""Does a student pass its teacher, if that answers enough problems?

  jaxdistill compare --config configs/compare_pool.py --workdir runs/pool

(After arXiv 2505.07105, for a model that writes.) The early small base learns
from what the middle one answers to a pool of so many problems: those of the
corpus's kinds (`matched`), additions of two digits (`narrow`), or those of the
ood split as well (`broad`); from its texts (`hard`) or its next-token
distributions on them (`soft`). 64 steps of 80 problems a run, so that the
largest pool is gone through five times; three seeds; about a minute and a half
a run on two cores. What the teacher is worth: `jaxdistill eval --model
small-middle --split test`, and `ood`.
"""

import itertools
import pathlib

from jaxdistill.config import Comparison, read_comparison, system

TASKS = {'matched': 'small', 'narrow': 'small:narrow', 'broad': 'small:broad'}
POOLS = (64, 256, 1024)
LEARNED = {'hard': 'sequence_kd', 'soft': 'word_kd'}


def get_config():
  here = pathlib.Path(__file__)
  other = read_comparison(str(here.with_name('self_or_teacher_small.py')), ())
  base = other.base
  base.model = 'small-early'
  base.steps, base.tokens = 64, 10_000_000  # more tokens than the steps take
  base.eval_every = base.checkpoint_every = 64
  arms = {
    f'{coverage}_{pool}_{kind}': system(LEARNED[kind])
    | {
      'task': TASKS[coverage],
      'pool': pool,
      'method.teacher': 'model:small-middle',
    }
    for coverage, pool, kind in itertools.product(TASKS, POOLS, LEARNED)
  }
  return Comparison(base, arms, (0, 1, 2))

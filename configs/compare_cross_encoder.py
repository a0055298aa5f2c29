"""Does a small cross-encoder pass the model that labels its pairs?

  jaxdistill compare --config configs/compare_cross_encoder.py --workdir runs/ce

(After arXiv 2505.07105.) The teacher is the wide small base, asked for grades;
the student begins from nothing. Arms: how many queries there are to learn from,
what kinds of queries these are, and whether the teacher's grades are soft. What
the teacher itself is worth is `eval/SPLIT/teacher_NAME`, at step 0. About a
minute a run on two cores.
"""

import itertools

from jaxdistill.config import Comparison, base_config

TASKS = {
  'matched': 'small:relevance',
  'narrow': 'small:relevance:narrow',
  'broad': 'small:relevance:broad',
}
POOLS = (64, 128, 512, 4096)


def get_config():
  config = base_config('cross_encoder')
  config.model = 'grader:small-wide-fresh'
  config.roles = 'shared'
  config.task = TASKS['matched']
  config.method.teacher = 'model:small-wide'
  config.steps, config.eval_every = 150, 50
  config.tokens = 10_000_000  # none are generated: the steps are the budget
  config.checkpoint_every = 150
  config.optimizer.lr = 1e-3
  config.optimizer.warmup = 20
  config.optimizer.schedule = 'cosine'
  config.optimizer.steps = 150
  config.optimizer.weight_decay = 0.05
  config.eval.splits = ('test', 'ood')
  config.eval.problems = 100
  config.anchors = {}
  arms = {
    f'{coverage}_{pool}_{"soft" if soft else "hard"}': {
      'task': TASKS[coverage],
      'pool': pool,
      'method.soft': soft,
    }
    for coverage, pool, soft in itertools.product(TASKS, POOLS, (True, False))
  }
  return Comparison(config, arms, (0, 1, 2))

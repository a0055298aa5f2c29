"""SEAL on the small world: edits that teach what a passage says.

  jaxdistill train --config configs/seal_small.py --workdir runs/seal

A round is 12 passages, four rewrites of each, learned twice each: 120 inner
trainings in one program. Two minutes on two cores. `eval/test/accuracy_edited`
is what a model knows of a passage that it is not shown once it has learned one
rewrite of it; `accuracy_passage` once it has learned the passage itself. Edits
are learned without the passage (`with_passage=False`, which the paper has not):
beside it a rewrite by this base, which misstates a fact in five, takes away.
On 24 held-out passages `accuracy_edited` went from .20 to .37 and from .21 to
.28 (two seeds); with `method.choice=random` from .20 to .26 and .21 to .20. The
passage itself gives about .4. A standard error is about .04.
"""

from jaxdistill.config import base_config


def get_config():
  config = base_config('seal')
  config.model = 'small-wide'
  config.task = 'small:passages'
  config.steps = 8
  config.eval_every = 4
  config.checkpoint_every = 4
  config.anchors = {}
  config.guard.every = 0
  config.eval.splits = ('test',)
  config.eval.problems = 24
  config.eval.samples = 1
  config.eval.max_tokens = 4
  config.method.problems = 12
  config.method.samples = 4
  config.method.seeds = 2
  config.method.max_tokens = 48
  config.method.minibatches = 2
  config.method.with_passage = False
  config.method.answer_tokens = 4
  config.method.inner_rank = 8
  config.method.inner_alpha = 16.0
  config.optimizer.lr = 1e-3
  config.batch.length = 40
  config.batch.sequences = 1
  return config

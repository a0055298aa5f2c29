"""Problems of one's own, by filter, or given ones: which to learn from? (C12)

  jaxdistill compare --config configs/compare_cot.py --workdir runs/cot

The early small base learns by GRPO from 64 problems, over and over:

| | |
|---|---|
| `given` | the task's own, with known answers |
| `given_voted` | the same, each time by its votes of the moment |
| `none` | written by itself, with the base's vote as the label |
| `self_consistency` | of those, where more than half of the votes agree |
| `answer_match` | of those, where its likeliest answer is the label |
| `rip` | of those, without the quarter whose worst vote it doubts most |
| `self_play` | none stands still: it writes new ones at every step (SQLM) |

All arms that write build their sets out of 1,024 problems, and have one budget
of tokens, in which that counts: `given` learns for longer. Five seeds; two
minutes a run on one core. What 256 problems of one draw came to, before
anything is learned:

| filter | of 108 labelled | labels right | votes that agree |
|---|---|---|---|
| `none` | 108 | .52 | .40 |
| `self_consistency` | 21 | 1.00 | .69 |
| `answer_match` | 68 | .76 | .47 |
| `rip` | 81 | .62 | .43 |

Where .95 of the labels are right before any filter, as with the middle base
(`compare_cot.py:small-middle`), a filter has little to do.

What the small world cannot say: whether reasoning before a problem is written
makes it a better one. Its bases know no such form, they are asked `propose
TOPIC:`; `cot_qwen05.py` has a model that reasons.
"""

import pathlib

from jaxdistill.config import CONTROLS, Comparison, override, read_config

KEEP = 64
OWN = {
  'method.name': 'cot_self_instruct',
  'method.write': 'propose',
  'method.keep': KEEP,
  'method.problems': 32,
  'method.each': 8,
  'method.build_steps': 4,
  'method.votes': 8,
  'method.write_temperature': 1.0,
  'method.write_top_p': 1.0,
  'method.max_problem_tokens': 16,
}
SELF_PLAY = {'method.name': 'sqlm', 'method.problems': 8}
ARMS = {
  'given': {'pool': KEEP},
  'given_voted': {'pool': KEEP, 'method.name': 'sqlm'}
  | CONTROLS['given_problems'],
  **{
    name: OWN | {'method.filter': name}
    for name in ('none', 'self_consistency', 'answer_match', 'rip')
  },
  'self_play': SELF_PLAY,
}


def get_config(model='small-early'):
  here = pathlib.Path(__file__)
  base = read_config(str(here.with_name('grpo_small.py')), ())
  override(base, {'method.problems': 32, 'method.kl': 0.0}.items())
  base.model = model
  base.tokens, base.steps = 400_000, 120  # more steps than the tokens allow
  base.eval_every = base.checkpoint_every = 120
  base.eval.splits = ('test', 'ood')
  base.eval.problems, base.eval.samples = 256, 8
  base.anchors = {}
  base.guard.every, base.guard.act = 0, False
  base.optimizer.schedule, base.optimizer.warmup = 'constant', 2
  return Comparison(base, ARMS, (0, 1, 2, 3, 4))

"""Itself or a teacher: which is it better to learn from, at what cost?

  jaxdistill compare --config configs/self_or_teacher_small.py \\
    --workdir runs/self_or_teacher

One student, the middle small base, and one budget of 240,000 tokens a run:
those that anybody generates, and those that a teacher scores. It learns from

| | |
|---|---|
| `vote` | itself: paid for agreeing with most of its samples (no label) |
| `by_heart` | itself: its samples that agree with most, by heart (no label) |
| `answer`, `solution` | itself, where it has read the answer, or a solution |
| `past` | itself: its own samples as it began, whatever they are |
| `weaker`, `equal`, `stronger` | the samples of another base, by heart |
| `voted` | those of the stronger one that agree with most of them |
| `foreign` | those of one as strong that words its working otherwise |
| `on_policy` | its own, each token of which the stronger base judges (GKD) |
| `truth`, `kept` | paid for right answers (GRPO); its right ones by heart |
| `given` | the given solutions (SFT) |

on problems of three kinds: `matched` (the mix that it was pretrained on),
`narrow` (additions of two digits), `broad` (what is rare or absent in that mix
as well): arms are `matched_vote`, `narrow_vote`, ... A run ends with the step
that reaches its budget. Five seeds; about half a minute a run on two cores, two
hours in all.
"""

import pathlib

from jaxdistill.config import (
  CONTROLS,
  Comparison,
  override,
  read_config,
  system,
)

COVERAGES = {
  'matched': 'small',
  'narrow': 'small:narrow',
  'broad': 'small:broad',
}


def taught_by(teacher):
  """Keys of a run that learns the texts of a teacher by heart."""
  return system('sequence_kd') | {'method.teacher': teacher}


ARMS = {
  'vote': {'method.name': 'sqlm', 'method.kl': 0.0}
  | CONTROLS['given_problems'],
  'by_heart': system('rft_vote'),
  'answer': system('sdft') | {'method.context': 'answer'},
  'solution': system('sdft'),
  'past': taught_by('frozen'),
  'weaker': taught_by('model:small-early'),
  'equal': taught_by('model:small-peer'),
  'stronger': taught_by('model:small-late'),
  'voted': taught_by('model:small-late') | {'method.judge': 'vote'},
  'foreign': taught_by('model:small-foreign'),
  'truth': {'method.name': 'grpo', 'method.kl': 0.0},
  'kept': system('rft'),
  'on_policy': system('gkd')
  | {'method.on_policy': 1.0, 'method.teacher': 'model:small-late'},
  # As many steps as most: its texts cost nobody a token.
  'given': {'method.name': 'sft', 'method.problems': 640, 'steps': 14},
}


def get_config():
  here = pathlib.Path(__file__)
  base = read_config(str(here.with_name('grpo_small.py')), ())
  override(base, {'method.kl': 0.0}.items())
  base.model = 'small-middle'
  base.tokens, base.steps = 240_000, 40  # more steps than the tokens allow
  base.eval_every = base.checkpoint_every = 40
  base.eval.splits = ('test', 'ood')
  base.eval.problems, base.eval.samples = 400, 8
  base.anchors = {}
  base.guard.every, base.guard.act = 0, False
  base.optimizer.schedule, base.optimizer.warmup = 'constant', 2
  arms = {
    f'{coverage}_{name}': {'task': task} | keys
    for coverage, task in COVERAGES.items()
    for name, keys in ARMS.items()
  }
  return Comparison(base, arms, (0, 1, 2, 3, 4))

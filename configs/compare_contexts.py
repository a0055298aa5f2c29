"""What a self-teacher is told, and what it costs: two claims of the field.

  jaxdistill compare --config configs/compare_contexts.py \
    --workdir runs/contexts

Does self-distillation take a model's doubts and cost accuracy elsewhere, and
the more so the more its teacher is told (arXiv 2603.24472)? The middle small
base, 240,000 tokens a run. `grpo` has no teacher. Arms with the name of a
context (`none` to `wrong`) are `self_distill` whose frozen teacher is told so
much, where it is a solution that of a right sibling; `full_ema` has a teacher
that follows. `kept` learns right answers by heart, `kept_short` the two
shortest of a problem (a control for length), `kept_undoubting` all of them with
their doubts taken out (a control for markers). Five seeds; half a minute a run
on two cores, forty minutes in all.
"""

import pathlib

from jaxdistill.config import Comparison, read_comparison, system
from jaxdistill.rollout import contexts


def get_config():
  here = pathlib.Path(__file__)
  other = read_comparison(str(here.with_name('self_or_teacher_small.py')), ())
  told = system('sdft') | {
    'method.solution': 'sibling',
    'method.teacher': 'frozen',
  }
  arms = {
    'grpo': {'method.name': 'grpo', 'method.kl': 0.0},
    **{name: told | {'method.context': name} for name in contexts.NAMES},
    'full_ema': told | {'method.teacher': 'ema:0.9'},
    'kept': system('rft'),
    'kept_short': system('rft') | {'method.most': 2},
    'kept_undoubting': system('rft') | {'method.undoubting': True},
  }
  return Comparison(other.base, arms, (0, 1, 2, 3, 4))

"""Does calibration-aware self-distillation recover accuracy abroad?

  jaxdistill compare --config configs/compare_calibration.py \\
    --workdir runs/calibration

The first stage of protocol b in docs/questions.md on the middle small base: a
frozen self-teacher that reads a clean solution; weights by its entropy; a
policy gradient on being right beside it (`rewarded`), and on that less the
Brier score of an answer's confidence (`calibrated`); words of doubt left out,
or as many tokens at random. `short` is GRPO with a penalty from the length of
the self-taught on: brevity without a teacher. Twelve steps a run: what is
scored is not made equal, see the protocol. Ten seeds (`--seeds 0,1,2,3,4` for
half of them); half a minute a run. On the late base:
`--config.model=small-late`.
"""

import pathlib

from jaxdistill.config import Comparison, read_comparison, system


def get_config():
  here = pathlib.Path(__file__)
  other = read_comparison(str(here.with_name('self_or_teacher_small.py')), ())
  base = other.base
  base.eval.markers = ('wait',)
  base.steps, base.tokens = 12, 10_000_000  # more tokens than the steps take
  plain = system('sdft') | {
    'method.teacher': 'frozen',
    'method.alpha': 0.5,
  }
  grpo = {'method.name': 'grpo', 'method.kl': 0.0}
  arms = {
    'plain': plain,
    'grpo': grpo,
    'entropy': plain | {'method.entropy': 1.0},
    'rewarded': plain | {'method.rewarded': 1.0},
    'calibrated': plain | {'method.rewarded': 1.0, 'method.calibration': 1.0},
    'markers': plain | {'method.spare': 'markers'},
    'random_mask': plain | {'method.spare': 'random'},
    'short': grpo | {'method.max_tokens': 48, 'method.overlong': 24},
  }
  return Comparison(base, arms, tuple(range(10)))

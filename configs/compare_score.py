"""Is correcting oneself learned offline, or on one's own attempts only (C3)?

  jaxdistill compare --config configs/compare_score.py --workdir runs/c3

The wide small base as `score_small.py` has it, 700,000 tokens a run: those that
anybody generates and those that the base scores. All arms report both turns,
see there. What prompting alone gives is the first value of each.

| | |
|---|---|
| `score` | SCoRe: both stages, and shaping |
| `no_stage1`, `no_shaping` | without the one or the other |
| `plain` | without both: reinforcement of two turns |
| `single_turn` | reinforcement of the first turn alone |
| `star`, `pairs` | right attempts after wrong ones, of the base, by heart |
| `star_kept`, `pairs_kept` | and right ones after right ones |

Three seeds; three minutes a run on one core. What came out: docs/evidence.md,
C3.
"""

import pathlib

from jaxdistill.config import Comparison, read_config, system


def get_config():
  here = pathlib.Path(__file__)
  base = read_config(str(here.with_name('score_small.py')), ())
  base.tokens, base.steps = 700_000, 80  # as many as `pairs` takes for that
  base.eval_every = base.checkpoint_every = 80
  base.eval.problems = 128
  base.guard.every, base.guard.act = 0, False
  base.optimizer.schedule, base.optimizer.warmup = 'constant', 2
  kept = {'method.kept_right': True}
  arms = {
    'score': {},
    'no_stage1': {'method.stage1_steps': 0},
    'no_shaping': {'method.alpha': 0.0},
    'plain': {'method.stage1_steps': 0, 'method.alpha': 0.0},
    # Where there is one turn nothing reads how two are split.
    'single_turn': {'method.turns': 1, 'method.stage1_steps': 20},
    'star': system('star'),
    'star_kept': system('star') | kept,
    'pairs': system('pair_sft'),
    'pairs_kept': system('pair_sft') | kept,
  }
  return Comparison(base, arms, (0, 1, 2))

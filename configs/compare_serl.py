"""Can a model judge itself? SERL, its parts, and two controls (claim C10).

  jaxdistill compare --config configs/compare_serl.py --workdir runs/serl

The small base that judges (see `serl_small.py` for one that does not), 160,000
tokens a run, those of evaluations not counted.

| | |
|---|---|
| `serl` | all of it |
| `released` | nearer the code: no rule of consistency, the judge first |
| `no_actor`, `no_judge` | only the judge learns, only the actor |
| `one_order` | pairs are shown in one order |
| `no_band` | no control of length |
| `no_rule` | a pair pays whose verdict turns with the order |
| `random` | a coin says who wins: what training on oneself does by itself |
| `known` | the known answer does: an upper bound |
| `by_chance` | all of it, of `small-wide`, which judges by chance |

What decides: `eval/test/win_rate`, by the base as a fixed judge (another by
`--config.method.examiner=model:NAME`), `eval/test/fixed_judge_accuracy` on
labelled pairs of the base's responses with `fixed_judge_flips`, `length`; and
accuracy, which the small world knows. Five seeds.
"""

import pathlib

from jaxdistill.config import Comparison, read_config

STEPS = 40

ARMS = {
  'serl': {},
  'released': {'method.orders': 'both', 'method.ramp': STEPS // 2},
  'no_actor': {'method.share': 0.0},
  'no_judge': {'method.share': 1.0},
  'one_order': {'method.orders': 'one'},
  'no_band': {'method.band': 0.0},
  'no_rule': {'method.orders': 'both'},
  'random': {'method.verdicts': 'random'},
  'known': {'method.verdicts': 'known'},
  'by_chance': {'model': 'small-wide'},
}


def get_config():
  here = pathlib.Path(__file__)
  base = read_config(str(here.with_name('serl_small.py')), ())
  base.tokens, base.steps = 160_000, 60  # more steps than the tokens allow
  base.eval_every = base.checkpoint_every = 60
  base.model = 'small-judge'
  base.eval.splits, base.eval.problems = ('test',), 192
  base.optimizer.schedule, base.optimizer.warmup = 'constant', 2
  return Comparison(base, ARMS, (0, 1, 2, 3, 4))

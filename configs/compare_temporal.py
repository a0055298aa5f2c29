"""Do old rejected and future chosen answers keep the preference signal alive?

  jaxdistill compare --config configs/compare_temporal.py:JUDGE \\
    --workdir runs/temporal

One student, the middle small base, 240,000 tokens a run: those that anybody
generates, the past and the future self too. It judges its own answers by JUDGE,
`vote` or `yes` (see `rollout/verify.py`), and learns to prefer the best to the
worst:

| | chosen | rejected |
|---|---|---|
| `self_rewarding` | own | own |
| `past` | own | of the base, if worse |
| `future` | of a self one update ahead, if better | own |
| `both` | as `future` | as `past` |
| `both_ipo` | the same by IPO, whose margin has an aim | |
| `random` | `both`, where the judge knows nothing | |
| `known` | `both`, where it makes no mistakes | |

`tsr/score_gap` is what a pair's halves are apart, `tsr/own_gap` what they would
be if both were own; where no score is above another there is no pair, so look
at `tsr/pairs` as well. What came out by `vote`: docs/evidence.md, C11. By `yes`
the base judges at chance and likes length: greedy accuracy fell from .88 to .53
in three steps of `both`. How often answers are better than the base's:
`launch/reproduce/win_rate.py --runs runs/temporal`. Five seeds; a minute and a
half a run on one core.
"""

import pathlib

from jaxdistill.config import Comparison, read_comparison, system


def get_config(judge='vote'):
  here = pathlib.Path(__file__)
  other = read_comparison(str(here.with_name('self_or_teacher_small.py')), ())
  base = other.base
  base.optimizer.lr = 1e-4  # by DPO with 4e-4 greedy accuracy is lost
  base.eval.problems = 256
  own = {'method.judge': judge, 'method.problems': 64}
  both = system('tsr') | own
  arms = {
    'self_rewarding': system('self_rewarding') | own,
    'past': both | {'method.future': False},
    'future': both | {'method.past': ''},
    'both': both,
    'both_ipo': both | {'method.preference': 'ipo'},
    'random': both | {'method.judge': 'random'},
    'known': both | {'method.judge': 'known'},
  }
  return Comparison(base, arms, (0, 1, 2, 3, 4))

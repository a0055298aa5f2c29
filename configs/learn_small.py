"""Learning from oneself, or from a teacher, on the middle small base.

  jaxdistill train --config configs/learn_small.py:sdpo --workdir runs/sdpo

What stands behind the colon is a published system:

| | learns from |
|---|---|
| `sdpo`, `srpo` | itself, where it has read a right sibling |
| `opsd`, `sdft` | itself, where it has read the solution |
| `u_opsd` | itself, where it has read what the vote takes for right: no label |
| `rlcsd` | a verifier, weighed by a right hint against wrong ones |
| `ssd` | all its own samples |
| `rft`, `rft_vote` | those that are right, or agree with the vote |
| `opsa` | nobody: its unlikely tokens are made less likely |
| `gkd`, `on_policy_kd`, `minillm` | a teacher's word on the student's answers |
| `sequence_kd`, `word_kd` | a teacher's answers |
| `offline_kd` | a teacher's answers, from a folder (`jaxdistill targets`) |
| `reflection` | its own answers, or a teacher's refinements where better |
| `style_aligned` | its own answers, put right and gone on from by itself |
| `score` | its own second attempts, after its own first ones |
| `star`, `pair_sft` | those of its past self, after that one's first ones |
| `self_rewarding` | its best against its worst answer, by its vote |
| `tsr` | the same, the best of a future and the worst of a past self |

What makes second attempts begins as the wide small base, which has seen some.
The teacher is `small-late` (`--config.method.teacher=model:NAME`). 20 steps of
80 problems, 8 answers each; about a minute on two cores. What `offline_kd`
learns from is written first, and is its pool:

  jaxdistill targets --model small-late --problems 400 --out late
  ... learn_small.py:offline_kd --config.method.targets=late --config.pool=400
"""

import pathlib

from jaxdistill.config import override, read_config, system


def get_config(name='sdpo'):
  here = pathlib.Path(__file__)
  config = read_config(str(here.with_name('grpo_small.py')), ())
  override(config, system(name).items())
  corrects = config.method.name in ('score', 'pair_sft')
  config.model = 'small-wide' if corrects else 'small-middle'
  if name == 'reflection':  # given ones are flawless, and filters drop most
    keys = {'author': 'base', 'useful': False, 'only_refined': False}
    override(config, {f'method.{k}': v for k, v in keys.items()}.items())
  config.anchors = {}
  if config.method.get('judge') == 'score':  # no small base writes a check
    config.method.judge = 'vote'  # and by its yes this one falls
  return config

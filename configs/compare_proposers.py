"""What keeps a proposer useful? Its weights, its turns, its words.

  jaxdistill compare --config configs/compare_proposers.py \\
    --workdir runs/proposers

The middle small base and the budget of `compare_middle.py`. Arms: `sqlm`, whose
proposer and solver share a trunk; `separate`, of which they share nothing that
moves; `lora`, a control, whose weights are as few and all shared; `turns`, in
which now the one is trained and now the other (R-Zero, arXiv 2508.05004, has
turns of separate models: `separate_turns`); `dropout`, whose proposer may not
use a tenth of its words at each step (arXiv 2604.03472). What to read:
`selfplay/vote_accuracy`, published as .71 with two sets of weights and .63 with
one, and `selfplay/distinct`. A guide (arXiv 2604.20209) needs a model of words:
`sqlm_guided_qwen05.py`. Three seeds, two minutes a run on one core
(`results/proposers`).
"""

import pathlib

from jaxdistill.config import Comparison, read_comparison

SEPARATE = {
  'trainable': 'roles',
  'roles': 'adapter',
  'rank': 128,  # of the model's width: any change of a map can be said
  'alpha': 128.0,
}
TURNS = {'method.alternate': (2, 6), 'method.propose_every': 1}


def get_config():
  here = pathlib.Path(__file__)
  base = read_comparison(str(here.with_name('compare_middle.py')), ()).base
  arms = {
    'sqlm': {},
    'separate': SEPARATE,
    'lora': SEPARATE | {'trainable': 'lora', 'roles': 'shared'},
    'alternate': TURNS,
    'separate_turns': SEPARATE | TURNS,
    'dropout': {'method.dropout': 0.1},
  }
  return Comparison(base, arms, (0, 1, 2))

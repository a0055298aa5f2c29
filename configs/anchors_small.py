"""Does every gain that lasts smuggle in an anchor? (C8.)

  jaxdistill compare --config configs/anchors_small.py --workdir runs/anchors
  jaxdistill compare --config configs/anchors_small.py:1e-4 --workdir runs/slow

The middle small base teaches itself for 200 steps, held by nothing or by one
thing that it does not move itself:

| | what holds it |
|---|---|
| `none` | nothing |
| `first` | a divergence from itself as it began |
| `past`, `best` | from itself at every 20th step; at its best |
| `past_writes` | past selves that write the problems |
| `own_judge` | nothing: it learns what it says yes to itself |
| `past_judge` | itself as it began, which says yes |
| `other_judge` | `small-judge`, which does |
| `own_rejected` | nothing: it prefers its best answers to its worst |
| `past_rejected` | to the worst of itself as it began |
| `tool` | arithmetic: its own problems, with their known answers |
| `known_5_percent` | one known answer in twenty |

What decides is held-out accuracy at the last step, and how many seeds end below
where they began. A step has a quarter of the quickstart's problems. The guard
watches and does not act. Ten seeds; two to three minutes a run on one core,
five hours of one in all: several may share it, see `jaxdistill compare --help`.
The rate, constant here, was chosen for 20 steps of SQLM: the arms by heart and
by preference are at nought within 50 steps, whoever judges (`results/anchors`).
At a quarter of it they differ, and SQLM falls no more
(`results/anchors_gentle`).
"""

import pathlib

from jaxdistill.config import CONTROLS, Comparison, read_comparison, system


def get_config(lr='4e-4'):
  here = pathlib.Path(__file__)
  base = read_comparison(str(here.with_name('compare_middle.py')), ()).base
  base.steps, base.tokens = 200, 50_000_000  # the steps are what ends it
  base.eval_every = base.checkpoint_every = 50
  base.eval.splits = ('test', 'ood')
  base.eval.problems, base.eval.samples = 200, 4
  base.method.problems = 5  # of which 20 proposals
  base.optimizer.schedule, base.optimizer.lr = 'constant', float(lr)
  yes = system('rft_yes') | {'method.problems': 16}
  vote = {'method.judge': 'vote', 'method.problems': 16}
  arms = {
    'none': {'method.kl': 0.0},
    'first': {},
    'past': {'method.reference': 'every:20'},
    'best': {
      'method.reference': 'best:dev/accuracy_greedy',
      'eval.splits': ('dev', 'test', 'ood'),
    },
    'past_writes': {
      'method.propose_every': 0,
      'method.proposer': 'league:20',
      'method.kl': 0.0,
    },
    'own_judge': yes,
    'past_judge': yes | {'method.verifier': 'frozen'},
    'other_judge': yes | {'method.verifier': 'model:small-judge'},
    'own_rejected': system('self_rewarding') | vote,
    'past_rejected': system('tsr') | vote | {'method.future': False},
    'tool': CONTROLS['known_answers'] | {'method.kl': 0.0},
    'known_5_percent': {'method.known': 0.05, 'method.kl': 0.0},
  }
  return Comparison(base, arms, tuple(range(10)))

"""Whose edits teach best, and what does training to write them add? (C1.)

  jaxdistill compare --config configs/compare_seal.py --workdir runs/seal_arms
  jaxdistill compare --config configs/compare_seal.py:MODEL --workdir ...

Arms on the small world, as `seal_small.py` has it, with five seeds, two to
four minutes of one core a run:

| | what is learned of edits |
|---|---|
| `seal` | SEAL: the best of each passage, if it gains anything |
| `random` | as many of the same passages at random |
| `any` | the best of each, whatever it is worth (the published code) |
| `matched` | as `seal`; every edit is learned as equally many tokens |
| `given` | edits without mistakes, by the world itself |
| `passage` | as `seal`; each is learned beside its passage (the paper's form) |
| `other` | with a MODEL, as of `edits_small.py`: the best of its edits |

What to read, of all arms: `eval/test/accuracy_edited`, answers without the
passage after one edit of it is learned, at step 0 an untrained writer's;
`accuracy_passage`, after the passage alone; `accuracy_greedy`, after nothing.
Of `given` it is the world's edits that are evaluated; of `other` the policy's,
and `seal/score` is of the other model's.
"""

import pathlib

from jaxdistill.config import Comparison, read_config


def get_config(writer=''):
  here = pathlib.Path(__file__)
  base = read_config(str(here.with_name('seal_small.py')), ())
  base.tokens = 17_000  # edits and answers of eight steps
  base.eval.problems = 48
  arms = {
    'seal': {},
    'random': {'method.choice': 'random'},
    'any': {'method.gain': False},
    'matched': {'method.matched': 23},
    'given': {'method.writer': 'given', 'method.samples': 1},
    'passage': {'method.with_passage': True, 'batch.length': 64},
  }
  if writer:
    arms['other'] = {'method.writer': f'model:{writer}'}
  return Comparison(base, arms, (0, 1, 2, 3, 4))

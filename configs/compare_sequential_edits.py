"""Eight edits one after another: what is forgotten, and what keeps it.

  jaxdistill compare --config configs/compare_sequential_edits.py \\
    --workdir runs/edits

One passage after another of the small world is learned and added to the
weights. Of each arm `edits/now` is what is known of a passage right after its
edit, `edits/earlier` of those before, `edits/forgotten` what those have lost
since their own edits; the rows of the matrix are in the transcripts. Each edit
is learned beside its passage, as in the paper. `replay` learns two earlier
edits again beside each, `kl` holds the model to the first one on the tokens of
all that is learned, `passage` learns passages without edits. Ten seeds; all
arms take eight steps.
"""

import pathlib

from jaxdistill.config import Comparison, read_config


def get_config():
  here = pathlib.Path(__file__)
  base = read_config(str(here.with_name('seal_small.py')), ())
  base.tokens = 1_000_000  # more than eight steps take
  base.steps = base.eval_every = base.checkpoint_every = 8
  base.batch.length = 64
  one = {
    'method.name': 'sequential_edits',
    'method.problems': 1,
    'method.seeds': 1,
    'method.with_passage': True,
  }
  arms = {
    'plain': one,
    'replay': one | {'method.replay': 2},
    'kl': one | {'method.kl': 0.3},
    'both': one | {'method.replay': 2, 'method.kl': 0.3},
    'passage': one | {'method.learn': 'passage'},
  }
  return Comparison(base, arms, tuple(range(10)))

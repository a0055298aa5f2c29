"""A real model's own answers, refined by a larger one and chosen by itself.

  jaxdistill train --config configs/reflection_qwen05.py:TEACHER \\
    --workdir runs/reflection_qwen05 --config.model=DIRECTORY

Qwen2.5-Coder-0.5B-Instruct on three-digit addition, as
`sqlm_qwen05_addition.py` has it; Qwen2.5-Coder-1.5B-Instruct criticises its
answers and writes better ones, by the words of `WORDINGS['reflect']`, and the
student keeps the pair of higher IFD, then that of lower r-IFD, and learns it.
DIRECTORY and TEACHER are directories in Hugging Face's layout; without them
both are fetched from the hub. No answer is read but to measure.

Not run yet. A step draws 32 answers, and 32 reflections of at most 96 tokens in
each phase, which is most of it: expect two minutes a step on two cores. Look at
`reflection/refined_1` (0: the teacher does not write the mark `Better answer:`;
raise `method.max_tokens`), at `reflection/right_original` beside
`right_refined`, and at `reflection/learned`: answers of a few digits seldom
have an r-IFD below 1 (`--config.method.useful=False` learns them all).
"""

import pathlib

from jaxdistill.config import override, read_config, system


def get_config(teacher='hf:Qwen/Qwen2.5-Coder-1.5B-Instruct'):
  here = pathlib.Path(__file__)
  config = read_config(str(here.with_name('sqlm_qwen05_addition.py')), ())
  override(config, system('reflection').items())
  config.anchors = {}
  config.steps = 20
  config.eval_every = 10
  config.eval.problems = 256
  config.optimizer.steps = 60
  config.method.teacher = f'model:{teacher}'
  config.method.author = 'base'
  config.method.problems = 32
  config.method.max_tokens = 96
  return config

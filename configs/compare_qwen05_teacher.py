"""A real model without labels: itself by vote, in three ways, or a teacher?

  jaxdistill compare --config configs/compare_qwen05_teacher.py:TEACHER \\
    --workdir runs/qwen05_teacher --config.model=DIRECTORY

Qwen2.5-Coder-0.5B-Instruct on three-digit addition, as
`sqlm_qwen05_addition.py` has it, with the problems given and no answer read. It
learns from its majority votes by a policy gradient (`vote`), by reading them as
its own teacher on the answers that disagree (`u_opsd`), by learning the answers
that agree by heart (`rft_vote`); or from Qwen2.5-Coder-1.5B-Instruct on its own
answers (`teacher`). DIRECTORY and TEACHER are directories in Hugging Face's
layout; without them both are fetched from the hub. 30,000 tokens a run, two
seeds; about 15 s a step on two cores, twice that with the teacher.
"""

import pathlib

from jaxdistill.config import CONTROLS, Comparison, read_config, system


def get_config(teacher='hf:Qwen/Qwen2.5-Coder-1.5B-Instruct'):
  here = pathlib.Path(__file__)
  base = read_config(str(here.with_name('sqlm_qwen05_addition.py')), ())
  base.tokens, base.steps = 30_000, 45  # more steps than the tokens allow
  base.guard.every, base.guard.act = 0, False
  common = {'method.problems': 32, 'method.kl': 0.0}
  top = {'method.support': 'student', 'method.support_k': 100}
  arms = {
    'vote': CONTROLS['given_problems'] | common,
    'u_opsd': system('u_opsd') | common | top,
    'rft_vote': system('rft_vote') | {'method.problems': 32},
    'teacher': system('gkd')
    | common
    | top
    | {'method.on_policy': 1.0, 'method.teacher': f'model:{teacher}'},
  }
  return Comparison(base, arms, (0, 1))

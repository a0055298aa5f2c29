"""A real model reasons, writes new problems, and learns from those it trusts.

  jaxdistill train --config configs/cot_qwen05.py --workdir runs/cot_qwen05 \\
    --config.model=DIRECTORY

Qwen2.5-Coder-0.5B-Instruct is shown two three-digit sums, plans, writes a new
one and its answer (`--config.method.write=instruct_plainly` does without
reasoning); 6 steps write 576. Of those the first 128 whose answer is also what
most of 8 votes say are learned from by GRPO, as `sqlm_qwen05_addition.py` has
it; `--config.method.filter` is `none`, `self_consistency` or `rip` beside.

DIRECTORY is the model in Hugging Face's layout; without `--config.model` it is
fetched from the hub. Not run yet: by what a step of that file takes (25 s on
two cores, 10 GB), and about ten times its tokens in a step that writes with
reasoning, an hour. Expect few problems to be kept: a model this small often
does not end as it is told to (`cot_self_instruct/malformed`), or adds wrongly
when it writes. Where fewer than `method.keep` pass, it writes for 6 steps more;
then the run ends and says how many did: write more (`method.each`).
"""

import pathlib

from jaxdistill.config import override, read_config


def get_config():
  here = pathlib.Path(__file__)
  config = read_config(str(here.with_name('sqlm_qwen05_addition.py')), ())
  override(
    config,
    {
      'method.name': 'cot_self_instruct',
      'method.write': 'instruct_and_answer',
      'method.filter': 'answer_match',
      'method.keep': 128,
      'method.problems': 24,
      'method.each': 4,
      'method.build_steps': 6,
      'method.votes': 8,
      'method.max_problem_tokens': 256,
    }.items(),
  )
  config.steps = config.eval_every = 36
  return config

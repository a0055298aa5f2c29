"""Refined by a stronger model, and chosen by the student: what is it worth?

  jaxdistill compare --config configs/compare_reflection.py \\
    --workdir runs/reflection

Selective Reflection-Tuning (arXiv 2402.10110) on the middle small base, whose
own answers are refined and learned by heart. `original` learns them as they
are, `refined` always what `small-late` makes of them in two phases; `random`,
`ifd`, `r_ifd`, `perplexity` and `both` (the paper) choose between the two,
`strict` also drops what the authors' code does. `foreign` and
`foreign_perplexity` have a teacher that words its working otherwise.

Is better data better for this student (arXiv 2606.16152)? In `style_aligned`
the task tells what is right of an answer and puts its first mistake right, and
the student goes on; in `told` and `told_foreign` a teacher reads the same.
These three read known answers, the others none. `eval/test/right_refined` and
`perplexity_refined` say what their data are worth, and to whom. 240,000 tokens
a run, those included that the student scores; five seeds.
"""

import pathlib

from jaxdistill.config import Comparison, override, read_comparison, system

CHOICES = (
  *('original', 'refined', 'random', 'ifd', 'r_ifd', 'perplexity', 'both'),
)


def get_config():
  here = pathlib.Path(__file__)
  base = read_comparison(
    str(here.with_name('self_or_teacher_small.py')), ()
  ).base
  all_kept = {'method.useful': False, 'method.only_refined': False}
  keys = system('reflection') | all_kept
  keys |= {'method.author': 'base', 'method.epochs': 1}
  override(base, keys.items())
  base.method.problems = 256
  base.eval.problems = 200
  told = system('style_aligned') | {'method.epochs': 1}
  told |= {'method.choose': 'second'}
  foreign = {'method.teacher': 'model:small-foreign'}
  arms = {
    **{name: {'method.choose': name} for name in CHOICES},
    'strict': {'method.useful': True, 'method.only_refined': True},
    'foreign': foreign | {'method.choose': 'refined'},
    'foreign_perplexity': foreign | {'method.choose': 'perplexity'},
    'told': told | {'method.writer': 'teacher'},
    'told_foreign': told | foreign | {'method.writer': 'teacher'},
    'style_aligned': told,
  }
  return Comparison(base, arms, (0, 1, 2, 3, 4))

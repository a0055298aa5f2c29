"""Fit, coverage, verifier: which of the three decides what a teacher is worth?

  jaxdistill compare --config configs/compare_fit_coverage_verifier.py \\
    --workdir runs/factorial

A full factorial on the middle small base, which learns a teacher's answers by
heart: a teacher that words its working as the student does (`own`) or otherwise
(`foreign`), both as strong; problems of two-digit sums (`narrow`) or of all
kinds (`broad`); and of the answers all (`none`), those that agree with the vote
of the teacher's eight (`vote`), or those that are right (`known`). 240,000
tokens a run, five seeds; half a minute a run on two cores, half an hour in all.
`launch/reproduce/factorial.py` takes the effects apart.
"""

import itertools
import pathlib

from jaxdistill.config import Comparison, read_comparison, system

TEACHERS = {'own': 'model:small-late', 'foreign': 'model:small-foreign'}
TASKS = {'narrow': 'small:narrow', 'broad': 'small:broad'}
JUDGES = ('none', 'vote', 'known')


def get_config():
  here = pathlib.Path(__file__)
  other = read_comparison(str(here.with_name('self_or_teacher_small.py')), ())
  arms = {
    f'{wording}_{coverage}_{judge}': system('sequence_kd')
    | {
      'task': TASKS[coverage],
      'method.teacher': TEACHERS[wording],
      'method.judge': judge,
    }
    for wording, coverage, judge in itertools.product(TEACHERS, TASKS, JUDGES)
  }
  return Comparison(other.base, arms, (0, 1, 2, 3, 4))

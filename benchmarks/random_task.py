"""The task of `--random`: the config's problems, answers right by chance.

A random model answers nothing rightly, and no answer of its ends: ours reads no
final answer out of those that are cut. So what is right is decided before, by a
hash of the problem and of the answer's place among its siblings, for all sides.
"""

import hashlib

from jaxdistill.data.tasks.arithmetic import ArithmeticTask

RIGHT = 0.6


class Chance(ArithmeticTask):
  """Arithmetic, paid by chance."""

  def reward(self, problem, answers_G):
    return [float(_chance(problem.text, g)) for g in range(len(answers_G))]


def _chance(text: str, place: int) -> bool:
  digest = hashlib.sha256(f'{text} {place}'.encode()).digest()
  return int.from_bytes(digest[:8]) < RIGHT * 2**64


task = Chance('add', (3, 3))

"""The task of `small_step.py`, as jaxdistill reads it."""

import time

import small_step

from jaxdistill.types import Problem, Task


class Words(Task):
  """Random prompts, and a reward that costs nothing.

  Attributes:
    seen: When each reward of a training problem was asked for.
  """

  name = 'small'

  def __init__(self):
    self.seen: list[float] = []

  def problems(self, split):
    texts = small_step.prompts()
    return [Problem(text, self, answer=split) for text in texts]

  def solver_prompt(self, problem):
    return problem.text

  def parse_answer(self, text):
    return text

  def reward(self, problem, answers_G):
    if problem.answer == 'train':  # the others are evaluated on
      self.seen.append(time.perf_counter())
    return small_step.pay(len(answers_G))


task = Words()

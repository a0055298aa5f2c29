"""Somebody who answers, and again, as a script has it."""

import dataclasses

import numpy as np
from scripted import (
  CUT,
  TASK,
  Anchor,
  Scripted,
  collected_by,
  ids,
  said,
  words,
)

from jaxdistill.config.keys import filled
from jaxdistill.methods.score import Score
from jaxdistill.types import Problem

ASKED = TASK.worded('revise').text


PROBLEMS = [
  Problem('1+6', TASK, '7', address=4),
  Problem('2+3', TASK, '5', address=5),
]


FIRST = {
  'solve 1+6': ['a=7', 'a=8', 'c=8', 'd=7'],
  'solve 2+3': ['a=5', f'a=5{CUT}', 'a=6', 'x'],
}


SECOND = {
  # Kept, put right, left wrong, spoilt.
  **{'a=7': 'b=7', 'a=8': 'b=7', 'c=8': 'b=9', 'd=7': 'b=8'},
  # Kept; what was cut has none; put right; cut.
  **{'a=5': 'b=5', 'a=6': 'b=5', 'x': f'b=5{CUT}'},
}


class Reviser(Anchor):
  """Answers, goes on after that as its script has it, and scores."""

  def __init__(self, first=FIRST, second=SECOND):
    super().__init__()
    for name, value in {
      'first': Scripted(first),
      'second': second,
      'revised': [],
    }.items():
      object.__setattr__(self, name, value)

  @property
  def asked(self):
    return self.first.asked

  def generate(self, prompts_P, sampling, key):
    drawn_PG = self.first.generate(prompts_P, sampling, key)
    return [drawn_G[: sampling.samples] for drawn_G in drawn_PG]

  def follow_up(self, rollouts, observations, sampling, key):
    del key
    self.revised += [(r.text, sampling) for r in rollouts]
    return [
      [self._after(r, told)]
      for r, told in zip(rollouts, observations, strict=True)
    ]

  def _after(self, first, told):
    if first.finish == 'length':
      return first
    second, between = said(first.prompt, self.second[first.text]), ids(told)
    parts = first.tokens_T, between, second.tokens_T
    lengths = [*map(len, parts)]
    zeros = np.zeros(len(between), np.float32)
    return dataclasses.replace(
      second,
      tokens_T=np.concatenate(parts),
      logp_T=np.concatenate([first.logp_T, zeros, 2 * second.logp_T]),
      kept_T=np.zeros(sum(lengths), np.float32),
      turn_T=np.repeat([0, -1, 1], lengths).astype(np.int32),
      earlier=(first.text,),
    )

  @property
  def tokenizer(self):
    return self

  def turn(self, text, think=None):
    assert think is None
    return ids(text).tolist()


def collect(kind=Score, step=0, problems=PROBLEMS, first=FIRST, **changes):
  few = {'problems': 2, 'samples': 4, 'stage1_steps': 3}
  known = {f.name for f in dataclasses.fields(kind)}
  few = {k: v for k, v in few.items() if k in known}
  method = filled(kind, few | changes)
  policy, base = Reviser(first), Reviser(first)
  players = {'policy': policy, 'base': base}
  found = collected_by(method, players, problems, method.init(), step)
  return found, policy, base


def by_words(row_set):
  return {words(row): row for row in row_set.rows}


def asked_for(text, first):
  return f'solve {text}{first}{ASKED}'

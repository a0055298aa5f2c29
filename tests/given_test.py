"""Votes on given problems (TTRL): self-play's control between it and labels."""

import dataclasses

import pytest
from methods_test import (
  SCRIPT,
  TASK,
  Anchor,
  Scripted,
  by_text,
  collected_by,
  normalised,
)

from jaxdistill.config import CONTROLS
from jaxdistill.config.keys import filled
from jaxdistill.methods.sqlm import Sqlm

GIVEN = [
  dataclasses.replace(TASK.parse_problem(text), address=row)
  for text, row in (('1+6', 4), ('2+3', 5))
]


def collected():
  method = Sqlm(problems=2, samples=4, given=True, propose_every=0)
  policy = Scripted(SCRIPT)
  players = {'policy': policy, 'base': Anchor()}
  return collected_by(method, players, GIVEN, method.init()), policy


def test_the_task_s_problems_are_asked_and_voted_on():
  found, policy = collected()
  ((prompts, sampling),) = policy.asked  # nothing was proposed
  assert [(p.role, p.text, p.address) for p in prompts] == [
    ('solver', 'solve 1+6', 4),
    ('solver', 'solve 2+3', 5),
  ]
  assert sampling.samples == 4
  (update,) = found.updates
  rows = by_text(update.sets[0].rows)
  right, wrong = normalised(1, 1, 1, 0)[[0, 3]]
  assert rows['solve 1+6|a=7'].fields['advantage'][0] == pytest.approx(right)
  assert rows['solve 1+6|a=8'].fields['advantage'][0] == pytest.approx(wrong)
  # All agree on 6, which is wrong: nobody is told.
  assert not rows['solve 2+3|a=6'].fields['advantage'].any()
  assert found.metrics['selfplay/vote_accuracy'] == [1.0, 0.0]
  assert found.metrics['selfplay/agreement'] == [0.75, 1.0]
  assert not len(found.metrics['selfplay/proposer_reward'])
  assert [t['problem'] for t in found.transcripts] == ['1+6', '2+3']


def test_it_is_a_control_of_self_play():
  keys = {
    k.removeprefix('method.'): v for k, v in CONTROLS['given_problems'].items()
  }
  assert filled(Sqlm, keys).given


@pytest.mark.parametrize(
  ('keys', 'said'),
  [
    ({}, 'propose_every is 5; it must be 0'),
    ({'propose_every': 0, 'bank': 8}, 'bank is 8; with method.given'),
    ({'propose_every': 0, 'archive': 8}, 'archive is 8; with method.given'),
    ({'propose_every': 0, 'known': 0.25}, 'known is 0.25; with method.given'),
  ],
)
def test_nothing_else_is_asked_beside(keys, said):
  with pytest.raises(ValueError, match=said):
    filled(Sqlm, {'given': True, **keys})


def test_a_task_without_a_proposer_s_prompt_will_do():
  class Given(type(TASK)):
    def proposer_prompt(self, topic):
      raise ValueError('its problems are given')

    def problems(self, split):
      return [dataclasses.replace(p, task=self) for p in GIVEN]

  with pytest.raises(ValueError, match='given'):
    Sqlm().check(Given())
  Sqlm(given=True, propose_every=0).check(Given())

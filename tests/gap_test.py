"""The gap before training: figures by hand, and the verdict's every branch."""

import itertools
import json

import jax
import numpy as np
import pytest

from jaxdistill.cli.main import main
from jaxdistill.data.tasks import SmallTask
from jaxdistill.eval import gap
from jaxdistill.eval.gap import Answers
from jaxdistill.rewards import majority
from jaxdistill.rollout.player import Player
from jaxdistill.types import Problem, Rollout


def answers(sampled, known='1', greedy='1', cut=0.0):
  given = tuple(None if a == '-' else a for a in sampled)
  return Answers(greedy, given, known, cut)


def test_figures_by_hand():
  found = gap.weigh(
    [
      answers('1111'),  # right, by all
      answers('2221', greedy='2'),  # wrong, by three
      answers('1122'),  # a tie
      answers('11-3', greedy=None),  # right, by two
    ]
  )
  assert found['problems'] == 4 and found['samples'] == 4
  assert found['known'] == 4
  assert found['greedy'] == 2 / 4
  assert found['sampled'] == pytest.approx((4 + 1 + 2 + 2) / 16)
  assert found['agreement'] == pytest.approx((4 + 3 + 2 + 2) / 16)
  assert list(found['vote']) == [1, 2, 4]
  assert found['majority'][4] == 3 / 4
  assert found['vote'][4] == 2 / 4
  assert found['right_majority'][4] == pytest.approx(2 / 3)
  assert found['by_agreement'] == {
    2: {'problems': 1 / 4, 'right': 1},
    3: {'problems': 1 / 4, 'right': 0},
    4: {'problems': 1 / 4, 'right': 1},
  }
  # Any of k of n: 1 - C(n - c, k) / C(n, k), c = 4, 1, 2, 2.
  assert found['pass_at'][1] == pytest.approx(found['sampled'])
  assert found['pass_at'][2] == pytest.approx((1 + 1 / 2 + 5 / 6 + 5 / 6) / 4)
  assert found['pass_at'][4] == 1
  errors = np.std([1, 0, 1, 0], ddof=1) / 2
  assert found['errors']['greedy'] == pytest.approx(errors)
  # The vote is right in 1, 0, 0, 1; greedy answers in 1, 0, 1, 0.
  paired = np.std([0, 0, -1, 1], ddof=1) / 2
  assert found['errors']['vote_minus_greedy'] == pytest.approx(paired)
  paired = np.std([0, -1 / 4, -2 / 4, 2 / 4], ddof=1) / 2
  assert found['errors']['vote_minus_sampled'] == pytest.approx(paired)


def test_a_smaller_vote_is_the_mean_over_all_subsets(monkeypatch):
  monkeypatch.setattr(gap, 'DRAWS', 4000)
  given = answers('1112234-')
  found = gap.weigh([given])
  for k in (2, 4):
    subsets = list(itertools.combinations(given.sampled_G, k))
    leaders = [majority(s).answer for s in subsets]
    right = sum(x == '1' for x in leaders) / len(subsets)
    some = sum(x is not None for x in leaders) / len(subsets)
    assert found['vote'][k] == pytest.approx(right, abs=0.03)
    assert found['majority'][k] == pytest.approx(some, abs=0.03)
  assert found['vote'][1] == 3 / 8 and found['majority'][1] == 7 / 8


def test_without_known_answers_there_is_a_guess():
  shown = [answers('11111111', known=None), answers('12345678', known=None)]
  found = gap.weigh(shown)
  assert 'greedy' not in found and 'vote' not in found
  odds = gap.INTERCEPT + gap.SLOPE * 1.0  # the one that has a majority
  assert found['guess'] == pytest.approx(1 / (1 + np.exp(-odds)))
  assert 'guessed' in gap.verdict(found)['why']
  # Some known: figures are of these, agreement is of all.
  mixed = gap.weigh([answers('2222', known='2'), answers('1234', known=None)])
  assert mixed['known'] == 1 and mixed['vote'][4] == 1
  assert mixed['agreement'] == pytest.approx((4 + 1) / 8)


def figures(right, *, greedy=0.5, sampled=0.4, vote=0.6, error=0.01, **more):
  errors = {'vote_minus_sampled': error, 'vote_minus_greedy': error}
  return {
    'samples': 16,
    'cut': 0.0,
    'agreement': 0.6,
    'majority': {8: 0.9},
    'right_majority': {8: right},
    'vote': {8: vote},
    'greedy': greedy,
    'sampled': sampled,
    'errors': errors,
  } | more


@pytest.mark.parametrize(
  ('found', 'verdict', 'why'),
  [
    (figures(0.95), 'helps', 'sampled accuracy can rise towards 60%'),
    (figures(0.9), 'helps', 'right in 90%'),
    (figures(0.89), 'risky', 'gains come first'),
    (figures(0.95, greedy=0.7), 'risky', 'greedy answers may be lost'),
    (figures(0.6), 'risky', 'right in 60%'),
    (figures(0.59), 'does not help', 'too much of what it would learn'),
    (figures(0.95, sampled=0.59), 'does not help', 'nothing to teach'),
    (figures(0.95, error=0.11), 'does not help', 'nothing to teach'),
    (figures(0.95, greedy=0.7, error=0.06), 'helps', 'right in 95%'),
    (figures(0.95, cut=0.6), 'does not help', '60% of the answers are cut'),
    (figures(0.9, majority={8: 0.05}), 'does not help', 'only 5%'),
    (
      figures(0.95, proposals={'valid': 0.1, 'distinct': 1.0}),
      'does not help',
      'only 10% of the problems that it writes',
    ),
  ],
)
def test_the_verdict(found, verdict, why):
  said = gap.verdict(found)
  assert said['verdict'] == verdict and why in said['why'] and said['instead']


def test_a_guessed_verdict():
  found = {'samples': 8, 'cut': 0.0, 'majority': {8: 0.9}, 'agreement': 0.7}
  assert gap.verdict(found | {'guess': 0.92})['verdict'] == 'helps'
  assert gap.verdict(found | {'guess': 0.7})['verdict'] == 'risky'
  assert gap.verdict(found | {'guess': 0.3})['verdict'] == 'does not help'
  sure = found | {'guess': 0.95, 'agreement': 0.98}
  assert 'agree already' in gap.verdict(sure)['why']


class Writer(Player):
  """A proposer with a fixed hand."""

  def __init__(self, *texts):
    self.texts = texts

  def generate(self, prompts_P, sampling, key):
    none = np.zeros(1, np.int32)
    return [
      [
        Rollout(p, none, none, none * 0.0, none * 0.0, finish, text)
        for text, finish in self.texts
      ]
      for p in prompts_P
    ]


def test_proposals_are_counted():
  task = SmallTask()
  kept = [f'{a}+1' for a in range(20, 99) if not held_out(task, f'{a}+1')][:2]
  away = next(f'{a}+1' for a in range(20, 99) if held_out(task, f'{a}+1'))
  writer = Writer(
    *((kept[0], 'stop'), (kept[1], 'stop'), (kept[0], 'length')),
    *(('what', 'stop'), (away, 'stop')),
  )
  topics = [Problem('1+1', task, topic='add', address=i) for i in range(2)]
  found = gap.propose(
    writer, topics, proposals=5, max_tokens=8, key=jax.random.key(0)
  )
  # Two of five can be asked, on each topic the same two.
  assert found == {'valid': 2 / 5, 'distinct': 1 / 2}


def held_out(task, text):
  return task.held_out(task.parse_problem(text))


def test_the_verb(mesh, capsys):
  ask = ['gap', '--model', 'small-late', '--problems', '8', '--samples', '4']
  assert main([*ask, '--json']) == 0
  found = json.loads(capsys.readouterr().out)
  assert {
    *('verdict', 'why', 'instead', 'greedy', 'sampled', 'vote', 'pass_at'),
    *('agreement', 'problems', 'seconds', 'right_majority', 'proposals'),
  } <= found.keys()
  assert found['problems'] == 8 and set(found['vote']) == {'1', '2', '4'}
  assert main(ask) == 0
  said = capsys.readouterr().out
  assert f'{found["greedy"]:.3f}' in said and found['why'] in said
  assert 'What to do by self-play:' in said
  assert main([*ask, '--split', 'tets']) == 2
  assert main(['gap', '--model', 'small-late', '--samples', '1']) == 2

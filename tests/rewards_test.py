"""Answers as numbers, votes, and what they pay."""

from fractions import Fraction

import numpy as np
import pytest

from jaxdistill import rewards
from jaxdistill.data.tasks import load_task
from jaxdistill.rewards import Vote
from jaxdistill.types import Prompt, Rollout

HALF = Fraction(1, 2)


def rollout(text, finish='stop'):
  empty = np.zeros(0, np.float32)
  return Rollout(
    prompt=Prompt('solver', 'solve 47+85:'),
    prompt_T=np.zeros(0, np.int32),
    tokens_T=np.zeros(0, np.int32),
    logp_T=empty,
    kept_T=empty,
    finish=finish,
    text=text,
  )


@pytest.mark.parametrize(
  ('text', 'value'),
  [
    *(('7', 7), ('07', 7), ('007', 7), ('0', 0), (' 7\n', 7), ('+7', 7)),
    *(('-7', -7), ('-0', 0)),
    *(('0.5', HALF), ('0.50', HALF), ('.5', HALF), ('5.', 5)),
    *(('0.1', Fraction(1, 10)), ('-2.25', Fraction(-9, 4))),
    *(('1/2', HALF), ('2/4', HALF), ('1/02', HALF), ('-1/2', -HALF)),
    ('1/3', Fraction(1, 3)),
    *(('50%', HALF), ('0.5%', Fraction(1, 200)), ('100%', 1)),
    *(('1,024', 1024), ('1,024,000', 1024000), ('-1,024', -1024)),
    ('1,024.5', Fraction(2049, 2)),
    ('123456789012345678901', 123456789012345678901),
  ],
)
def test_number(text, value):
  found = rewards.number(text)
  assert isinstance(found, Fraction)
  assert found == value


@pytest.mark.parametrize(
  'text',
  [
    *('', ' ', '.', '-', '+', '%', '/', ',', '1/0', '0/0', '1/00', '1/0%'),
    *('seven', '7 apples', '$7', '7x', 'x7', '1 2', '7 %', '5%%', '--7', '+-7'),
    *('1/', '/2', '1/-2', '1//2', '1/2/3', '1.2.3', '1,02', '1024,000', ',024'),
    *('1,,024', '0,5', '1e3', '1_000', 'inf', 'nan', '0x10', '²', '½'),
    '9' * 5000,
  ],
)
def test_no_number(text):
  assert rewards.number(text) is None


@pytest.mark.parametrize(
  ('answer', 'reference', 'expected'),
  [
    ('07', '7', True),
    ('7', '7.0', True),
    ('1/2', '0.5', True),
    ('1/2', '50%', True),
    ('0.5', '50%', True),
    ('1,024', '1024', True),
    ('1/3', '2/6', True),
    ('-0', '0', True),
    ('1/3', '0.3333333333333333', False),
    ('0.1', '0.1000000000000000055511151231257827', False),
    ('7', '-7', False),
    ('7', '70', False),
    ('50', '50%', False),
    ('1,024', '1.024', False),
    ('seven', ' seven ', True),
    ('1/0', '1/0', True),
    ('seven', '7', None),
    ('7', 'seven', None),
    ('seven', 'eight', None),
    ('1/0', '2/0', None),
    ('1/0', '0', None),
    ('', '7', None),
  ],
)
def test_equal(answer, reference, expected):
  assert rewards.equal(answer, reference) is expected
  assert rewards.equal(reference, answer) is expected


@pytest.mark.parametrize(
  ('answers', 'answer', 'count', 'agrees'),
  [
    pytest.param(['7', '8', '7'], '7', 2, '101', id='majority'),
    pytest.param(['1', '2', '3', '2', '4'], '2', 2, '01010', id='plurality'),
    pytest.param(['7', '7', '7'], '7', 3, '111', id='unanimous'),
    pytest.param(['7'], None, 1, '0', id='a single sample'),
    pytest.param(['1', '2', '3'], None, 1, '000', id='singletons'),
    pytest.param(['1', None, None], None, 1, '000', id='one vote'),
    pytest.param(['1', '2', '2', '1'], None, 2, '0000', id='tie'),
    pytest.param(['1', '2', '2', '1', '3'], None, 2, '00000', id='tie ahead'),
    pytest.param(['1', '2', '3', '3'], '3', 2, '0011', id='tie behind'),
    pytest.param([None, '7', '7', None], '7', 2, '0110', id='abstentions'),
    pytest.param([None, None, None, '7', '7'], '7', 2, '00011', id='few votes'),
    pytest.param([None, None], None, 0, '00', id='nobody'),
    pytest.param([], None, 0, '', id='no samples'),
    pytest.param(['8', '07', '7'], '07', 2, '011', id='leading zero'),
    pytest.param(['0.5', '1/2', '50%', '2'], '0.5', 3, '1110', id='forms'),
    pytest.param(['1,024', '3', '1024'], '1,024', 2, '101', id='thousands'),
    pytest.param(['yes', 'no', ' yes '], 'yes', 2, '101', id='words'),
    pytest.param(['1/0', '1/0', '0'], '1/0', 2, '110', id='by zero'),
    pytest.param(['7', '07', '8', '8.0'], None, 2, '0000', id='equal tie'),
  ],
)
def test_majority(answers, answer, count, agrees):
  vote = rewards.majority(answers)
  assert vote.answer == answer
  assert vote.count == count
  assert vote.agrees_G == tuple(c == '1' for c in agrees)


def test_majority_does_not_depend_on_the_order():
  answers = ['7', '8', None, '07', '9', '7.0', '8']
  rng = np.random.default_rng(0)
  for _ in range(20):
    order = rng.permutation(len(answers))
    vote = rewards.majority([answers[i] for i in order])
    assert vote.count == 3
    assert vote.agrees_G == tuple(i in (0, 3, 5) for i in order)


def test_a_cut_response_has_no_vote():
  task = load_task('small')
  rollouts = [
    rollout('7+5+0=12;12'),
    rollout('7+5+0=12;13', finish='length'),
    rollout('7+5+0=12'),
    rollout('7+5+0=12;13'),
  ]
  assert rewards.answers(task, rollouts) == ['12', None, None, '13']
  # Counted, the cut response would make 13 the majority.
  assert rewards.majority(rewards.answers(task, rollouts)).answer is None
  assert rewards.answers(task, []) == []


@pytest.mark.parametrize(
  ('agreeing', 'reward'), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 0)]
)
def test_learnable_at_every_count(agreeing, reward):
  vote = Vote('7', agreeing, tuple(i < agreeing for i in range(4)))
  assert rewards.learnable(vote) == reward


@pytest.mark.parametrize(
  ('answers', 'reward'),
  [
    (['7', '7', '7', '8'], 1),
    (['7', '7', '8', '9'], 1),
    (['7', '7', None, None], 1),
    (['7', '7', '7', '7'], 0),
    (['7', '7', '8', '8'], 0),
    (['6', '7', '8', '9'], 0),
    ([None, None, None, None], 0),
    (['7', None, None, None], 0),
    (['7', '7'], 0),
    ([], 0),
  ],
)
def test_learnable_of_a_vote(answers, reward):
  assert rewards.learnable(rewards.majority(answers)) == reward

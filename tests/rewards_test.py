"""Answers as numbers, votes, and what they pay."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from jaxdistill import rewards
from jaxdistill.data.tasks import SmallTask, load_task
from jaxdistill.types import Problem, Prompt, Rollout

HALF = Fraction(1, 2)


@dataclasses.dataclass(frozen=True)
class Paying(SmallTask):
  """Pays the length of an answer, by what the problem is worth."""

  def reward(self, problem, answers_G):
    return [float(problem.answer) * len(a or '') for a in answers_G]


def voted(agreeing, n=20):
  """A vote of which so many are for the majority, and the rest of no use."""
  return rewards.majority(['7'] * agreeing + [None] * (n - agreeing))


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
  assert rewards.learnable(voted(agreeing, 4)) == reward


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


# By the share of 20 answers that agree: 0, .1, .25, .5, .75, .9 and 1.
WORTH = {
  'learnable': (0, 1, 1, 1, 1, 1, 0),
  'uncertain': (0, 0.2, 0.5, 1, 0.5, 0.2, 0),
  'hard': (0, 0.9, 0.75, 0.5, 0.25, 0.1, 0),
  'varied': (
    0.0439369,
    0.2780373,
    0.8225775,
    1,
    0.8225775,
    0.2780373,
    0.0439369,
  ),
  'valid': (1, 1, 1, 1, 1, 1, 1),
}


@pytest.mark.parametrize('name', rewards.PROPOSER_REWARDS)
def test_what_a_proposal_is_worth_by_hand(name):
  worth = rewards.PROPOSER_REWARDS[name]
  votes = [voted(agreeing) for agreeing in (0, 2, 5, 10, 15, 18, 20)]
  assert [v.share for v in votes] == [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1]
  found = [worth(vote) for vote in votes]
  np.testing.assert_allclose(found, WORTH[name], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
  ('answers', 'share'),
  [
    *((['1', '2', '2', '1'], 0), (['1', '2', '3'], 0), ([None, None], 0)),
    *((['7', None, None, None], 0), ([], 0)),
    *((['7', '8', '07', '9'], 0.5), (['7', '7', None], 2 / 3)),
    (['7', '7', '7'], 1),
  ],
)
def test_share_is_0_where_there_is_no_majority(answers, share):
  vote = rewards.majority(answers)
  assert vote.share == share
  for name in ('learnable', 'uncertain', 'hard'):
    worth = rewards.PROPOSER_REWARDS[name](vote)
    assert (worth == 0) == (share in (0, 1))


def test_what_is_worth_most():
  votes = [voted(agreeing) for agreeing in range(2, 20)]
  best = {
    name: max(votes, key=rewards.PROPOSER_REWARDS[name]).share
    for name in ('uncertain', 'hard', 'varied')
  }
  assert best == {'uncertain': 0.5, 'hard': 0.1, 'varied': 0.5}


@pytest.mark.parametrize(
  ('texts', 'past', 'penalties'),
  [
    ('abc', '', [0, 0, 0]),
    ('aba', '', [1 / 2, 0, 1 / 2]),
    ('aaaa', '', [3 / 4] * 4),
    ('ab', 'a', [1 / 2, 0]),
    ('aab', 'aabb', [3 / 4, 3 / 4, 2 / 3]),
    ('ab', 'ccdd', [0, 0]),
    ('', 'ab', []),
    ('', '', []),
  ],
)
def test_repeated_by_hand(texts, past, penalties):
  found = rewards.repeated(list(texts), [*texts, *past])
  np.testing.assert_allclose(found, penalties, rtol=1e-12)
  assert len(found) == len(texts)


def test_the_past_matters_only_where_it_is_repeated():
  texts, past = ['1+1', '2+2', '1+1'], ['2+2', '2+2']
  past = [*texts, *past]
  found = rewards.repeated(texts, past)
  np.testing.assert_allclose(found, [1 / 2, 2 / 3, 1 / 2])
  assert rewards.repeated(texts, [*past, '3+3', '11+1', '1+1 ']) == found
  assert rewards.repeated(texts, [*past, '1+1']) != found


def pay(name, answers, seed=0):
  task = Paying()
  return rewards.SOLVER_REWARDS[name](
    Problem('5+7', task, answer='12'),
    answers,
    rewards.majority(answers),
    np.random.default_rng(seed),
  )


def test_solver_rewards_by_hand():
  answers = ['7', None, '07', '12', '7']
  assert pay('vote', answers) == [1, 0, 1, 0, 1]
  assert pay('known', answers) == [12, 0, 24, 24, 12]
  assert pay('format', answers) == [1, 0, 1, 1, 1]
  assert set(rewards.SOLVER_REWARDS) == {'vote', 'known', 'format', 'random'}


def test_without_a_majority_the_vote_pays_nobody():
  answers = ['7', '12', None, '8']
  assert pay('vote', answers) == [0, 0, 0, 0]
  assert pay('format', answers) == [1, 1, 0, 1]


def test_known_reads_the_answer_by_the_task():
  problem = Problem('5+7', load_task('small'), answer='12')
  answers = ['12', '012', '13', None]
  known = rewards.SOLVER_REWARDS['known']
  vote, rng = rewards.majority(['13', '13']), np.random.default_rng(0)
  assert known(problem, answers, vote, rng) == [1, 1, 0, 0]


def test_random_is_a_fair_coin_of_its_seed():
  answers = ['7', None] * 5000
  found = pay('random', answers)
  assert set(found) == {0.0, 1.0}
  # Five standard deviations; whether there is an answer does not matter.
  for coins in (found, found[::2], found[1::2]):
    assert np.mean(coins) == pytest.approx(0.5, abs=2.5 / len(coins) ** 0.5)
  assert pay('random', answers) == found
  assert pay('random', answers, seed=1) != found


@pytest.mark.parametrize('name', rewards.SOLVER_REWARDS)
def test_no_answers_are_paid_nothing(name):
  assert pay(name, []) == []


def test_overlong_by_hand():
  lengths = np.array([[0, 1, 14, 15], [16, 17, 19, 20]])
  found = rewards.overlong(lengths, longest=20, margin=5)
  np.testing.assert_allclose(found, [[0, 0, 0, 0], [-0.2, -0.4, -0.8, -1]])
  assert rewards.overlong(np.array([99]), 20, 5) == [-1]
  np.testing.assert_allclose(
    rewards.overlong(np.arange(5), longest=4, margin=4), -np.arange(5) / 4
  )


def test_overlong_without_a_margin_costs_nothing():
  lengths = np.arange(21)
  assert not rewards.overlong(lengths, longest=20, margin=0).any()
  # A margin of one token is for those that were cut or just made it.
  assert rewards.overlong(lengths, 20, 1).tolist() == [0] * 20 + [-1]
  assert rewards.overlong(np.zeros((0, 4), int), 20, 5).shape == (0, 4)


def test_what_comes_after_a_token():
  values = np.array([1.0, 2.0, 4.0])
  np.testing.assert_allclose(rewards.after(values), [6, 4, 0])
  np.testing.assert_allclose(rewards.after(values, 0.5), [4, 4, 0])
  np.testing.assert_allclose(rewards.after(values, 1.0, True), [3, 4, 0])
  np.testing.assert_allclose(rewards.after(values, 0.5, True), [4 / 1.5, 4, 0])
  np.testing.assert_allclose(rewards.after(values, 0.0), [2, 4, 0])
  assert rewards.after(np.zeros(0)).shape == (0,)

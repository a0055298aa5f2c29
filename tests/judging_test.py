"""What judgments pay, and what a biased judge makes of it."""

import numpy as np
import pytest

from jaxdistill import rewards
from jaxdistill.rewards.judging import NOBODY, by_length
from jaxdistill.rollout import judge as judges

K = 4


def verdicts(texts, prefers, judgments=K, both=True):
  """`shown` and `said` of a judge: `prefers(first, second)` is 1, 2 or 0."""
  places = judges.pairs(texts, both)
  each = judgments // (2 if both else 1)
  shown = np.repeat(np.array(places, int).reshape(-1, 2), each, 0)
  named = [prefers(texts[i], texts[j]) - 1 for i, j in shown]
  return shown, np.array(named, int)


def paid(texts, prefers, band=0.2, consistent=True, judgments=K):
  shown, named = verdicts(texts, prefers, judgments)
  settings = judgments, band, consistent
  return rewards.paid(shown, named, named, texts, *settings)


def first(a, b):
  return 1


def longer(a, b):
  return 1 if len(a) > len(b) else 2


# By judgment of a pair: the order (0, 1) twice, then (1, 0) twice.
@pytest.mark.parametrize(
  ('named', 'contradicts'),
  [
    ((0, 0, 0, 0), True),  # the first, always
    ((1, 1, 1, 1), True),
    ((0, 0, 1, 1), False),  # response 0, always
    ((1, 1, 0, 0), False),
    ((0, 0, 0, 1), False),  # a tie in the second order has no majority
    ((0, 1, 0, 1), False),
    ((0, NOBODY, 0, NOBODY), True),  # what cannot be read is no vote
    ((0, 0, NOBODY, NOBODY), False),
    ((0, NOBODY, 1, 1), False),
  ],
)
def test_what_turns_with_the_order(named, contradicts):
  shown = np.array([(0, 1), (0, 1), (1, 0), (1, 0)])
  found = rewards.contradicted(shown, np.array(named))
  assert found.tolist() == [contradicts] * 4


def test_a_pair_is_told_from_others_and_one_order_contradicts_nothing():
  shown = np.array([(0, 1), (2, 0), (1, 0), (0, 2), (1, 2)])
  named = np.array([0, 0, 0, 1, 0])  # 0 1 turns, 0 2 does not, 1 2 is once
  assert rewards.contradicted(shown, named).tolist() == [1, 0, 1, 0, 0]
  assert not rewards.contradicted(
    *verdicts(['aa', 'b', 'ccc'], first, K, False)
  ).any()
  assert not rewards.contradicted(*verdicts(['aa'], first)).size


def test_a_win_counts_by_length():
  winner = np.array([80, 81, 100, 119, 120, 0, 100])
  loser = np.array([100, 100, 100, 100, 100, 3, 0])
  wanted = [0, 100 / 81, 1, 100 / 119, 0, 0, 0]  # the band's ends are outside
  np.testing.assert_allclose(by_length(winner, loser, 0.2), wanted, 1e-12)
  assert by_length(winner, loser, 0.0).tolist() == [1] * 7


def test_win_rates_by_hand():
  texts = ['x' * 10, 'y' * 11, 'z' * 20]
  order = {10: 0, 11: 1, 20: 2}  # the longer the better

  def prefers(a, b):
    return 1 if order[len(a)] > order[len(b)] else 2

  found = paid(texts, prefers)
  # 11 beats 10 four times; 20 beats both, outside the band.
  np.testing.assert_allclose(found.worth_G, [0, 4 * (10 / 11) / 8, 0], 1e-12)
  assert not found.void_Z.any()
  # Pair (0, 1): right by the ranking; (0, 2): a tie; (1, 2): against it.
  assert found.earned_Z.tolist() == [1] * 4 + [0] * 4 + [-1] * 4
  whole = paid(texts, prefers, band=0.0)
  assert whole.worth_G.tolist() == [0, 0.5, 1]
  assert whole.earned_Z.tolist() == [1] * 12


def test_as_a_loop_over_the_paper_s_words():
  draw = np.random.default_rng(0)
  for _ in range(20):
    texts = [c * int(draw.integers(8, 14)) for c in 'abcd']
    shown, named = verdicts(texts, first)
    named = draw.integers(-1, 2, len(named))
    worth = [0.0] * 4
    for (i, j), name in zip(shown, named, strict=True):
      if name >= 0:
        n, o = (i, j) if name == 0 else (j, i)
        a, b = len(texts[n]), len(texts[o])
        worth[n] += b / a / 12 if 0.8 * b < a < 1.2 * b else 0
    found = rewards.paid(shown, named, named, texts, K, 0.2, False)
    np.testing.assert_allclose(found.worth_G, worth, 1e-9)
    for (i, j), name, earned in zip(shown, named, found.earned_Z, strict=True):
      n, o = (i, j) if name == 0 else (j, i)
      apart = worth[n] - worth[o]
      sign = 0 if abs(apart) < 1e-9 else np.sign(apart)
      assert earned == (-1 if name < 0 else sign)


def test_who_goes_by_the_place_pays_nobody():
  texts = ['x' * 10, 'y' * 11, 'z' * 12, 'w' * 30]
  for place in (1, 2):
    found = paid(texts, lambda a, b, place=place: place)
    assert found.void_Z.all()
    assert not found.worth_G.any() and not found.earned_Z.any()
  # Without the rule each wins half of its pairs, and length is what is left:
  # the shorter ones are paid more, and the judge for naming them.
  loose = paid(texts, first, consistent=False)
  # 12 is no win over 10 (not below 1.2 * 10), 10 is one over 12 (above 9.6).
  wins = [11 / 10 + 12 / 10, 10 / 11 + 12 / 11, 11 / 12, 0]
  np.testing.assert_allclose(loose.worth_G, 2 * np.array(wins) / 12, 1e-12)
  assert not loose.void_Z.any() and set(loose.earned_Z) == {-1, 1}


def test_who_prefers_length_is_paid_less_the_longer_and_not_beyond_the_band():
  def worth(*lengths, **settings):
    texts = ['abcd'[i] * n for i, n in enumerate(lengths)]
    return paid(texts, longer, **settings).worth_G

  np.testing.assert_allclose(worth(100, 110), [0, 100 / 110], 1e-12)
  np.testing.assert_allclose(worth(100, 119), [0, 100 / 119], 1e-12)
  assert worth(100, 120).tolist() == [0, 0]
  assert worth(100, 200).tolist() == [0, 0]
  assert worth(100, 200, band=0.0).tolist() == [0, 1]  # what it is there for
  # Within the band the longer still earns more: it is discounted, not undone.
  np.testing.assert_allclose(
    worth(100, 105, 110, 118),
    np.array([0, 100 / 105, 205 / 110, 315 / 118]) / 3,
    1e-12,
  )


def test_sums_in_another_order_are_equal():
  shown = np.array([(0, 1)])
  worth = np.array([0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1])
  assert worth[0] != worth[1]
  assert rewards.agreement(shown, np.array([0]), worth).tolist() == [0]


def test_what_was_cut_loses_and_what_is_equal_earns_the_same():
  texts = ['ab', 'cd', None, None]
  shown, _ = verdicts(texts, first)
  assert shown.tolist() == [[0, 1]] * 2 + [[1, 0]] * 2
  found = paid(texts, lambda a, b: 1 if a == 'ab' else 2)
  np.testing.assert_allclose(found.worth_G, [1, 2 / 3, 0, 0])
  # The odd one meets all others, each of these only it: chance pays them alike.
  alike = ['ab', 'ab', 'ab', 'cd']
  assert paid(alike, lambda a, b: 1 if a == 'ab' else 2).worth_G.tolist() == [
    *(1, 1, 1, 0)
  ]
  shown, named = verdicts(alike, first)
  named[4:] = NOBODY  # judged once only: the mean is everyone's
  named[:2], named[2:4] = 0, 1
  found = rewards.paid(shown, named, named, alike, K, 0.2, True)
  np.testing.assert_allclose(found.worth_G, [1 / 3] * 3 + [0])
  assert paid(['ab'] * 4, first).worth_G.tolist() == [0] * 4
  assert paid([None] * 4, first).worth_G.tolist() == [0] * 4


def test_controls_of_whose_verdicts_count():
  shown = np.array([(0, 1), (1, 0), (1, 2)])
  named = np.array([1, NOBODY, 0])
  worth, draw = np.array([1.0, 0.0, 0.0]), np.random.default_rng(0)
  found = {
    name: f(shown, named, worth, draw).tolist()
    for name, f in rewards.VERDICTS.items()
  }
  assert found['own'] == named.tolist()
  assert found['known'] == [0, 1, NOBODY]
  # A coin names the same response of a pair in both orders.
  pairs = np.stack([np.zeros(2000, int), np.arange(1, 2001)], 1)
  turned = np.concatenate([pairs, pairs[:, ::-1]])
  many = rewards.VERDICTS['random'](turned, np.zeros(4000), worth, draw)
  assert set(many.tolist()) == {0, 1}
  np.testing.assert_array_equal(many[:2000], 1 - many[2000:])
  assert abs(many[:2000].mean() - 0.5) < 0.04
  # Where the judge goes by the place, labels pay the responses all the same.
  place = np.array([0, 0])
  labels = rewards.VERDICTS['known'](shown[:2], place, worth, draw)
  bound = rewards.paid(shown[:2], place, labels, ['ab', 'cd'], 2, 0.2, True)
  assert bound.worth_G.tolist() == [1, 0]
  assert bound.earned_Z.tolist() == [0, 0] and bound.void_Z.all()
  # The judge earns by what it said, the responses by what counts.
  own, truth = np.array([0, 0]), np.array([1, 0])
  both = np.array([(0, 1), (1, 0)])
  paid = rewards.paid(both, own, truth, ['ab', 'cd'], 2, 0.2, False)
  assert paid.worth_G.tolist() == [0, 1] and paid.earned_Z.tolist() == [-1, 1]

"""Advantages: values by hand, and what holds for any group."""

import numpy as np
import pytest

from jaxdistill.rewards import advantage as advantages


def test_group_normalised_by_hand():
  found = advantages.group_normalised(np.array([1.0, 0.0, 0.0, 1.0]), eps=0.0)
  np.testing.assert_allclose(found, [1, -1, -1, 1], rtol=1e-12)
  found = advantages.group_normalised(np.array([[1.0, 2.0, 3.0, 6.0]]), eps=0.0)
  root = np.sqrt(3.5)
  np.testing.assert_allclose(
    found, [[-2 / root, -1 / root, 0, 3 / root]], rtol=1e-12
  )
  found = advantages.group_normalised(np.array([1.0, 0.0]), eps=0.5)
  np.testing.assert_allclose(found, [0.5, -0.5], rtol=1e-12)
  found = advantages.group_normalised(np.array([1.0, 0.0]))
  np.testing.assert_allclose(found, [0.5 / 0.5001, -0.5 / 0.5001], rtol=1e-12)


def test_group_normalised_reference():
  rewards = np.random.default_rng(0).normal(3, 2, (5, 3, 7))
  found = advantages.group_normalised(rewards, eps=1e-3)
  for index in np.ndindex(5, 3):
    group = [float(r) for r in rewards[index]]
    mean = sum(group) / 7
    std = (sum((r - mean) ** 2 for r in group) / 7) ** 0.5
    wanted = [(r - mean) / (std + 1e-3) for r in group]
    np.testing.assert_allclose(found[index], wanted, rtol=1e-9)


def test_groups_are_independent():
  rewards = np.random.default_rng(0).integers(0, 2, (6, 4)).astype(float)
  found = advantages.group_normalised(rewards)
  for i in range(6):
    np.testing.assert_array_equal(
      found[i], advantages.group_normalised(rewards[i])
    )
  rewards[0] += [5.0, 0.0, 0.0, 0.0]
  np.testing.assert_array_equal(
    advantages.group_normalised(rewards)[1:], found[1:]
  )


@pytest.mark.parametrize('reward', [0.0, 1.0, 0.1, 0.3, 1 / 3, -0.7, 1e6 / 7])
def test_an_all_equal_group_is_exactly_zero(reward):
  for size in range(1, 17):
    found = advantages.group_normalised(np.full((2, size), reward))
    assert found.shape == (2, size)
    assert not found.any(), size


def test_group_normalised_takes_integers_and_no_groups():
  found = advantages.group_normalised(np.array([[0, 1], [1, 1]]), eps=1e-12)
  np.testing.assert_allclose(found, [[-1, 1], [0, 0]], atol=1e-9)
  assert advantages.group_normalised(np.zeros((0, 4))).shape == (0, 4)


def test_group_normalised_ignores_scale_and_shift():
  rewards = np.array([[0.0, 1.0, 1.0, 0.0, 1.0]])
  found = advantages.group_normalised(rewards, eps=0.0)
  np.testing.assert_allclose(
    advantages.group_normalised(5 * rewards - 2, eps=0.0), found, rtol=1e-12
  )
  np.testing.assert_allclose(found.sum(), 0, atol=1e-12)
  np.testing.assert_allclose((found**2).mean(), 1, rtol=1e-12)


def test_centred_by_hand():
  found = advantages.centred(np.array([[1.0, 2.0, 3.0, 6.0], [0, 0, 0, 1]]))
  wanted = [[-2, -1, 0, 3], [-0.25, -0.25, -0.25, 0.75]]
  np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_leave_one_out_by_hand():
  found = advantages.leave_one_out(
    np.array([[1.0, 2.0, 3.0, 6.0], [0, 0, 0, 1]])
  )
  wanted = [[-8 / 3, -4 / 3, 0, 4], [-1 / 3, -1 / 3, -1 / 3, 1]]
  np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_leave_one_out_is_the_reward_less_the_mean_of_the_others():
  rewards = np.random.default_rng(0).normal(3, 2, (5, 3, 7))
  found = advantages.leave_one_out(rewards)
  assert found.shape == rewards.shape
  for *group, i in np.ndindex(5, 3, 7):
    others = [float(rewards[*group, j]) for j in range(7) if j != i]
    wanted = rewards[*group, i] - sum(others) / 6
    np.testing.assert_allclose(found[*group, i], wanted, rtol=1e-9, atol=1e-12)


def test_all_equal_by_hand():
  rewards = [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.1, 0.2, 0.1]]
  found = advantages.all_equal(np.array(rewards).reshape(2, 2, 3))
  np.testing.assert_array_equal(found, [[True, False], [True, False]])
  assert advantages.all_equal(np.array([[0.3], [-1.0]])).all()
  assert not advantages.all_equal(np.array([1.0, 1.0 + 1e-15]))


@pytest.mark.parametrize('reward', [0.0, 1.0, 0.1, 0.3, 1 / 3, -0.7, 1e6 / 7])
def test_every_advantage_of_an_all_equal_group_is_exactly_zero(reward):
  for size in range(2, 40):
    rewards = np.full((2, size), reward)
    assert advantages.all_equal(rewards).all()
    for advantage in (advantages.centred, advantages.leave_one_out):
      found = advantage(rewards)
      assert found.shape == (2, size)
      assert not found.any(), size


def test_an_all_equal_group_is_one_whose_mean_rounds():
  # What the exact zero is there for: 0.1 is not the mean of six times 0.1.
  rewards = np.full(6, 0.1)
  assert (rewards - rewards.mean()).any()
  assert not advantages.centred(rewards).any()


def test_a_group_of_two_is_a_comparison():
  rewards = np.array([[3.0, 1.0], [0.0, 1.0], [5.0, 5.0]])
  difference = np.array([[2.0, -2.0], [-1.0, 1.0], [0.0, 0.0]])
  np.testing.assert_allclose(advantages.centred(rewards), difference / 2)
  np.testing.assert_allclose(advantages.leave_one_out(rewards), difference)
  found = advantages.group_normalised(rewards, eps=1e-300)
  np.testing.assert_allclose(found, np.sign(difference))
  np.testing.assert_array_equal(advantages.all_equal(rewards), [0, 0, 1])


def test_leave_one_out_of_many_is_centred():
  rewards = np.random.default_rng(0).normal(0, 1, 10**5)
  centred = advantages.centred(rewards)
  found = advantages.leave_one_out(rewards)
  np.testing.assert_allclose(found, centred, rtol=2e-5)
  assert (
    found[np.abs(centred) > 1e-3] != centred[np.abs(centred) > 1e-3]
  ).all()


@pytest.mark.parametrize(
  'advantage',
  [advantages.centred, advantages.leave_one_out, advantages.group_normalised],
)
def test_advantages_sum_to_zero_and_take_no_groups(advantage):
  found = advantage(np.array([[0.1, 0.7, 0.3], [4.0, -1.0, 9.5]]))
  np.testing.assert_allclose(found.sum(-1), 0, atol=1e-12)
  assert np.abs(found).max(-1).min() > 0.2
  assert advantage(np.zeros((0, 4))).shape == (0, 4)
  assert advantages.all_equal(np.zeros((0, 4))).shape == (0,)

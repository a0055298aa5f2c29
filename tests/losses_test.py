"""Losses by hand, against float64 references and in their limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import losses
from jaxdistill.batch import Shapes, make_batch
from jaxdistill.methods.policy_gradient import (
  OBJECTIVES,
  PolicyGradient,
  by_longest,
  by_sequence,
  by_token,
)
from jaxdistill.rewards import advantage as advantages
from jaxdistill.rollout import FIELDS, Player, policy_rows
from jaxdistill.types import Prompt, Rollout, RowSet

CLIP = 0.2
LOSSES = {
  'clipped_policy': lambda x, y, a: losses.clipped_policy(x - y, a, CLIP, CLIP),
  'k3': lambda x, y, a: losses.k3(x, y),
}
every_loss = pytest.mark.parametrize('name', LOSSES)
every_objective = pytest.mark.parametrize('name', OBJECTIVES)
RATIOS = (
  losses.token_ratio,
  losses.sequence_ratio,
  losses.sequence_mean_ratio,
)
COEFFICIENTS = {'clip_low': 0.1, 'clip_high': 0.15, 'kl': 0.3}
LONGEST = 8


def draws(n=64, seed=0):
  """Log-probs of two policies and advantages; ratios in and out of range."""
  rng = np.random.default_rng(seed)
  logp = -rng.exponential(1.5, n)
  other = logp + rng.normal(0, 0.3, n)
  return tuple(jnp.float32(x) for x in (logp, other, rng.normal(0, 1, n)))


@pytest.mark.parametrize(
  ('ratio', 'advantage', 'value'),
  [
    *((1.0, 1.0, -1.0), (1.0, -1.0, 1.0), (1.0, 0.0, 0.0)),
    *((1.1, 2.0, -2.2), (0.9, 2.0, -1.8), (1.1, -2.0, 2.2)),
    *((1.5, 2.0, -2.4), (0.5, 2.0, -1.0)),
    *((1.5, -2.0, 3.0), (0.5, -2.0, 1.6)),
  ],
)
def test_clipped_policy_by_hand(ratio, advantage, value):
  found = losses.clipped_policy(
    jnp.log(jnp.float32([ratio])), jnp.float32([advantage]), CLIP, CLIP
  )
  np.testing.assert_allclose(found, [value], rtol=1e-5, atol=1e-6)


def test_clip_higher_by_hand():
  ratio, advantage = jnp.float32([1.25, 1.5, 0.5, 1.5, 0.5, 0.9]), 2.0
  sign = jnp.float32([1, 1, 1, -1, -1, -1])
  found = losses.clipped_policy(jnp.log(ratio), sign * advantage, 0.2, 0.28)
  np.testing.assert_allclose(found, [-2.5, -2.56, -1, 3, 1.6, 1.8], rtol=1e-5)


def test_clip_higher_is_the_symmetric_one_where_both_are_equal():
  x, y, a = draws()
  higher, found = (
    losses.clipped_policy(x - y, a, CLIP, high) for high in (0.4, CLIP)
  )
  ratio = np.exp(np.float64(x) - np.float64(y))
  bounded = np.clip(ratio, 1 - CLIP, 1 + CLIP)
  symmetric = -np.minimum(ratio * np.float64(a), bounded * np.float64(a))
  np.testing.assert_allclose(found, symmetric, rtol=1e-5)
  moved = (ratio > 1 + CLIP) & (np.asarray(a) > 0)
  np.testing.assert_array_equal(higher != found, moved)
  assert moved.any()
  clipped = np.minimum(ratio[moved], 1.4) * np.float64(a)[moved]
  np.testing.assert_allclose(higher[moved], -clipped, rtol=1e-5)


def test_policy_gradient_is_the_clipped_policy_and_its_divergence():
  logp, old, advantage = (x.reshape(4, 16) for x in draws())
  anchor = logp[::-1]
  fields = {'old_logp': old, 'advantage': advantage, 'anchor_logp': anchor}
  value, metrics = losses.policy_gradient(
    logp,
    jnp.ones((4, 16), bool),
    jnp.ones((4, 16), int),
    fields,
    {'clip_low': CLIP, 'clip_high': CLIP, 'kl': 0.5},
  )
  ratio = np.exp(np.float64(logp) - np.float64(old))
  a, d = np.float64(advantage), np.float64(anchor) - np.float64(logp)
  surrogate = np.minimum(ratio * a, np.clip(ratio, 1 - CLIP, 1 + CLIP) * a)
  k3 = np.exp(d) - d - 1
  np.testing.assert_allclose(value, -surrogate + 0.5 * k3, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(metrics['kl_base'], k3, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(metrics['clipped'], np.abs(ratio - 1) > CLIP)
  assert 0 < metrics['clipped'].sum() < 64


def test_without_an_anchor_there_is_no_divergence():
  logp, old, advantage = (x.reshape(4, 16) for x in draws())
  segments = jnp.ones((4, 16), int)
  fields = {'old_logp': old, 'advantage': advantage}
  coefficients = {'clip_low': CLIP, 'clip_high': CLIP, 'kl': 0.0}

  def loss(fields):
    return losses.policy_gradient(
      logp, segments > 0, segments, fields, coefficients
    )

  value, metrics = loss(fields)
  anchored, more = loss(fields | {'anchor_logp': logp[::-1]})
  np.testing.assert_array_equal(value, anchored)
  assert metrics.keys() == {'clipped'}
  assert more.keys() == {'clipped', 'kl_base'}


def test_policy_gradient_leaves_untrained_tokens_out():
  zeros = jnp.zeros((1, 2))
  fields = {'old_logp': zeros, 'advantage': zeros, 'anchor_logp': zeros}

  def total(logp, ratio):
    trained = jnp.array([[True, False]])
    segments, coefficients = jnp.ones((1, 2), int), COEFFICIENTS | {'kl': 1.0}
    return losses.policy_gradient(
      *(logp, trained, segments, fields, coefficients, ratio)
    )[0].sum()

  for ratio in RATIOS:
    value, gradient = jax.value_and_grad(total)(
      jnp.array([[-1.0, -1e30]]), ratio
    )
    assert value == pytest.approx(np.e - 2)
    np.testing.assert_allclose(gradient, [[1 - np.e, 0]], rtol=1e-5)


def test_clip_may_be_an_array():
  x, y, a = draws()
  found = losses.clipped_policy(x - y, a, jnp.float32(0.1), jnp.float32(0.3))
  by_number = losses.clipped_policy(x - y, a, 0.1, 0.3)
  np.testing.assert_array_equal(found, by_number)
  for low, high in ((0.3, 0.3), (0.1, 0.1)):
    assert (losses.clipped_policy(x - y, a, low, high) != found).any()


@pytest.mark.parametrize(
  ('logp', 'anchor', 'value'),
  [
    *((-1.0, -1.0, 0.0), (0.0, 0.0, 0.0)),
    # d = log 2, log 1/2, log 4: exp(d) - d - 1.
    *((-2.0, -2.0 + np.log(2), 0.3068528), (-2.0, -2 - np.log(2), 0.1931472)),
    (-3.0, -3.0 + np.log(4), 1.6137056),
    (-1.0, -11.0, 9.0000454),
  ],
)
def test_k3_by_hand(logp, anchor, value):
  found = losses.k3(jnp.float32([logp]), jnp.float32([anchor]))
  np.testing.assert_allclose(found, [value], rtol=1e-5, atol=1e-6)


@every_loss
def test_float64_reference(name):
  logp, other, advantage = draws(500, seed=1)
  x, y, a = (np.asarray(v, np.float64) for v in (logp, other, advantage))
  if name == 'k3':
    wanted = np.expm1(y - x) - (y - x)
  else:
    ratio = np.exp(x - y)
    beyond = np.where(a > 0, ratio > 1 + CLIP, ratio < 1 - CLIP)
    wanted = -a * np.where(beyond, 1 + CLIP * np.sign(a), ratio)
    assert beyond.any() and not beyond.all()
  found = LOSSES[name](logp, other, advantage)
  np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-6)


@every_loss
def test_jit_is_eager(name):
  x = draws()
  eager, compiled = LOSSES[name](*x), jax.jit(LOSSES[name])(*x)
  np.testing.assert_allclose(compiled, eager, rtol=1e-6, atol=1e-7)
  assert compiled.shape == eager.shape == (64,)


@every_loss
def test_axes_do_not_matter(name):
  x = draws()
  shaped = LOSSES[name](*(v.reshape(4, 2, 8) for v in x))
  np.testing.assert_allclose(
    shaped.ravel(), LOSSES[name](*x), rtol=1e-6, atol=1e-7
  )


@every_loss
def test_tokens_are_independent(name):
  x, mask = draws(), np.arange(64) % 3 == 0
  alone = LOSSES[name](*(v[mask] for v in x))
  np.testing.assert_allclose(LOSSES[name](*x)[mask], alone, rtol=1e-6)

  def masked(logp):
    return jnp.sum(LOSSES[name](logp, *x[1:]) * mask)

  gradient = jax.grad(masked)(x[0])
  assert not gradient[~mask].any()
  assert gradient[mask].any()
  jacobian = jax.jacobian(lambda v: LOSSES[name](v, *x[1:]))(x[0])
  assert not (jacobian - jnp.diag(jnp.diag(jacobian))).any()


@every_loss
@pytest.mark.parametrize('gap', [0.0, 1e-6, 1.0, 20.0, 80.0, -20.0, -80.0])
def test_values_and_gradients_are_finite(name, gap):
  logp = jnp.float32([-90.0, -90.0, -90.0])
  other, advantage = logp + gap, jnp.float32([-3.0, 0.0, 3.0])
  value, gradient = jax.value_and_grad(
    lambda v: LOSSES[name](v, other, advantage).sum()
  )(logp)
  assert np.isfinite(value)
  assert np.isfinite(gradient).all()


def test_at_ratio_one_the_gradient_is_reinforce():
  logits = jnp.float32([0.3, -1.0, 0.8, 0.0, -0.2])
  tokens = jnp.array([0, 3, 2, 2])
  advantage = jnp.float32([1.5, -0.5, 0.0, 2.0])

  def logp(logits):
    return jax.nn.log_softmax(logits)[tokens]

  old = logp(logits)
  found = jax.jacobian(
    lambda z: losses.clipped_policy(logp(z) - old, advantage, CLIP, CLIP)
  )(logits)
  wanted = -advantage[:, None] * jax.jacobian(logp)(logits)
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
  assert jnp.abs(wanted).max() > 0.1


@pytest.mark.parametrize(
  ('ratio', 'advantage', 'moves'),
  [
    *((1.5, 2.0, False), (0.5, 2.0, True), (1.1, 2.0, True)),
    *((0.5, -2.0, False), (1.5, -2.0, True), (0.9, -2.0, True)),
  ],
)
def test_clipping_stops_the_gradient_on_one_side(ratio, advantage, moves):
  def value(logp):
    a = jnp.float32([advantage])
    return losses.clipped_policy(logp + 1.0, a, CLIP, CLIP).sum()

  gradient = jax.grad(value)(jnp.log(jnp.float32([ratio])) - 1.0)
  wanted = -ratio * advantage if moves else 0.0
  np.testing.assert_allclose(gradient, [wanted], rtol=1e-5)


def test_k3_is_zero_and_flat_only_at_equality():
  logp = jnp.float32([-0.1, -1.0, -7.5, -20.0])
  value, gradient = (
    losses.k3(logp, logp),
    jax.grad(lambda v: losses.k3(v, logp).sum())(logp),
  )
  assert not value.any()
  assert not gradient.any()
  for gap in (-3.0, -0.5, 0.5, 3.0):
    assert (losses.k3(logp, logp + gap) > 0).all()


def test_k3_is_not_negative():
  sizes = jnp.logspace(-7, 1, 500)  # float32 rounds 1 + d for the smallest
  for gaps in (sizes, -sizes):
    assert (losses.k3(jnp.zeros(500), gaps) >= 0).all()


def test_k3_is_the_exact_divergence_in_expectation():
  p = np.array([0.5, 0.2, 0.15, 0.1, 0.05])
  q = np.array([0.1, 0.3, 0.25, 0.05, 0.3])
  exact = float(np.sum(p * (np.log(p) - np.log(q))))
  values = losses.k3(jnp.float32(np.log(p)), jnp.float32(np.log(q)))
  np.testing.assert_allclose(np.sum(p * np.asarray(values)), exact, rtol=1e-5)
  backwards = losses.k3(jnp.float32(np.log(q)), jnp.float32(np.log(p)))
  assert abs(np.sum(p * np.asarray(backwards)) - exact) > 0.1


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


def packed():
  """Log-ratios of a sequence with two responses, each after its prompt."""
  segments = jnp.array([[1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0]])
  trained = jnp.array([[0, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0]], bool)
  log_ratio = jnp.float32([[9, 1, 2, 6, 9, -9, 9, 0.5, -1, 7, 8]])
  return log_ratio, trained, segments


def test_ratios_by_hand():
  own, total, mean = (ratio(*packed()) for ratio in RATIOS)
  np.testing.assert_array_equal(own, packed()[0])
  np.testing.assert_allclose(total, [[9] * 4 + [-0.5] * 5 + [0] * 2])
  np.testing.assert_allclose(mean, [[3] * 4 + [-0.25] * 5 + [0] * 2])


def test_ratios_of_two_sequences_are_apart():
  both = [jnp.concatenate([x, x[:, ::-1]]) for x in packed()]
  for ratio in RATIOS:
    found, one = ratio(*both), ratio(*packed())
    np.testing.assert_allclose(found, jnp.concatenate([one, one[:, ::-1]]))


@pytest.mark.parametrize('ratio', RATIOS[1:])
def test_a_response_moves_all_of_its_own_ratios_and_no_other(ratio):
  log_ratio, trained, segments = packed()
  jacobian = jax.jacobian(lambda x: ratio(x[None], trained, segments)[0])(
    log_ratio[0]
  )
  same = (segments[0][:, None] == segments[0]) & (segments[0] > 0)
  moves = np.asarray(same & trained[0])
  np.testing.assert_array_equal(jacobian != 0, moves)
  assert moves[1].sum() == 3 and moves[7].sum() == 2
  share = 1.0 if ratio is losses.sequence_ratio else 1 / 3
  np.testing.assert_allclose(jacobian[2, 1:4], share, rtol=1e-6)


def test_ratios_of_one_token_are_the_same():
  segments = jnp.array([[1, 1, 2, 3, 3, 3, 0]])
  trained = jnp.array([[0, 1, 1, 0, 0, 1, 0]], bool)
  log_ratio = jnp.float32([[5, 0.3, -0.2, 5, 5, 1.5, 5]])
  for ratio in RATIOS:
    found = ratio(log_ratio, trained, segments)
    np.testing.assert_allclose(found[trained], [0.3, -0.2, 1.5], rtol=1e-6)


def test_weights_of_tokens_by_hand():
  assert by_sequence(4, 10) == (0.25, 1.0)
  assert by_token(4, 10) == (1.0, 4.0)
  assert by_longest(4, 10) == (1.0, 10.0)
  # Responses of 1 and 3 tokens, whose values are 5 and 1, 2, 3.
  for weigh, mean in (
    (by_sequence, 3.5),
    (by_token, 11 / 4),
    (by_longest, 1.1),
  ):
    (one, a), (three, b) = weigh(1, 5), weigh(3, 5)
    assert (one * 5 + three * 6) / (a + b) == pytest.approx(mean)


def test_an_unknown_objective_is_refused_with_the_nearest():
  with pytest.raises(ValueError, match=r"'grpp' is none of.*'grpo'"):
    PolicyGradient(objective='grpp')


class Case:
  """Scored responses in the padded layout [N, L], five to each of four prompts.

  The second prompt's rewards are all equal. The first two responses are the
  same text, so they share the log-probs that the objective moves.
  """

  size = 5

  def __init__(self, spread=0.25, seed=3):
    rng = np.random.default_rng(seed)
    self.rewards_PG = np.array(
      [[1, 1, 0, 0.5, 0], [0.1] * 5, [0, 0, 0, 0, 1], [0.2, 0.9, -1, 0.4, 0]]
    )
    n = self.rewards_PG.size
    self.lengths_N = rng.integers(1, LONGEST, n)
    self.which_N = np.array([0, 0, *range(2, n)])
    self.lengths_N[1] = self.lengths_N[0]
    self.mask_NL = np.arange(LONGEST) < self.lengths_N[:, None]
    # Held in float32, so that both sides start from the same numbers.
    old, step, drift = (
      np.float32(x) * self.mask_NL
      for x in (
        -rng.exponential(1.0, (n, LONGEST)),
        rng.normal(0, spread, (n, LONGEST)),
        rng.normal(0, 0.4, (n, LONGEST)),
      )
    )
    self.old_NL, self.logp_NL, self.anchor_NL = (
      x[self.which_N] for x in (old, old + step, old + drift)
    )

  def rollouts(self):
    """Token `100 + i` is the `i`-th of the padded layout; prompts are below."""
    return [
      Rollout(
        prompt=Prompt('solver', '', row=i // self.size),
        prompt_T=np.arange(1 + i % 3, dtype=np.int32) + 10 * (i // self.size),
        tokens_T=np.arange(self.lengths_N[i], dtype=np.int32)
        + np.int32(100 + LONGEST * self.which_N[i]),
        logp_T=self.old_NL[i, : self.lengths_N[i]],
        kept_T=np.zeros(self.lengths_N[i], np.float32),
        finish='stop',
        text='',
      )
      for i in range(len(self.which_N))
    ]


class Anchor(Player):
  """Knows the log-prob of every token of a case."""

  def __init__(self, case):
    object.__setattr__(self, 'logp', case.anchor_NL.ravel())

  def logprobs(self, rollouts, temperature):
    return [self.logp[r.tokens_T - 100] for r in rollouts]


def ours(name, case, coefficients, mesh):
  """The objective of a padded `logp_NL`, through rows and packed batches."""
  objective = OBJECTIVES[name]
  dropped = advantages.all_equal(case.rewards_PG) * objective.drops_equal
  rows = policy_rows(
    case.rollouts(),
    objective.advantage(case.rewards_PG).ravel(),
    Anchor(case),
    1.0,
    functools.partial(objective.weigh, longest=LONGEST),
    np.repeat(1.0 - dropped, case.size),
  )
  row_set = RowSet('solver', rows, FIELDS, coefficients)
  batch, _ = make_batch(row_set, 0, mesh, Shapes(32, 1))
  assert batch.microbatches > 1
  assert batch.segments.max() > 2
  assert (batch.segments == 0).any()

  # The microbatches' sums add up, so they may as well be one.
  targets, segments, weight, fields = jax.tree.map(
    lambda x: x.reshape(-1, x.shape[-1]),
    (batch.targets, batch.segments, batch.weight, batch.fields),
  )

  @jax.jit
  def value(logp_NL):
    own = targets >= 100
    places = jnp.where(own, targets - 100, 0)
    # Padding must not count, however unlikely.
    logp = jnp.where(own, logp_NL.ravel()[places], -1e30)
    values, _ = losses.policy_gradient(
      logp, weight != 0, segments, fields, coefficients, objective.ratio
    )
    return jnp.sum(weight * values) / batch.total

  return value


def published(name, case, coefficients, logp_NL):
  """The negative of each paper's objective, in numpy and float64.

  From GRPO's eq. 3 (arXiv 2402.03300), Dr. GRPO's sec. 3.2 (2503.20783; the sum
  over tokens divided by the longest, as released), DAPO's eq. 8 to 12
  (2503.14476; over the tokens of all prompts, as released), GSPO's eq. 5 to 7
  (2507.18071) and RLOO's eq. 6 (2402.14740; whole responses clipped, as in
  TRL). Each with the divergence of GRPO's eq. 4.

  Returns:
    The value, and the ratios that are clipped.
  """
  low, high = coefficients['clip_low'], coefficients['clip_high']
  n, mask, rewards = len(case.which_N), case.mask_NL, case.rewards_PG
  lengths = mask.sum(1)
  old, anchor = np.float64(case.old_NL), np.float64(case.anchor_NL)
  gap = (anchor - logp_NL) * mask
  kl = coefficients['kl'] * (np.exp(gap) - gap - 1)
  log_ratio = (logp_NL - old) * mask

  advantage = rewards - rewards.mean(1, keepdims=True)
  if name == 'rloo':
    others = rewards.sum(1, keepdims=True) - rewards
    advantage = rewards - others / (case.size - 1)
  elif name != 'dr_grpo':
    advantage = advantage / (rewards.std(1, keepdims=True) + 1e-4)
  advantage = advantage.ravel()

  def surrogate(ratio, advantage):
    clipped = np.clip(ratio, 1 - low, 1 + high)
    return np.minimum(ratio * advantage, clipped * advantage)

  if name in ('gspo', 'rloo'):
    power = lengths if name == 'gspo' else 1
    ratio = np.exp(log_ratio.sum(1) / power)
    value = surrogate(ratio, advantage) - kl.sum(1) / lengths
    return -value.mean(), ratio
  ratio = np.exp(log_ratio)
  value = (surrogate(ratio, advantage[:, None]) - kl) * mask
  if name == 'grpo':
    return -(value.sum(1) / lengths).mean(), ratio[mask]
  if name == 'dr_grpo':
    return -value.sum() / (n * LONGEST), ratio[mask]
  kept = np.repeat(rewards.max(1) > rewards.min(1), case.size)
  return -value[kept].sum() / lengths[kept].sum(), ratio[mask]


def slope(function, x, h=1e-5):
  """Central differences."""
  out = np.zeros(x.shape)
  for i in np.ndindex(x.shape):
    step = np.zeros(x.shape)
    step[i] = h
    out[i] = (function(x + step) - function(x - step)) / (2 * h)
  return out


@every_objective
def test_the_objective_is_the_published_one(name, one_device):
  case = Case()
  x = np.float64(case.logp_NL)

  def reference(logp_NL):
    return published(name, case, COEFFICIENTS, logp_NL[case.which_N])[0]

  wanted, ratio = published(name, case, COEFFICIENTS, x)
  low, high = 1 - COEFFICIENTS['clip_low'], 1 + COEFFICIENTS['clip_high']
  assert (ratio < low).any() and (ratio > high).any()
  assert ((ratio > low) & (ratio < high)).any()
  value = ours(name, case, COEFFICIENTS, one_device)
  found, gradient = jax.value_and_grad(value)(jnp.asarray(case.logp_NL))
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
  np.testing.assert_allclose(gradient, slope(reference, x), rtol=0, atol=1e-6)
  assert abs(wanted) > 1e-3 and np.abs(gradient).max() > 1e-2


def test_objectives_differ():
  case = Case()
  x = np.float64(case.logp_NL)
  values = [published(n, case, COEFFICIENTS, x)[0] for n in OBJECTIVES]
  apart = np.abs(np.subtract.outer(values, values))
  assert apart[~np.eye(5, dtype=bool)].min() > 1e-3


def on_policy_gradient(name, case, mesh):
  value = ours(name, case, COEFFICIENTS | {'kl': 0.0}, mesh)
  return np.asarray(jax.grad(value)(jnp.asarray(case.old_NL)))


def test_on_policy_rloo_is_reinforce(one_device):
  case = Case()
  found = on_policy_gradient('rloo', case, one_device)
  wanted = np.zeros(found.shape)
  for i, which in enumerate(case.which_N):
    group, own = divmod(i, case.size)
    rewards = case.rewards_PG[group]
    advantage = rewards[own] - np.delete(rewards, own).mean()
    wanted[which] -= case.mask_NL[i] * advantage / len(case.which_N)
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-7)
  assert np.abs(wanted).max() > 0.05


def test_on_policy_gspo_is_grpo(one_device):
  case = Case()
  grpo, gspo = (
    on_policy_gradient(name, case, one_device) for name in ('grpo', 'gspo')
  )
  np.testing.assert_allclose(gspo, grpo, rtol=0, atol=1e-7)
  assert np.abs(grpo).max() > 0.04

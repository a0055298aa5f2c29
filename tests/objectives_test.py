"""Objectives: ratios, weights, and the published formulas as a whole."""

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

every_objective = pytest.mark.parametrize('name', OBJECTIVES)
RATIOS = (
  losses.token_ratio,
  losses.sequence_ratio,
  losses.sequence_mean_ratio,
)
COEFFICIENTS = {'clip_low': 0.1, 'clip_high': 0.15, 'kl': 0.3}
LONGEST = 8


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
  with pytest.raises(ValueError, match=r"'grpp'; it must be.*'grpo'"):
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
        prompt=Prompt('solver', '', address=i // self.size),
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

"""Losses by hand, against float64 references and in their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from jaxdistill import losses

CLIP = 0.2
LOSSES = {
  'clipped_policy': lambda x, y, a: losses.clipped_policy(x - y, a, CLIP, CLIP),
  'k3': lambda x, y, a: losses.k3(x, y),
}
every_loss = pytest.mark.parametrize('name', LOSSES)


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


RATIOS = (losses.token_ratio, losses.sequence_ratio, losses.sequence_mean_ratio)
COEFFICIENTS = {
  **{'clip_low': CLIP, 'clip_high': CLIP},
  **{'kl': 0.5, 'importance_cap': 2.0},
}


@pytest.mark.parametrize('ratio', RATIOS)
def test_a_step_ahead_is_none_where_weights_are_equal(ratio):
  logp, old, advantage = (x.reshape(4, 16) for x in draws())
  segments = jnp.arange(64).reshape(4, 16) % 16 // 5  # 0 is not trained
  fields = {'old_logp': old, 'advantage': advantage, 'anchor_logp': logp[::-1]}

  def loss(logp, fields):
    value, metrics = losses.policy_gradient(
      logp, segments > 0, segments, fields, COEFFICIENTS, ratio
    )
    return jnp.where(segments > 0, value, 0).sum(), (value, metrics)

  of = jax.grad(loss, has_aux=True)
  plain, (value, metrics) = of(logp, fields)
  old = jnp.where(segments > 0, old, -7.0)  # what is not trained is not read
  ahead, (same, more) = of(logp, fields | {'start_logp': old})
  np.testing.assert_array_equal(plain, ahead)
  trained = segments > 0
  np.testing.assert_array_equal(value[trained], same[trained])
  assert not more.pop('capped')[trained].any()
  for name in metrics:
    np.testing.assert_array_equal(metrics[name][trained], more[name][trained])


def test_older_tokens_weigh_by_how_likely_they_became():
  """Start over old: 1, 1/2, 3/2, 8; now over start: 1.1, 1.1, 0.5, 1.5."""
  old = jnp.log(jnp.float32([[0.2, 0.4, 0.2, 0.05]]))
  start = jnp.log(jnp.float32([[0.2, 0.2, 0.3, 0.4]]))
  now = start + jnp.log(jnp.float32([[1.1, 1.1, 0.5, 1.5]]))
  fields = {'old_logp': old, 'start_logp': start, 'advantage': jnp.ones((1, 4))}
  one = jnp.ones((1, 4), int)

  def loss(now, coefficients=COEFFICIENTS, **more):
    return losses.policy_gradient(
      now, one > 0, one, fields | more, coefficients
    )

  value, metrics = loss(now)
  wanted = [-1.1, -1.1 / 2, -0.5 * 1.5, -1.2 * 2]
  np.testing.assert_allclose(value, [wanted], rtol=1e-5)
  np.testing.assert_array_equal(metrics['capped'], [[0, 0, 0, 1]])
  np.testing.assert_array_equal(metrics['clipped'], [[0, 0, 1, 1]])
  higher, _ = loss(now, COEFFICIENTS | {'importance_cap': 100.0})
  np.testing.assert_allclose(higher[0, 3], -1.2 * 8, rtol=1e-5)
  # The gradient is the ratio's, times a weight that has none.
  slope = jax.grad(lambda x: loss(x)[0].sum())(now)
  np.testing.assert_allclose(slope, [[-1.1, -0.55, -0.75, 0]], rtol=1e-5)
  # The divergence does not weigh so.
  held, more = loss(now, anchor_logp=old)
  np.testing.assert_allclose(held - value, 0.5 * more['kl_base'], rtol=1e-4)


@pytest.mark.parametrize('ratio', RATIOS)
def test_where_the_start_is_now_nothing_is_given(ratio):
  logp, old, advantage = (x.reshape(4, 16) for x in draws())
  segments = jnp.arange(64).reshape(4, 16) % 16 // 5
  fields = {'old_logp': old, 'advantage': advantage}

  def loss(logp, start):
    value, metrics = losses.policy_gradient(
      *(logp, segments > 0, segments, fields | {'start_logp': start}),
      *(COEFFICIENTS, ratio),
    )
    assert not metrics['clipped'].any()
    return jnp.where(segments > 0, value, 0).sum()

  given, own = (
    jax.value_and_grad(loss)(logp, start)
    for start in (logp, jnp.full_like(logp, jnp.inf))
  )
  np.testing.assert_array_equal(given[0], own[0])
  np.testing.assert_array_equal(given[1], own[1])
  assert own[1].any()


def test_sequences_weigh_as_a_whole():
  start = jnp.log(jnp.float32([[2.0, 4.0, 1.0, 0.5]]))
  segments = jnp.array([[1, 1, 2, 2]])
  zeros = jnp.zeros((1, 4))
  fields = {'old_logp': zeros, 'start_logp': start, 'advantage': zeros + 1}
  for ratio, wanted in (
    (losses.sequence_ratio, [5, 5, 0.5, 0.5]),
    (losses.sequence_mean_ratio, [8**0.5] * 2 + [0.5**0.5] * 2),
  ):
    value, _ = losses.policy_gradient(
      *(start, segments > 0, segments, fields),
      *(COEFFICIENTS | {'importance_cap': 5.0}, ratio),
    )
    np.testing.assert_allclose(value, -np.float32([wanted]), rtol=1e-5)


@pytest.mark.parametrize('gap', [-200.0, 0.0, 200.0])
def test_a_weight_is_finite(gap):
  found = losses.truncated_importance(jnp.float32([gap]), 2.0)
  np.testing.assert_allclose(found, [min(np.exp(gap), 2.0)], atol=1e-6)


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


def test_what_has_the_wrong_shape_is_refused():
  """By the import hook of `conftest.py`."""
  with pytest.raises(TypeCheckError, match='summed'):
    losses.distill.summed(jnp.float32(1.0))

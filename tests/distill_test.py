"""Divergences against float64, in their limits, and as bounds of each other."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from jaxdistill import losses, rewards
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.linear import Weights
from jaxdistill.models.scoring import Hidden

V = 50
ALPHAS = (0.0, 0.01, 0.3, 0.5, 0.99, 1.0)
every_alpha = pytest.mark.parametrize('alpha', ALPHAS)


def draws(n=8, size=V, seed=0, sharpness=1.5):
  rng = np.random.default_rng(seed)
  return jnp.float32(rng.normal(0, sharpness, (2, n, size)))


def expected(s, t, alpha):
  """The same from logits in float64, outcome by outcome, as it is written."""
  log_s, log_t = (log_softmax(np.float64(x), -1) for x in (s, t))
  kl = lambda a, b: np.exp(a) * (a - b)  # noqa: E731
  if alpha == 0:
    return kl(log_t, log_s)
  if alpha == 1:
    return kl(log_s, log_t)
  log_m = np.log(alpha * np.exp(log_t) + (1 - alpha) * np.exp(log_s))
  return alpha * kl(log_t, log_m) + (1 - alpha) * kl(log_s, log_m)


def found(s, t, alpha, outcomes=losses.over_all, rescaled=False):
  terms = losses.divergence(alpha, rescaled)(*outcomes(s, t))
  return np.asarray(losses.summed(terms), np.float64)


def top(of, k, tail=True):
  return functools.partial(getattr(losses, f'over_{of}_top'), k=k, tail=tail)


@every_alpha
def test_against_float64(alpha):
  for size in (2, V, 3000):
    s, t = draws(size=size)
    want = expected(s, t, alpha).sum(-1)
    np.testing.assert_allclose(found(s, t, alpha), want, rtol=1e-5, atol=1e-7)


def test_by_hand():
  s, t = (
    jnp.log(jnp.float32([[0.5, 0.5]])),
    jnp.log(jnp.float32([[0.25, 0.75]])),
  )
  forward = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
  reverse = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
  np.testing.assert_allclose(found(s, t, 0), [forward], rtol=1e-5)
  np.testing.assert_allclose(found(s, t, 1), [reverse], rtol=1e-5)
  assert forward != pytest.approx(reverse, rel=0.05)  # told apart


@every_alpha
def test_none_of_oneself(alpha):
  s, _ = draws()
  np.testing.assert_allclose(found(s, s, alpha), 0, atol=1e-6)
  grad = jax.grad(
    lambda x: losses.summed(
      losses.divergence(alpha)(*losses.over_all(x, s))
    ).sum()
  )
  np.testing.assert_allclose(grad(jnp.asarray(s)), 0, atol=1e-6)


def test_the_scale_vanishes_towards_both_ends_unless_rescaled():
  s, t = draws()
  forward, reverse = found(s, t, 0), found(s, t, 1)
  assert (found(s, t, 0.01) < 0.03 * forward).all()
  assert (found(s, t, 0.99) < 0.03 * reverse).all()
  for alpha, end in ((1e-3, forward), (1 - 1e-3, reverse)):
    near = found(s, t, alpha, rescaled=True)
    np.testing.assert_allclose(near, end, rtol=0.03)
  assert (found(s, t, 0.5) <= np.log(2)).all()


@every_alpha
def test_merged_outcomes_are_a_lower_bound(alpha):
  with jax.enable_x64(True):  # float32 says of a small rest only how small
    for k in (1, 2, 3, 5, 10, 20, 30, 45):  # 200 cases in all
      s, t = jnp.float64(draws(25, seed=k, sharpness=0.5 + k % 4))
      exact = found(s, t, alpha)
      for of in ('student', 'teacher'):
        assert (found(s, t, alpha, top(of, k)) <= exact + 1e-5).all()
    # Of all but one the rest is that one, and of all there is no rest.
    for k in (V - 1, V, V + 7):
      near = found(s, t, alpha, top('student', k))
      np.testing.assert_allclose(near, exact, rtol=1e-4, atol=1e-5)


@every_alpha
def test_the_rest_in_float32(alpha):
  for k in (1, 10, 40):
    s, t = draws()
    near = found(s, t, alpha, top('student', k))
    with jax.enable_x64(True):
      want = found(jnp.float64(s), jnp.float64(t), alpha, top('student', k))
    np.testing.assert_allclose(near, want, rtol=1e-4)


def test_the_top_by_hand():
  p = jnp.float32([[0.5, 0.25, 0.15, 0.1]])  # the student's
  q = jnp.float32([[0.1, 0.2, 0.3, 0.4]])
  s, t = jnp.log(p), jnp.log(q)
  log_s, log_t = losses.over_student_top(s, t, 2)
  np.testing.assert_allclose(np.exp(log_s), [[0.5, 0.25, 0.25]], rtol=1e-5)
  np.testing.assert_allclose(np.exp(log_t), [[0.1, 0.2, 0.7]], rtol=1e-5)
  log_s, log_t = losses.over_teacher_top(s, t, 2)
  np.testing.assert_allclose(np.exp(log_s), [[0.1, 0.15, 0.75]], rtol=1e-5)
  log_s, log_t = losses.over_student_top(s, t, 2, tail=False)
  np.testing.assert_allclose(np.exp(log_s), [[2 / 3, 1 / 3]], rtol=1e-5)
  np.testing.assert_allclose(np.exp(log_t), [[1 / 3, 2 / 3]], rtol=1e-5)


def test_renormalised_is_no_bound():
  above = below = 0
  for seed in range(50):
    s, t = draws(seed=seed)
    exact, near = (
      found(s, t, 1, x) for x in (losses.over_all, top('student', 10, False))
    )
    above, below = above + (near > exact).sum(), below + (near < exact).sum()
  assert above and below


@pytest.mark.parametrize('tail', [True, False])
def test_what_a_teacher_left_behind_is_as_good_as_the_teacher(tail):
  s, t = draws()
  logp = jax.nn.log_softmax(t)
  kept, ids = jax.lax.top_k(logp, 7)
  for a, b in zip(
    losses.over_given(s, ids, kept, tail),
    losses.over_teacher_top(s, t, 7, tail),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_sampled_token_s_gradient_is_the_exact_one_on_average():
  s, t = (jnp.asarray(x[:1]) for x in draws())

  def exact(s):
    return losses.summed(losses.reverse_kl(*losses.over_all(s, t))).sum()

  def sampled(s, y):
    log_s, log_t = losses.over_all(s, t)
    return losses.sampled_token(log_s[0, y], log_t[0, y])

  want = jax.grad(exact)(s)
  each = jax.vmap(jax.grad(sampled), (None, 0))(s, jnp.arange(V))
  p = jax.nn.softmax(s[0])
  np.testing.assert_allclose(jnp.einsum('v,vij->ij', p, each), want, atol=1e-6)
  # And from draws, within four of their standard errors.
  n = 20_000
  drawn = np.asarray(each)[np.random.default_rng(0).choice(V, n, p=p)][:, 0]
  error = drawn.std(0) / np.sqrt(n)
  assert (np.abs(drawn.mean(0) - want[0]) <= 4 * error + 1e-6).all()


def test_entries_are_cut_one_by_one():
  terms = jnp.float32([[0.3, -0.1, 0.02], [0.04, 0.0, -0.2]])
  np.testing.assert_allclose(losses.summed(terms), [0.22, -0.16], atol=1e-6)
  np.testing.assert_allclose(
    losses.summed(terms, 0.05), [-0.03, -0.16], atol=1e-6
  )


def test_far_apart_is_finite():
  s, t = jnp.float32([[80.0, -80.0, 0.0]]), jnp.float32([[-80.0, 80.0, 0.0]])
  for alpha in ALPHAS:
    for outcomes in (losses.over_all, top('student', 1), top('teacher', 1)):

      def value(x, alpha=alpha, outcomes=outcomes):
        terms = losses.divergence(alpha)(*outcomes(x, t))
        return losses.summed(terms).sum()

      assert np.isfinite(value(s)) and np.isfinite(jax.grad(value)(s)).all()


def test_a_chunk_at_a_time_takes_a_quarter_of_the_memory():
  b, r, d, vocabulary = 4, 2048, 8, 150_000
  config = DecoderConfig(vocabulary, d, 1, 1, 1, d, d, embed_scale=1.0)
  struct = jax.ShapeDtypeStruct
  states, head = (
    struct(shape, 'float32') for shape in ((b, r, d), (d, vocabulary))
  )

  def loss(fn):
    def value(states, others, head):
      logits = [
        Hidden(x, Weights(head, None, None), config) for x in (states, others)
      ]
      return fn(*logits).sum()

    args = states, states, head
    compiled = jax.jit(jax.grad(value)).lower(*args).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  def distance(s, t):
    return losses.summed(losses.reverse_kl(*top('student', 100)(s, t)))

  plain = loss(lambda s, t: distance(s.logits(s.states), t.logits(t.states)))
  chunked = loss(lambda s, t: s.over(distance, t))
  assert chunked <= plain / 4


def test_minillm_is_the_gradient_of_the_reverse_kl_of_whole_responses():
  size, length = 3, 3
  draw = np.random.default_rng(0)
  # Logits after every prefix, by its last token and its length.
  student = jnp.float32(draw.normal(0, 1, (length, size + 1, size)))
  teacher = jnp.float32(draw.normal(0, 1, (length, size + 1, size)))

  def logp(logits, y):
    last = [size, *y[:-1]]
    table = jax.nn.log_softmax(logits)
    return jnp.stack([table[t, last[t], y[t]] for t in range(length)])

  every = list(itertools.product(range(size), repeat=length))

  def exact(student):
    total = 0.0
    for y in every:
      s, t = logp(student, y).sum(), logp(teacher, y).sum()
      total += jnp.exp(s) * (s - t)
    return total

  def surrogate(own_student, y):
    own = logp(own_student, y)
    reward = np.asarray(logp(teacher, y) - logp(student, y))
    advantage = jnp.asarray(rewards.after(reward))
    value = losses.clipped_policy(
      own - jax.lax.stop_gradient(own), advantage, 0.2, 0.2
    )
    last = [size, *y[:-1]]
    one_step = [
      losses.summed(
        losses.reverse_kl(
          *losses.over_all(own_student[t, last[t]], teacher[t, last[t]])
        )
      )
      for t in range(length)
    ]
    return (value + jnp.stack(one_step)).sum()

  found = sum(
    float(jnp.exp(logp(student, y).sum())) * jax.grad(surrogate)(student, y)
    for y in every
  )
  np.testing.assert_allclose(found, jax.grad(exact)(student), atol=1e-5)

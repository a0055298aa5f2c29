"""Losses of pairs: by hand, as TRL has them, however they are packed."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import expit
from tiny import TINY

from jaxdistill import losses
from jaxdistill.batch import Shapes, make_batch
from jaxdistill.models import Decoder, Deltas
from jaxdistill.types import Row, RowSet

HERE = pathlib.Path(__file__)
TRL = json.loads(HERE.with_name('trl_preference.json').read_text())
NAMES = {'sigmoid': 'dpo', 'ipo': 'ipo'}


def packed(pairs, *, padding=0):
  """Pairs of log-ratios in one sequence, the halves of each one after another.

  Args:
    pairs: Per pair the log-ratios of its chosen and of its rejected response.
    padding: Tokens at the end that are of no response.
  """
  out = {name: [] for name in ('ratio', 'sign', 'trained', 'segments', 'pairs')}
  for n, pair in enumerate(pairs):
    for half, sign in zip(pair, (1.0, -1.0), strict=True):
      out['ratio'] += [*half]
      out['sign'] += [sign] * len(half)
      out['trained'] += [True] * len(half)
      out['segments'] += [2 * n + (sign < 0) + 1] * len(half)
      out['pairs'] += [n + 1] * len(half)
  for name, filler in (('ratio', -50.0), ('sign', 0.0), ('trained', False)):
    out[name] += [filler] * padding
  for name in ('segments', 'pairs'):
    out[name] += [0] * padding
  return {k: jnp.asarray(v)[None] for k, v in out.items()}


def values_of(name, pairs, beta, reference=0.0, **more):
  """The value of each pair, read at its first token, and the metrics."""
  p = packed(pairs, **more)
  fields = {'sign': p['sign'], 'old_logp': reference * jnp.abs(p['sign'])}
  value, metrics = losses.preference(
    p['ratio'] + fields['old_logp'],
    *(p['trained'], p['segments'], p['pairs'], fields, beta, name),
  )
  pairs = np.asarray(p['pairs'][0])
  first = [int(np.argmax(pairs == n + 1)) for n in range(pairs.max())]
  for n, i in enumerate(first):  # the same at all tokens of a pair
    at = np.asarray(value[0])[pairs == n + 1]
    np.testing.assert_array_equal(at, value[0, i])
  return (
    np.asarray(value[0])[first],
    {k: np.asarray(v[0])[first] for k, v in metrics.items()},
  )


PAIRS = [([0.5, 0.25], [-0.5]), ([-1.0], [0.25, 0.5, 0.75])]


def test_by_hand():
  value, metrics = values_of('dpo', PAIRS, 0.1)
  # .75 - -.5 and -1 - 1.5: sums.
  np.testing.assert_allclose(metrics['margin'], [1.25, -2.5], atol=1e-6)
  np.testing.assert_allclose(metrics['chosen_ratio'], [0.75, -1], atol=1e-6)
  wanted = [np.log1p(np.exp(-0.125)), np.log1p(np.exp(0.25))]
  np.testing.assert_allclose(value, wanted, atol=1e-6)
  value, metrics = values_of('ipo', PAIRS, 0.25)
  # .375 - -.5 and -1 - .5: means; the aim is 1 / (2 * .25) = 2.
  np.testing.assert_allclose(metrics['margin'], [0.875, -1.5], atol=1e-6)
  np.testing.assert_allclose(metrics['chosen_ratio'], [0.375, -1], atol=1e-6)
  np.testing.assert_allclose(value, [1.125**2, 3.5**2], atol=1e-6)


@pytest.mark.parametrize('name', losses.PREFERENCES)
def test_only_ratios_count_and_only_of_responses(name):
  plain, _ = values_of(name, PAIRS, 0.3)
  padded, _ = values_of(name, PAIRS, 0.3, reference=-4.0, padding=7)
  np.testing.assert_allclose(plain, padded, atol=1e-6)


def test_pairs_that_are_apart_teach_little_by_dpo_and_nothing_at_ipo_s_aim():
  def slope(name, margin, beta):
    value = losses.PREFERENCES[name][1]
    return float(jax.grad(value)(margin, beta))

  for margin in (-3.0, 0.0, 1.0, 40.0):
    wanted = -0.1 * expit(-0.1 * margin)
    assert slope('dpo', margin, 0.1) == pytest.approx(wanted, rel=1e-6)
  assert slope('ipo', 5.0, 0.1) == 0
  assert slope('ipo', 6.0, 0.1) == pytest.approx(2)  # back to its aim
  assert slope('dpo', 6.0, 0.1) < 0  # further on
  huge = [losses.dpo(jnp.float32(x), 1.0) for x in (-1e4, 1e4)]
  assert np.isfinite(huge).all() and huge[1] == 0


@pytest.mark.parametrize(
  'case', TRL['values'], ids=lambda c: str([*c.values()])
)
def test_as_trl_has_it(case):
  """On log-probs of a model of its own; see the file that `made_by` names."""
  ratios = [
    np.subtract(policy, reference)
    for policy, reference in zip(TRL['policy'], TRL['reference'], strict=True)
  ]
  half = len(ratios) // 2  # chosen ones first
  pairs = [*zip(ratios[:half], ratios[half:], strict=True)]
  assert {len(x) for x in ratios} > {1, 5}  # lengths differ
  value, _ = values_of(NAMES[case['loss']], pairs, case['beta'], padding=3)
  assert value.mean() == pytest.approx(case['value'], rel=1e-5)


def test_rows_drawn_ahead_are_held_against_the_policy_that_learns():
  p = packed(PAIRS, padding=2)
  args = p['trained'], p['segments'], p['pairs']
  start = jnp.where(p['trained'], -0.3, 0.0)
  fields = {'sign': p['sign'], 'old_logp': start - 9}

  def of(logp, **more):
    return losses.preference(logp, *args, {**fields, **more}, 0.1)[0]

  wanted = losses.preference(
    p['ratio'], *args, {'sign': p['sign'], 'old_logp': start}, 0.1
  )[0]
  found = of(p['ratio'], start_logp=start)
  np.testing.assert_allclose(found[p['trained']], wanted[p['trained']])
  # Not scored, because it is the policy that is being differentiated.
  unscored = jnp.full_like(start, jnp.inf)
  value = of(p['ratio'], start_logp=unscored)[p['trained']]
  np.testing.assert_allclose(value, np.log(2), atol=1e-6)
  slope = jax.grad(lambda x: of(x, start_logp=unscored)[0, 0])(p['ratio'])
  np.testing.assert_allclose(  # beta / 2, up and down, nothing of the second
    slope[0], [-0.05, -0.05, 0.05, 0, 0, 0, 0, 0, 0], atol=1e-7
  )


_read = nnx.jit(Decoder.__call__)


@pytest.mark.parametrize('name', losses.PREFERENCES)
@pytest.mark.parametrize('sequences', [1, 4])
def test_a_batch_is_the_mean_over_pairs(one_device, name, sequences):
  """In one packed sequence or in several, by a model's own log-probs."""
  draw, rows, pairs = np.random.default_rng(0), [], []
  model = Decoder(TINY, Deltas(), rngs=nnx.Rngs(0))
  for n, lengths in enumerate(((2, 4), (3, 1), (5, 5), (1, 2))):
    prompt = draw.integers(1, 20, 3).astype(np.int32)
    ratios = []
    for length, sign in zip(lengths, (1.0, -1.0), strict=True):
      response = draw.integers(1, 20, length).astype(np.int32)
      read = np.zeros((1, 8), np.int32)
      read[0, : 3 + length] = np.concatenate([prompt, response])
      logits = jax.nn.log_softmax(_read(model, read)[0])[2 : 2 + length]
      logp = np.asarray(logits)[np.arange(length), response]
      old = logp - draw.standard_normal(length).astype(np.float32)
      ratios.append(logp - old)
      fields = {'sign': np.full(length, sign, np.float32), 'old_logp': old}
      weight = np.full(length, 1 / sum(lengths), np.float32)
      rows.append(Row(prompt, response, weight, 0.5, fields, pair=n))
    pairs.append(ratios)
  row_set = RowSet('', rows, ('sign', 'old_logp'), paired=True)
  batch, _ = make_batch(
    row_set, 0, one_device, Shapes(64 // sequences, sequences)
  )

  def one(micro):
    value, _ = losses.preference(
      micro.logprobs(model),
      *(
        micro.weight != 0,
        micro.segments,
        micro.pairs,
        micro.fields,
        0.2,
        name,
      ),
    )
    return micro.weighted(value)

  wanted, _ = values_of(name, pairs, 0.2)
  found = jax.jit(lambda batch: batch.summed(one) / batch.total)(batch)
  assert batch.total == 4
  assert float(found) == pytest.approx(wanted.mean(), rel=1e-5)

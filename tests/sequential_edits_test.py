"""Edits in sequence: what is left of those before."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scripted import KEY, watched, words
from seal_test import PROBLEMS, Learner, request

from jaxdistill import losses
from jaxdistill.config.keys import filled
from jaxdistill.methods.sequential_edits import SequentialEdits
from jaxdistill.types import Records

SCRIPT = {request(0): ['red\ntwo'], request(1): ['ten']}


def method_of(**keys):
  return filled(
    SequentialEdits,
    {'with_passage': False, 'answer_tokens': 8, 'seeds': 1} | keys,
  )


def steps(script=SCRIPT, known='', **keys):
  """Two steps of one method, each from what the last one left."""
  method, state, out, policy = method_of(**keys), None, [], None
  for i, problem in enumerate(PROBLEMS):
    state = method.init() if state is None else state
    policy = Learner(script, known)
    given = [dataclasses.replace(problem, address=0)]
    found = method.collect({'policy': policy}, given, state, i, KEY)
    out.append((found, policy))
    state = found.state
  return out


def docs(policy):
  (note,) = [n for n in policy.notes if n[0] == 'learned']
  return [words(r).partition('|')[2] for s in note[1] for r in s.rows]


def test_rows_of_the_matrix_by_hand():
  (first, one), (second, two) = steps()
  # What a scripted learner knows is its last lesson, so all else is forgotten.
  assert docs(one) == ['red', 'two'] and docs(two) == ['ten']
  assert watched('edits') <= first.metrics.keys()
  np.testing.assert_allclose(first.metrics['edits/before'], [0])
  np.testing.assert_allclose(first.metrics['edits/now'], [1])
  assert len(first.metrics['edits/earlier']) == 0
  assert len(first.metrics['edits/forgotten']) == 0
  np.testing.assert_allclose(second.metrics['edits/now'], [0.5])
  np.testing.assert_allclose(second.metrics['edits/earlier'], [0])
  np.testing.assert_allclose(second.metrics['edits/forgotten'], [1])
  np.testing.assert_allclose(second.metrics['edits/gained'], [0, 0.5])
  rows = [r['row'] for r in second.state['edits']]
  assert rows == [[1.0], [0.0, 0.5]]
  assert second.adopt.known and not second.updates
  assert first.metrics.keys() == second.metrics.keys()
  assert isinstance(second.state['edits'], Records)
  json.dumps([*second.state['edits']])


def test_replay_learns_earlier_edits_again():
  _, (second, policy) = steps(replay=1)
  assert docs(policy) == ['ten', 'red', 'two']
  np.testing.assert_allclose(second.metrics['edits/all'], [1, 0.5])
  np.testing.assert_allclose(second.metrics['edits/forgotten'], [0])
  for note in policy.notes:
    if note[0] == 'learned':
      weights = [row.weight_R.sum() for row in note[1][0].rows]
      np.testing.assert_allclose(weights, 1, atol=1e-6)


def test_the_passage_alone_and_nothing():
  _, (second, policy) = steps(learn='passage')
  assert docs(policy) == ['Ben is blue ten']
  np.testing.assert_allclose(second.metrics['edits/now'], [1])
  script = {request(0): [''], request(1): ['ten']}
  (first, policy), _ = steps(script)
  assert docs(policy) == [] and first.metrics['edits/void'] == [1]
  np.testing.assert_allclose(first.metrics['edits/now'], [0])


@pytest.mark.parametrize(
  ('keys', 'said'),
  [
    ({'problems': 2}, 'problems is 2.*both must be 1'),
    ({'seeds': 3}, 'seeds 3'),
    ({'learn': 'edits'}, "learn is 'edits'"),
    ({'replay': -1}, 'replay is -1'),
    ({'kl': -0.5}, 'kl -0.5'),
  ],
)
def test_bad_settings_end_in_one_line(keys, said):
  with pytest.raises(ValueError, match=said) as error:
    method_of(**keys)
  assert '\n' not in str(error.value)


@dataclasses.dataclass
class Batch:
  """One sequence whose logits are given."""

  logits: jax.Array
  targets: jax.Array
  fields: dict

  def logprobs(self, model):
    return losses.token_logp(*map(jnp.asarray, (self.logits, self.targets)))

  def over_targets(self, fn, model, *, arrays):
    return fn(*map(jnp.asarray, (self.logits, *arrays)))


def test_the_divergence_is_from_the_first_model():
  rng = np.random.default_rng(0)
  logits, base = rng.normal(size=(2, 1, 3, 6)).astype(np.float32)
  logq = np.asarray(jax.nn.log_softmax(base))
  ids = np.argsort(-logq, -1)[..., :3].astype(np.int32)
  top = np.take_along_axis(logq, ids, -1)
  targets = np.array([[0, 4, 2]], np.int32)
  batch = Batch(logits, targets, {'ids': ids, 'base_logp': top})
  values, _ = method_of(kl=0.5, kl_top=3).loss(None, {}, batch)
  logp = np.asarray(jax.nn.log_softmax(logits))
  for t in range(3):
    p = np.exp(logp[0, t, ids[0, t]])
    q = np.exp(top[0, t])
    p, q = (np.append(x, 1 - x.sum()) for x in (p, q))
    kl = (q * np.log(q / p)).sum()
    wanted = 0.5 * kl - logp[0, t, targets[0, t]]
    assert values[0, t] == pytest.approx(wanted, abs=1e-5)
  assert method_of(kl=0.5).anchors == {'base': 'frozen'}
  assert method_of().anchors == {}
  # From itself it is not apart: what is left is the likelihood.
  same = Batch(jnp.array(base), targets, batch.fields)
  values, _ = method_of(kl=0.5, kl_top=3).loss(None, {}, same)
  nll = -np.take_along_axis(logq, targets[..., None], -1)[..., 0]
  np.testing.assert_allclose(values, nll, atol=1e-5)

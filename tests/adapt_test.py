"""Short trainings of many adapters: each as if it were alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from players import KEY, PROMPTS, make_player

from jaxdistill.models.linear import InnerDelta
from jaxdistill.optimizer import OptimizerConfig
from jaxdistill.rollout import Sampling, adapt
from jaxdistill.types import RowSet, response_row

OPTIMIZER = OptimizerConfig(lr=0.01, clip=0.5, weight_decay=0.1)
TEXTS = (['7', '12', '5+'], ['8*8'], ['1', '99'])


def nll(model, anchors, batch):
  assert anchors == {}
  return -batch.logprobs(model), {}


@pytest.fixture
def player(one_device):
  return make_player(one_device)


def sets(player):
  return [
    RowSet(
      'proposer',
      [
        response_row(r, 1.0, len(r.tokens_T))
        for r in (player.written(PROMPTS[0], t) for t in texts)
      ],
    )
    for texts in TEXTS
  ]


def ask(player):
  told = [player.written(PROMPTS[i], '3+4') for i in (0, 2)]
  return np.concatenate(player.logprobs(told))


def adapted(player, sets_E, steps=3, **more):
  return player.adapted(sets_E, nll, OPTIMIZER, steps, key=KEY, rank=2, **more)


def test_candidates_train_as_if_alone(player):
  sets_E = sets(player)
  together = adapted(player, sets_E)
  plain = ask(player)
  for row_set, texts, one in zip(sets_E, TEXTS, together, strict=True):
    (alone,) = adapted(player, [row_set])
    np.testing.assert_allclose(ask(one), ask(alone), atol=1e-5)
    assert np.abs(ask(one) - plain).max() > 1e-3
    # Its own data has become likelier.
    told = [player.written(PROMPTS[0], t) for t in texts]
    gain = [
      a.sum() - b.sum()
      for a, b in zip(one.logprobs(told), player.logprobs(told), strict=True)
    ]
    assert sum(gain) > 0
  np.testing.assert_array_equal(ask(player), plain)  # it has not moved


def test_an_inner_training_by_hand(player):
  """AdamW on the adapter alone, by optax, on rows that are not packed."""
  (row_set, *_) = sets(player)
  (found,) = adapted(player, [row_set])
  model = nnx.merge(player.graphdef, *player.params)
  deltas = dataclasses.replace(model.deltas, inner=2, inner_alpha=16.0)
  graphdef = adapt.widened(model.config, deltas)
  adapters = adapt.fresh_adapters(model.config, deltas, KEY[None])
  adapter = jax.tree.map(lambda x: x[0], adapters)
  trunk = nnx.state(model)

  def loss(adapter):
    model, total = nnx.merge(graphdef, adapter, trunk), 0.0
    for row in row_set.rows:
      tokens = np.concatenate([row.prompt_T, row.response_R])[None]
      logp = jax.nn.log_softmax(model(jnp.asarray(tokens), role=1))[0]
      places = jnp.arange(len(row.prompt_T) - 1, tokens.shape[1] - 1)
      total -= logp[places, row.response_R].sum()
    return total / sum(row.total for row in row_set.rows)

  tx = optax.chain(
    optax.clip_by_global_norm(OPTIMIZER.clip),
    optax.adamw(
      OPTIMIZER.lr,
      OPTIMIZER.b1,
      OPTIMIZER.b2,
      OPTIMIZER.eps,
      weight_decay=OPTIMIZER.weight_decay,
    ),
  )
  state, gradient = tx.init(adapter), jax.jit(jax.grad(loss))
  for _ in range(3):
    updates, state = tx.update(gradient(adapter), state, adapter)
    adapter = optax.apply_updates(adapter, updates)
  for a, b in zip(
    *map(jax.tree.leaves, (found.params[0], adapter)), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=2e-5)


def test_steps_and_rates_by_candidate(player):
  sets_E = [sets(player)[0]] * 4
  found = adapted(player, sets_E, [3, 1, 0, 3], scales=[1.0, 1.0, 1.0, 0.0])
  (once,) = adapted(player, sets_E[:1], 1)
  np.testing.assert_allclose(ask(found[1]), ask(once), atol=1e-5)
  for still in found[2:]:
    np.testing.assert_allclose(ask(still), ask(player), atol=1e-5)
  assert np.abs(ask(found[0]) - ask(found[1])).max() > 1e-4
  nothing = dataclasses.replace(sets_E[0], rows=[])  # e.g. none was kept
  _, still = adapted(player, [sets_E[0], nothing])
  np.testing.assert_allclose(ask(still), ask(player), atol=1e-5)
  optimizer = OptimizerConfig(lr=1.0, schedule='linear', steps=4)
  rates = adapt.rates_of(optimizer, 2, [3, 2], [1.0, 0.5])
  np.testing.assert_allclose(rates, [[1.0, 0.75, 0.5], [0.5, 0.375, 0.0]])


def test_a_candidate_may_have_a_beginning_of_its_own(player):
  sets_E = [sets(player)[0]] * 3
  ours, other = jax.random.split(KEY)
  keys = jax.numpy.stack([ours, other, ours])
  a, b, c = player.adapted(sets_E, nll, OPTIMIZER, 3, key=keys, rank=2)
  np.testing.assert_array_equal(ask(a), ask(c))
  assert np.abs(ask(a) - ask(b)).max() > 1e-4
  (alone,) = player.adapted(sets_E[:1], nll, OPTIMIZER, 3, key=other, rank=2)
  np.testing.assert_allclose(ask(b), ask(alone), atol=1e-5)
  with pytest.raises(ValueError, match='2 candidates have 3 keys'):
    player.adapted(sets_E[:2], nll, OPTIMIZER, 3, key=keys, rank=2)


def test_an_adapted_player_generates_as_its_merged_model(player):
  (one, *_) = adapted(player, sets(player)[:1], 8)
  state = adapt.merged(nnx.merge(one.graphdef, *one.params))
  assert not any(
    isinstance(x, InnerDelta)
    for x in jax.tree.leaves(
      state, is_leaf=lambda x: isinstance(x, nnx.Variable)
    )
  )
  whole = dataclasses.replace(player, params=(state,), graphdef=player.graphdef)
  np.testing.assert_allclose(ask(whole), ask(one), atol=1e-4)
  greedy = Sampling(1, 6, temperature=0.0)
  for (a,), (b,) in zip(
    *(p.generate(PROMPTS[:3], greedy, KEY) for p in (whole, one)), strict=True
  ):
    np.testing.assert_array_equal(a.tokens_T, b.tokens_T)


def test_what_cannot_be_adapted_is_refused(player):
  sets_E = sets(player)
  (one,) = adapted(player, sets_E[:1])
  with pytest.raises(ValueError, match='merge it first'):
    adapted(one, sets_E[:1])
  other = dataclasses.replace(sets_E[1], role='solver')
  with pytest.raises(ValueError, match='differ in role'):
    adapted(player, [sets_E[0], other])

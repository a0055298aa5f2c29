"""The gradient step: the same whatever the layout, and only where it should."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from steps import (
  ADAPTER,
  HEADS,
  LORA,
  MESHES,
  METHODS,
  NO_ROLES,
  NOTHING,
  ONE_BATCH,
  OPTIMIZER,
  RATES,
  assert_equal,
  assert_same_trajectory,
  batch_of,
  both_losses,
  by_logits,
  compiled,
  fresh_state,
  make_model,
  make_rows,
  padded,
  trajectory,
  values,
)

from jaxdistill import dist
from jaxdistill.anchors import Anchors, Bank, parse_rule
from jaxdistill.batch import Shapes
from jaxdistill.checkpoint import Checkpoints, pure
from jaxdistill.models import Decoder
from jaxdistill.run.step import (
  OptimizerConfig,
  init_state,
  make_step,
  param_shardings,
  place,
  split_params,
)


@pytest.mark.parametrize(
  ('kind', 'layout'),
  [
    ('grpo', 'data=8'),
    ('grpo', 'data=2,fsdp=4'),
    ('grpo', 'data=2,fsdp=2,tensor=2'),
    ('sft', 'data=2,fsdp=2,tensor=2'),
    ('grpo', 'fsdp=2,tensor=2,context=2'),
  ],
)
def test_eight_devices_step_as_one(kind, layout):
  assert_same_trajectory(trajectory(kind, layout), trajectory(kind))


@both_losses
def test_many_microbatches_step_as_one(kind):
  many = Shapes(32, 1)
  mesh = dist.make_mesh(**MESHES['one device'])
  counts = [
    int(batch_of(kind, make_rows(i), 0, mesh, s).microbatches)
    for i in range(4)
    for s in (ONE_BATCH, many)
  ]
  assert max(counts[::2]) == 1 and min(counts[1::2]) >= 5
  assert_same_trajectory(trajectory(kind, shapes=many), trajectory(kind))


@both_losses
def test_packed_rows_step_as_rows_alone(kind):
  alone = Shapes(16, 16)
  mesh = dist.make_mesh(**MESHES['one device'])
  most = [
    int(batch_of(kind, make_rows(0), 0, mesh, s).segments.max())
    for s in (ONE_BATCH, alone)
  ]
  assert most[0] >= 2 and most[1] == 1
  assert_same_trajectory(trajectory(kind, shapes=alone), trajectory(kind))


def test_a_state_stays_where_it_is():
  mesh = dist.make_mesh(**MESHES['data=2,fsdp=2,tensor=2'])
  with jax.set_mesh(mesh):
    state = fresh_state(mesh, HEADS)
    before = [x.sharding for x in jax.tree.leaves(state)]
    for moments in (state.shared_opt[0].mu, state.shared_opt[0].nu):
      kernel = moments['q']['kernel'][...]
      assert kernel.sharding.shard_shape(kernel.shape) == (2, 8, 16)
    batch = batch_of('sft', make_rows(0), 0, mesh)
    state, _ = compiled('sft', HEADS)(state, NOTHING, {}, (batch,))
  for x, sharding in zip(jax.tree.leaves(state), before, strict=True):
    assert x.sharding.is_equivalent_to(sharding, x.ndim)


def test_offloaded_moments_take_the_same_steps():
  mesh = dist.make_mesh(**MESHES['data=2,fsdp=2,tensor=2'])
  away = dataclasses.replace(OPTIMIZER, offload=True)
  graphdef, params, _ = split_params(make_model(HEADS), 'full')
  with jax.set_mesh(mesh):
    states, metrics = {}, {}
    for optimizer in (OPTIMIZER, away):
      step = make_step(graphdef, METHODS['sft'].loss, optimizer)
      state = init_state(params, optimizer, mesh)
      for i in range(3):
        batch = batch_of('sft', make_rows(i), i % 2, mesh)
        state, metrics[optimizer] = step(state, NOTHING, {}, (batch,))
      states[optimizer] = state
  assert_equal(states[OPTIMIZER], states[away])
  assert_equal(metrics[OPTIMIZER], metrics[away])
  moments = (
    m
    for opt in (states[away].shared_opt, states[away].role_opts)
    for m in jax.tree.leaves((opt[0].mu, opt[0].nu))
  )
  assert {x.sharding.memory_kind for x in moments} == {'pinned_host'}
  others = jax.tree.leaves((states[away].params, states[OPTIMIZER]))
  assert 'pinned_host' not in {x.sharding.memory_kind for x in others}


@pytest.mark.parametrize('deltas', [HEADS, ADAPTER], ids=['heads', 'adapter'])
def test_an_idle_role_does_not_move(one_device, deltas):
  step, state = compiled('sft', deltas), fresh_state(one_device, deltas)

  def of_role(state, role):
    both = (state.params.roles, state.role_opts)
    return values(jax.tree.map(lambda x: x[role], both))

  def moved(before, after):
    return [
      not np.array_equal(a, b) for a, b in zip(before, after, strict=True)
    ]

  start, trunk = (of_role(state, 0), of_role(state, 1)), state.params.shared
  trunk = values(trunk)
  for i in range(10):
    batch = batch_of('sft', make_rows(i), 0, one_device)
    state, _ = step(state, NOTHING, {}, (batch,))
  assert all(moved(start[0], of_role(state, 0)))
  assert not any(moved(start[1], of_role(state, 1)))
  assert state.role_opts[0].count.tolist() == [10, 0]

  solver, trunk = of_role(state, 0), values(state.params.shared)
  batch = batch_of('sft', make_rows(10), 1, one_device)
  state, _ = step(state, NOTHING, {}, (batch,))
  assert not any(moved(solver, of_role(state, 0)))
  assert any(moved(start[1], of_role(state, 1)))
  assert all(moved(trunk, values(state.params.shared)))
  assert state.role_opts[0].count.tolist() == [10, 1]
  assert int(state.shared_opt[0].count) == int(state.step) == 11


def by_hand(graphdef):
  """The SFT loss and its gradient: every row alone, from the logits."""

  def loss(params, tokens, weights, total):
    logp = by_logits(nnx.merge(graphdef, *params, NOTHING), tokens)
    return -(logp * weights[:, 1:]).sum() / total

  gradient = jax.jit(jax.value_and_grad(loss))

  def of_rows(params, rows):
    total = sum(row.total for row in rows)
    return gradient(params, *padded(rows), total)

  return of_rows


def test_updates_are_those_of_optax(one_device):
  graphdef, params, _ = split_params(make_model(NO_ROLES), 'full')
  gradient_of = by_hand(graphdef)
  hand = nnx.to_pure_dict(params.shared)
  matrices = {name: 'norm' not in name for name in hand}
  plain = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(
      lambda i: jnp.array(RATES)[i],
      b1=0.9,
      b2=0.95,
      eps=1e-4,
      weight_decay=0.1,
      mask=matrices,
    ),
  )
  update, hand_state, start = jax.jit(plain.update), plain.init(hand), hand
  step, state = compiled('sft', NO_ROLES), fresh_state(one_device, NO_ROLES)
  for i, size in enumerate((1.0, 0.1, 1.0, 0.2)):  # clipped: first and third
    rows = [
      dataclasses.replace(row, weight_R=row.weight_R * np.float32(size))
      for row in make_rows(i)
    ]
    loss, gradient = gradient_of(state.params, rows)
    gradient = nnx.to_pure_dict(gradient.shared)
    norm = float(optax.global_norm(gradient))
    assert (norm > 1.3) if size == 1 else (norm < 0.7)
    updates, hand_state = update(gradient, hand_state, hand)
    hand = optax.apply_updates(hand, updates)

    batch = batch_of('sft', rows, 0, one_device)
    state, metrics = step(state, NOTHING, {}, (batch,))
    np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics['grad_norm'], norm, rtol=1e-4)
    ours = values(nnx.to_pure_dict(state.params.shared))
    for a, b in zip(ours, values(hand), strict=True):
      np.testing.assert_allclose(a, b, atol=1e-6)
  for a, old in zip(ours, values(start), strict=True):
    assert np.abs(a - old).max() > 1e-4


def test_several_sets_add_up(one_device):
  step = compiled('grpo', HEADS)
  first, second = make_rows(0, 5), make_rows(1, 3)
  batches = tuple(
    batch_of('grpo', rows, 0, one_device) for rows in (first, second)
  )
  joined = [
    dataclasses.replace(row, weight_R=row.weight_R / len(rows), total=1 / 8)
    for rows in (first, second)
    for row in rows
  ]
  apart, apart_metrics = step(
    fresh_state(one_device, HEADS), NOTHING, {}, batches
  )
  batch = batch_of('grpo', joined, 0, one_device)
  whole, metrics = step(fresh_state(one_device, HEADS), NOTHING, {}, (batch,))
  for name in ('loss', 'grad_norm'):
    np.testing.assert_allclose(apart_metrics[name], metrics[name], rtol=1e-4)
  for a, b in zip(values(apart), values(whole), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_sets_of_two_roles_move_each_its_own(one_device):
  step = compiled('grpo', HEADS)
  rows = [
    dataclasses.replace(row, weight_R=row.weight_R * np.float32(0.05))
    for row in make_rows(0)
  ]
  batches = tuple(
    batch_of('grpo', part, role, one_device)
    for role, part in enumerate((rows[:7], rows[7:]))
  )

  def after_two(*batches):  # the first at a rate of 0, and nothing is clipped
    state = fresh_state(one_device, HEADS)
    for _ in range(2):
      state, metrics = step(state, NOTHING, {}, batches)
      assert float(metrics['grad_norm']) < 1
    return values((state.params.roles, state.role_opts))

  both, alone = after_two(*batches), [after_two(batch) for batch in batches]
  for role in (0, 1):
    idle = alone[1 - role]
    for x, own in zip(both, alone[role], strict=True):
      np.testing.assert_allclose(x[role], own[role], rtol=1e-4, atol=1e-8)
    assert any(
      (x[role] != y[role]).any() for x, y in zip(both, idle, strict=True)
    )


def spoil(rows):
  """NaN at one trained token."""
  fields = dict(rows[3].fields)
  fields['old_logp'] = fields['old_logp'].copy()
  fields['old_logp'][2] = np.nan
  return [*rows[:3], dataclasses.replace(rows[3], fields=fields), *rows[4:]]


def test_a_nan_is_skipped_and_counted(one_device):
  step = compiled('grpo', HEADS)
  batches = [
    (batch_of('grpo', rows, 0, one_device),)
    for rows in (make_rows(0), spoil(make_rows(1)), make_rows(2), make_rows(3))
  ]
  state, first = step(fresh_state(one_device, HEADS), NOTHING, {}, batches[0])
  before = jax.tree.map(np.array, state)
  state, bad = step(state, NOTHING, {}, batches[1])
  assert not np.isfinite(float(bad['loss']))
  assert int(state.skipped) == int(bad['skipped']) == 1
  assert_equal(state._replace(skipped=0), before._replace(skipped=0))

  # As if it had never been, the learning rate's clock included.
  state, third = step(state, NOTHING, {}, batches[2])
  state, fourth = step(state, NOTHING, {}, batches[3])
  rates = [float(m['lr']) for m in (first, bad, third, fourth)]
  np.testing.assert_allclose(rates, [0, 5e-4, 5e-4, 1e-3])
  assert int(fourth['skipped']) == 1 and int(state.step) == 3
  clean = fresh_state(one_device, HEADS)
  for i in (0, 2, 3):
    clean, _ = step(clean, NOTHING, {}, batches[i])
  assert_equal(state._replace(skipped=0), clean._replace(skipped=0))


def test_an_impossible_prompt_spoils_nothing(one_device):
  """Prompt tokens are not scored, however unlikely the model finds them."""
  model = make_model(HEADS, sharpness=60.0)
  rows = make_rows(0)
  logp = np.asarray(nnx.jit(by_logits)(model, padded(rows)[0], 0.8))
  assert logp[:, :3].min() < -100
  on_policy = []
  for row, logp_T in zip(rows, logp, strict=True):
    own = logp_T[len(row.prompt_T) - 1 : len(row) - 1]
    fields = row.fields | {'old_logp': own, 'anchor_logp': own}
    on_policy.append(dataclasses.replace(row, fields=fields))
  _, params, _ = split_params(model, 'full')
  state = init_state(params, OPTIMIZER, one_device)
  batch = batch_of('grpo', on_policy, 0, one_device)
  _, metrics = compiled('grpo', HEADS)(state, NOTHING, {}, (batch,))
  advantages = [row.fields['advantage'][-1] for row in rows]
  np.testing.assert_allclose(metrics['loss'], -np.mean(advantages), atol=1e-3)
  assert int(metrics['skipped']) == 0


def test_lora_leaves_the_trunk_alone(one_device):
  step = compiled('sft', LORA, trainable='lora')
  _, params, frozen = split_params(make_model(LORA), 'lora')
  state = init_state(params, OPTIMIZER, one_device)
  assert len(jax.tree.leaves(frozen)) == 11
  assert len(jax.tree.leaves(state.params.shared)) == 2 * 7
  assert len(jax.tree.leaves(state.params.roles)) == 2
  before, trunk = jax.tree.map(np.array, (state.params, frozen))
  for i in range(4):
    batch = batch_of('sft', make_rows(i), 0, one_device)
    state, _ = step(state, frozen, {}, (batch,))
  assert_equal(frozen, trunk)
  for a, b in zip(values(state.params), values(before), strict=True):
    assert np.abs(a - b).max() > 1e-4


def written(folder):
  """Names of the arrays that Orbax has written."""
  return set(ocp.StandardCheckpointer().metadata(folder).item_metadata.tree)


def of_trunk(names):
  return [n for n in names if re.search(r'\.(kernel|embed|\w*norm)\.value$', n)]


@pytest.mark.parametrize(
  ('deltas', 'trainable', 'trunk'),
  [(LORA, 'lora', 0), (ADAPTER, 'lora', 0), (LORA, 'full', 11)],
  ids=['lora', 'adapter', 'full'],
)
def test_a_frozen_trunk_is_kept_nowhere(
  one_device, tmp_path, deltas, trainable, trunk
):
  state = fresh_state(one_device, deltas, trainable)
  checkpoints, bank = Checkpoints(tmp_path), Bank(tmp_path / 'anchors')
  anchors = Anchors(bank, {'base': parse_rule('frozen')}, ('base',), 0)
  anchors.refresh(0, state.params, {}, 0)
  checkpoints.save(1, state, {})
  checkpoints.close()
  bank.wait()

  stored = written(tmp_path / 'checkpoints' / '1' / 'state')
  assert stored == set(pure(state))
  assert len(of_trunk(stored)) == 3 * trunk  # and its two moments
  snapshot = written(tmp_path / 'anchors' / 'base' / '0')
  assert snapshot == set(pure(anchors.params['base']))
  assert snapshot == set(pure(state.params))
  assert len(of_trunk(snapshot)) == trunk
  others = snapshot - set(of_trunk(snapshot))
  assert others and all('.deltas.' in name for name in others)


def test_nothing_is_frozen_where_the_trunk_moves():
  _, params, frozen = split_params(make_model(LORA), 'full')
  assert frozen == NOTHING
  assert len(jax.tree.leaves(params)) == 11 + 2 * 7 + 2


def test_only_what_is_elsewhere_is_copied():
  mesh = dist.make_mesh(**MESHES['data=2,fsdp=2,tensor=2'])
  _, params, _ = split_params(make_model(HEADS), 'full')
  shardings = param_shardings(params, mesh)
  there = place(params, shardings)
  assert_equal(there, params)
  for x, where in zip(
    jax.tree.leaves(there), jax.tree.leaves(shardings), strict=True
  ):
    assert x.sharding.is_equivalent_to(where, x.ndim)
  again = jax.tree.leaves(place(there, shardings))
  for x, y in zip(again, jax.tree.leaves(there), strict=True):
    assert x is y
  # Nothing else moves with the one that is elsewhere.
  one = param_shardings(params, mesh, dist.DECODE_RULES)
  mixed = jax.tree.leaves(place(there, one))
  wanted = jax.tree.leaves(one)
  for x, y, where in zip(mixed, jax.tree.leaves(there), wanted, strict=True):
    assert (x is y) == y.sharding.is_equivalent_to(where, y.ndim)
    assert x.sharding.is_equivalent_to(where, x.ndim)


@pytest.mark.parametrize(
  ('config', 'expected'),
  [
    ({}, [1, 1, 1, 1, 1, 1, 1, 1, 1]),
    ({'warmup': 4}, [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
    (
      {'schedule': 'cosine', 'steps': 4},
      [1, 0.853553, 0.5, 0.146447, 0, 0, 0, 0, 0],
    ),
    ({'schedule': 'linear', 'steps': 4}, [1, 0.75, 0.5, 0.25, 0, 0, 0, 0, 0]),
    (
      {'schedule': 'cosine', 'steps': 4, 'warmup': 2},
      [0, 0.5, 1, 0.853553, 0.5, 0.146447, 0, 0, 0],
    ),
    (
      {'schedule': 'linear', 'steps': 4, 'warmup': 2},
      [0, 0.5, 1, 0.75, 0.5, 0.25, 0, 0, 0],
    ),
  ],
)
def test_learning_rates_by_hand(config, expected):
  rate = OptimizerConfig(lr=0.5, **config).learning_rate()
  rates = [float(rate(jnp.asarray(i))) for i in range(9)]
  np.testing.assert_allclose(rates, 0.5 * np.array(expected), atol=1e-6)


def test_an_unknown_schedule_is_refused():
  with pytest.raises(ValueError, match='constant, cosine, linear'):
    OptimizerConfig(schedule='cosin').learning_rate()


def test_metrics_are_weighted_means(one_device):
  rows = [
    dataclasses.replace(row, weight_R=row.weight_R * np.float32(n))
    for n, row in enumerate(make_rows(0), 1)
  ]
  batch = batch_of('grpo', rows, 0, one_device, Shapes(32, 1))
  state = fresh_state(one_device, HEADS)
  model, logits_of = make_model(HEADS), nnx.jit(Decoder.__call__)
  _, metrics = compiled('grpo', HEADS)(state, NOTHING, {}, (batch,))
  total = whole = 0.0
  for row in rows:
    tokens, _ = padded([row])
    logits = np.asarray(logits_of(model, tokens), np.float64)[0] / 0.8
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    before = len(row.prompt_T) - 1
    for t, token in enumerate(row.response_R):
      d = row.fields['anchor_logp'][t] - logp[before + t, token]
      total += row.weight_R[t] * (np.exp(d) - d - 1)
      whole += row.weight_R[t]
  np.testing.assert_allclose(metrics['kl_base'], total / whole, rtol=1e-4)


# Recorded with JAX 0.10.2 on CPU: they hold the arithmetic where it is. The
# order of a sum changes them by some 1e-6.
GOLDEN = {
  'sft': """
    3.790267 3.719644 3.547596 3.781764 3.701173 3.591077 3.417357
    3.666184 3.558803 3.461114 3.300594 3.55068 3.427679 3.350312
    3.200184 3.441729 3.308915 3.254595 3.11707 3.342075
  """,
  'grpo': """
    0.369187 0.683735 0.490102 0.687259 0.265828 0.509541 0.264845
    0.509594 0.143708 0.381597 0.11089 0.364407 0.065213 0.289935
    0.000179 0.250802 0.001635 0.21751 -0.081203 0.16435
  """,
}


@both_losses
def test_trajectories_stay_as_they_were(kind):
  losses, _, _ = trajectory(kind, steps=20)
  golden = [float(x) for x in GOLDEN[kind].split()]
  np.testing.assert_allclose(losses, golden, rtol=1e-4, atol=1e-4)

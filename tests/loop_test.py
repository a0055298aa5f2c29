"""Whole runs: resumed equals uninterrupted; a run leaves what it promises."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from hosts_worker import compiled

import jaxdistill as jd
from jaxdistill import config as configs
from jaxdistill import dist
from jaxdistill.models.linear import product
from jaxdistill.run.ask import evaluate
from jaxdistill.run.loop import Loop

TIMED = ('time', '_per_s')


def small(method='sqlm', **changes):
  config = configs.base_config(method)
  config.steps, config.eval_every, config.checkpoint_every = 4, 2, 2
  config.method.problems = 4
  config.eval.problems, config.eval.samples = 8, 2
  config.eval.max_tokens = 40  # an answer with a repair or two
  if 'max_tokens' in config.method:
    config.method.max_tokens = 40
  config.anchors = {'past': 'every:2'}
  config.guard.every, config.guard.act = 0, False
  for key, value in changes.items():
    config[key] = value
  return config


def start(config, root):
  run = configs.build(config)
  return Loop(run, root, config.to_dict())


def lines(root):
  out = [json.loads(x) for x in (root / 'metrics.jsonl').open()]
  return [
    {k: v for k, v in x.items() if not any(t in k for t in TIMED)} for x in out
  ]


def same(left, right):
  pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
  return all(np.array_equal(a, b) for a, b in pairs)


SETTINGS = {
  'every': {'reference': 'every:3', 'propose_every': 2},
  'archive': {'reference': 'ema:0.5', 'repeat_penalty': 0.5, 'archive': 40},
  'league': {'proposer': 'league:1', 'reference': 'best:test/accuracy_sampled'},
  'bank': {'reference': 'trust:0.0001', 'bank': 24, 'known': 0.25},
}


def damage_newest(root):
  newest = max((root / 'checkpoints').iterdir(), key=lambda p: int(p.name))
  largest = max(newest.rglob('*'), key=lambda p: p.stat().st_size)
  data = bytearray(largest.read_bytes())
  data[len(data) // 2] ^= 1
  largest.write_bytes(data)


@pytest.fixture(scope='module')
def whole_by(tmp_path_factory):
  """By the name of its settings a whole run, its config and its folder."""

  @functools.cache
  def trained(name):
    config, folder = small(), tmp_path_factory.mktemp(name)
    config.eval.splits = ('test',)
    config.method.samples, config.method.propose_every = 4, 0
    config.method.update(SETTINGS[name])
    whole = start(config, folder)
    if name == 'every':  # nothing is there from other runs
      jax.clear_caches()
      dist.forget_programs()
    with compiled() as programs:
      first, *_ = [len(programs) for _ in whole.steps()]
    LATER[name] = programs[first:]
    return whole, config, folder

  return trained


LATER: dict[str, list[str]] = {}  # programs compiled after the first step


@pytest.mark.parametrize('name', ['every', 'league'])
def test_nothing_is_compiled_after_the_first_step(mesh, whole_by, name):
  """Answers differ in length and number, the proposer learns in step 1."""
  *_, folder = whole_by(name)
  drawn = [x['rollout/tokens'] for x in lines(folder)]
  assert len({*np.diff([0, *drawn]).tolist()}) > 2
  assert LATER[name] == []


@pytest.mark.parametrize(
  ('name', 'damaged'),
  [(name, False) for name in SETTINGS] + [('archive', True), ('league', True)],
)
def test_resumed_equals_uninterrupted(mesh, tmp_path, whole_by, name, damaged):
  whole, config, folder = whole_by(name)
  config = config.copy_and_resolve_references()
  config.checkpoint_every = 1 if damaged else 2
  cut = start(config, tmp_path)
  step, calls = cut.run.method.collect, []

  def dies(*args):
    calls.append(args)
    if len(calls) == 4:  # in step 3, after the checkpoint at step 2
      raise KeyboardInterrupt
    return step(*args)

  object.__setattr__(cut.run.method, 'collect', dies)
  with pytest.raises(KeyboardInterrupt):
    cut.train()
  if damaged:  # the checkpoint before step 3: that before step 2 is used
    damage_newest(tmp_path)

  again = start(config, tmp_path)
  again.train()
  assert again.first_step == 2
  assert same(whole.state, again.state)
  assert same(whole.anchors.params, again.anchors.params)
  assert whole.anchors.held == again.anchors.held
  assert whole.method_state == again.method_state
  if config.method.reference.startswith(('every', 'trust')):
    assert whole.anchors.held['base'] > 0  # it has moved
  assert lines(folder) == lines(tmp_path)
  for name in ('000002.jsonl', '000003.jsonl'):
    left, right = (root / 'rollouts' / name for root in (folder, tmp_path))
    assert left.read_text() == right.read_text()


def test_a_run_leaves_what_it_promises(mesh, tmp_path):
  config = small()
  config.steps, config.method.samples = 2, 4
  config.method.propose_every = 1
  loop = start(config, tmp_path)
  before = [np.array(x) for x in jax.tree.leaves(loop.state.params)]
  summary = loop.train()

  logged = lines(tmp_path)
  assert [x['step'] for x in logged] == [0, 1, 2]
  wanted = {
    'eval/test/accuracy_sampled',
    'eval/test/accuracy_greedy',
    'eval/ood/accuracy_sampled',
    'selfplay/vote_accuracy',
    'selfplay/agreement',
    'selfplay/distinct',
    'selfplay/valid',
    'train/loss',
    'train/kl_base',
    'rollout/length',
  }
  assert wanted <= logged[0].keys()
  assert logged[0]['train/kl_base'] == pytest.approx(0, abs=1e-6)
  assert logged[1]['train/kl_base'] > 0
  series = [
    x['eval/test/accuracy_sampled']
    for x in logged
    if 'eval/test/accuracy_sampled' in x
  ]
  found = summary['eval/test/accuracy_sampled']
  assert (found['first'], found['last']) == (series[0], series[-1])
  assert found['best'] == max(series)
  assert json.loads((tmp_path / 'summary.json').read_text()) == summary

  assert summary['optimizer_steps'] == 4  # two steps of two heads

  # The policy moved, and the anchors are where they were taken.
  after = jax.tree.leaves(loop.state.params)
  moved = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
  assert any(moved)
  base = loop.anchors.bank.restore('base', 0, loop.state.params)
  assert same(base, before)
  assert loop.anchors.bank.steps('past') == [0, 2]

  records = [json.loads(x) for x in (tmp_path / 'rollouts/000000.jsonl').open()]
  assert len(records) == 4 * config.method.proposals
  asked = [r for r in records if 'vote' in r]
  assert len(asked) / len(records) == logged[0]['selfplay/valid']
  for record in asked:
    assert len(record['answers']) == len(record['texts']) == 4
    paid = [
      a for a, r in zip(record['answers'], record['rewards'], strict=True) if r
    ]
    assert all(int(a) == int(record['vote']) for a in paid)
    assert len(paid) != 1  # a singleton is no majority


def test_a_run_ends_when_its_tokens_are_spent(mesh, tmp_path):
  config = small('grpo', steps=50, tokens=600)
  config.method.samples = 2
  loop = start(config, tmp_path)
  summary = loop.train()
  logged = lines(tmp_path)
  spent = [x['rollout/tokens'] + x['rollout/scored'] for x in logged]
  assert spent[-1] == spent[-2] == summary['tokens'] + summary['scored']
  assert 0 < summary['scored'] <= summary['tokens']  # by the anchor `base`
  assert spent[-2] >= 600 > spent[-3]
  assert 'eval/test/accuracy_greedy' in logged[-1]
  assert loop.checkpoints.newest() == logged[-1]['step'] == len(logged) - 1
  again = start(config, tmp_path)
  assert again.finished()
  assert (again.tokens, again.scored) == (loop.tokens, loop.scored)
  assert again.train() == summary
  assert lines(tmp_path) == logged


def test_anchors_can_be_gone_back_to(mesh, tmp_path):
  config = small()
  config.steps, config.eval_every = 4, 4
  config.method.samples = 4
  loop = start(config, tmp_path)
  loop.train()
  step_0 = loop.anchors.bank.restore('past', 0, loop.state.params)
  back = loop.state._replace(params=step_0)
  fresh = start(config, tmp_path / 'fresh')
  assert same(back.params, fresh.state.params)
  assert not same(back.params, loop.state.params)


@pytest.mark.parametrize(
  'roles, trainable',
  [('adapter', 'lora'), ('shared', 'lora'), ('adapter', 'full')],
)
def test_settings_move_what_they_should(mesh, tmp_path, roles, trainable):
  config = small('sft', roles=roles, trainable=trainable, model='small-fresh')
  config.steps, config.eval.problems = 1, 2
  config.optimizer.lr = 1e-2
  loop = start(config, tmp_path)
  old = jax.tree.map(np.array, loop.state.params)
  frozen = jax.tree.map(np.array, loop.frozen)
  loop.train()
  new = loop.state.params
  assert same(frozen, loop.frozen)
  assert bool(jax.tree.leaves(frozen)) == (trainable == 'lora')
  assert not same(old.shared, new.shared)
  assert same(old.roles, new.roles) == (roles == 'shared')


def test_a_run_does_not_go_on_from_another_base(mesh, tmp_path):
  config = small('sft')
  config.steps = 2
  loop = start(config, tmp_path)
  loop._refresh_anchors(1, {})
  loop._save(1)
  loop.checkpoints.close()
  loop.workdir.close()
  other = dataclasses.replace(loop.run.loaded, sha256='b' * 64)
  run = dataclasses.replace(configs.build(config), loaded=other)
  with pytest.raises(ValueError, match=r'config\.model now has bbbbbbbbbbbb'):
    Loop(run, tmp_path, config.to_dict())
  assert start(config, tmp_path).first_step == 1


def test_each_host_reads_the_problems_of_its_step(mesh, tmp_path):
  config = small('grpo')
  loop = start(config, tmp_path)
  drawn = [loop.draw(step) for step in (0, 1, 0)]
  assert [p.address for p in drawn[0]] == [0, 1, 2, 3]
  assert drawn[0] == drawn[2]
  assert {p.text for p in drawn[0]}.isdisjoint(p.text for p in drawn[1])
  other = start(small('grpo', seed=1), tmp_path / 'other')
  assert [p.text for p in other.draw(0)] != [p.text for p in drawn[0]]


def test_an_update_takes_its_epochs_and_minibatches(mesh, tmp_path):
  config = small('sft', model='small-fresh')
  config.method.problems = 3
  loop = start(config, tmp_path)
  (update,) = loop._collect(0).updates
  loop.update(update)
  assert loop.state.step == 1
  again = dataclasses.replace(update, epochs=3, minibatches=2)
  metrics = loop.update(again)
  assert loop.state.step == 1 + 3 * 2
  for part in (metrics[0::2], metrics[1::2]):
    first, second, third = (m['loss'] for m in part)
    assert first > second > third
  # Three rows in four parts: one step has nothing to do.
  loop.update(dataclasses.replace(update, minibatches=4))
  assert loop.state.step == 7 + 3


def test_evaluation_does_not_depend_on_training_draws(mesh, tmp_path):
  config = small('grpo')
  loop = start(config, tmp_path)
  player = loop.player(loop.state.params)
  first = evaluate(loop.run, player)
  assert first == evaluate(loop.run, player)
  other = evaluate(dataclasses.replace(loop.run, seed=5), player)
  for name in ('eval/test/accuracy_greedy', 'eval/ood/accuracy_greedy'):
    assert other[name] == first[name]
  # Of 16 answers a share may come out the same; not all of them do.
  sampled = ('accuracy_sampled', 'agreement', 'length')
  apart = [other[f'eval/ood/{n}'] != first[f'eval/ood/{n}'] for n in sampled]
  assert any(apart)


def test_a_run_counts_its_own_words(mesh, tmp_path):
  config = small('grpo')
  config.method.kl, config.eval.markers = 0.0, ('=', '*')
  loop = start(config, tmp_path)
  collected = loop._collect(0)
  texts = [text for t in collected.transcripts for text in t['texts']]
  counted = [text.count('=') + text.count('*') for text in texts]
  assert list(collected.metrics['rollout/markers']) == counted and any(counted)
  found = evaluate(loop.run, loop.player(loop.state.params))
  assert found['eval/test/markers'] > 0.5
  per_token = found['eval/test/markers'] / found['eval/test/length']
  dense = found['eval/test/markers_per_1k']
  assert dense == pytest.approx(1000 * per_token)


@pytest.mark.parametrize(('dtype', 'full'), [('float32', 2), ('bfloat16', 0)])
def test_a_run_says_how_exact_products_are(
  mesh, tmp_path, monkeypatch, dtype, full
):
  def steps(self):
    x = np.ones((2, 2), np.float32)
    text = jax.jit(product).lower(x, x).as_text()
    yield {'full': text.count('HIGHEST')}

  monkeypatch.setattr(Loop, 'steps', steps)
  config = small('sft', model='small-fresh', dtype=dtype)
  with jd.steps(config, tmp_path) as taken:
    assert next(taken) == {'full': full}

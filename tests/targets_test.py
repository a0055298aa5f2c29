"""A teacher's distributions: written down, read again, and learned from."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from scipy.special import logsumexp
from scripted import collected_by

import jaxdistill as jd
from jaxdistill import config as configs
from jaxdistill.api import teaching
from jaxdistill.batch import Shapes, make_batch
from jaxdistill.config import ConfigError
from jaxdistill.config.keys import filled
from jaxdistill.data import targets
from jaxdistill.data.targets import Target
from jaxdistill.methods.offline_distill import OfflineDistill
from jaxdistill.methods.teacher_distill import TeacherDistill
from jaxdistill.rollout import Sampling
from jaxdistill.rollout.player import Player
from jaxdistill.run.pool import pool_of
from jaxdistill.run.step import (
  OptimizerConfig,
  init_state,
  make_step,
  split_params,
)
from jaxdistill.types import Prompt, Rollout

K = 5
FEW = {'problems': 4, 'samples': 3, 'top_k': K, 'max_tokens': 20}
ABOUT = {
  'teacher': {'name': 'somebody', 'sha256': ''},
  'task': 'small',
  'vocabulary': 'v',
  'k': K,
  'temperature': 1.0,
  **{'problems': 2, 'samples': 2, 'responses': 4, 'tokens': 14},
  **{'bytes': 1000, 'seconds': 2.0},
}


def made_up(problem, seed, length):
  draw = np.random.default_rng(seed)
  top = np.sort(draw.normal(-3, 1, (length, K)).astype(np.float32))[:, ::-1]
  return Target(
    problem,
    draw.integers(0, 2**17, length).astype(np.int32),
    draw.normal(-1, 1, length).astype(np.float32),
    draw.integers(0, 2**17, (length, K)).astype(np.int32),
    top,
  )


GIVEN = [
  [made_up('1+1', 0, 3), made_up('1+1', 1, 7)],
  [made_up('ü "x"\n', 2, 1), made_up('ü "x"\n', 3, 3)],
]


@pytest.fixture
def folder(tmp_path):
  """Two hosts' shards of made-up targets."""
  partial, shards = tmp_path / '.given.partial', {}
  partial.mkdir()
  for host, given in enumerate(GIVEN):
    shard = targets.Shard(partial, host, 2)
    for target in given:
      shard.write(target)
    shard.close()
    shards[shard.path.name] = targets.sha256(shard.path)
  targets.seal(partial, tmp_path / 'given', ABOUT | {'shards': shards})
  return tmp_path / 'given'


def assert_same(first, second):
  assert first.problem == second.problem
  for a, b in zip(first[1:], second[1:], strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def test_what_is_written_is_read(folder):
  found = targets.read(folder)
  assert [p.name for p in folder.parent.iterdir()] == ['given']
  for given in GIVEN:
    again = found[given[0].problem]
    for a, b in zip(given, again, strict=True):
      assert_same(a, b)
  assert '1+1' in found and '1+2' not in found
  assert '7 a second' in str(found) and '71 bytes a token' in str(found)
  with pytest.raises(ValueError, match=r"'1\+2'.* pool of 2 of small"):
    found.check_has(iter(['1+1', '1+2']))


FIRST = 'targets-00000-of-00002.array_record'


def flip(folder):
  data = bytearray((folder / FIRST).read_bytes())
  data[len(data) // 2] ^= 1
  (folder / FIRST).write_bytes(data)


def cut(folder):
  data = (folder / FIRST).read_bytes()
  (folder / FIRST).write_bytes(data[: len(data) // 2])


def say(text):
  return lambda folder: (folder / 'manifest.json').write_text(text)


HARMS = [
  (flip, f'{FIRST} has changed'),
  (cut, f'{FIRST} has changed'),
  (lambda x: (x / FIRST).unlink(), f'{FIRST} is missing'),
  (lambda x: (x / 'notes').touch(), 'notes does not belong there'),
  (lambda x: (x / 'manifest.json').unlink(), 'was not finished'),
  (lambda x: x.rename(x.with_name('away')), 'there is no folder of targets'),
  (say('{"format": '), 'damaged, or not of targets'),
  (say('[]'), 'damaged, or not of targets'),
  (say('{"sha256": "of a model"}'), 'damaged, or not of targets'),
  (say(f'{{"format": "{targets.FORMAT}"}}'), 'damaged, or not of targets'),
]


@pytest.mark.parametrize(('harm', 'said'), HARMS)
def test_a_damaged_folder_is_refused_in_one_line(folder, harm, said):
  harm(folder)
  with pytest.raises(ValueError, match=said) as error:
    targets.read(folder)
  assert '\n' not in str(error.value)


@pytest.fixture(scope='module')
def late(tmp_path_factory):
  """Where small-late's are, once somebody has written them."""
  return tmp_path_factory.mktemp('targets') / 'late'


@pytest.fixture
def written(mesh, late):
  if not late.exists():
    jd.targets('small-late', late, **FEW)
  return targets.read(late)


def test_a_teacher_answers_the_pool(written, mesh, monkeypatch, tmp_path):
  model = jd.load('small-late')
  pool = pool_of(model.task, 4)
  prompts = [
    Prompt('solver', model.task.solver_prompt(pool[i]), i) for i in range(4)
  ]
  with jax.set_mesh(mesh):
    sampling = Sampling(3, max_tokens=20)
    said = model.player.generate(prompts, sampling, jax.random.key(0))
    flat = [r for r_G in said for r in r_G]
    everything, logp = model.player.top(flat, 31)
  found = [t for i in range(4) for t in written[pool[i].text]]
  for t, r, ids, logp_TV in zip(found, flat, everything, logp, strict=True):
    np.testing.assert_array_equal(t.tokens_T, r.tokens_T)
    np.testing.assert_array_equal(t.logp_T, r.logp_T)
    np.testing.assert_array_equal(t.ids_Tk, ids[:, :K])
    np.testing.assert_allclose(t.top_Tk, logp_TV[:, :K], atol=1e-6)
    # Of the full softmax, and the sampled token is where it says.
    np.testing.assert_allclose(logsumexp(logp_TV, -1), 0, atol=1e-5)
    own = np.where(ids == t.tokens_T[:, None], logp_TV, 0).sum(-1)
    np.testing.assert_allclose(own, t.logp_T, atol=1e-4)
  of = written.manifest
  size = sum(p.stat().length for p in written.folder.glob('*.array_record'))
  assert (of['responses'], of['k'], of['bytes']) == (12, K, size)
  assert of['tokens'] == sum(len(r.tokens_T) for r in flat)
  assert of['teacher']['sha256'] == model.run.loaded.sha256
  assert of['vocabulary'] == model.player.tokenizer.vocabulary
  # A part at a time gives the same.
  monkeypatch.setattr(teaching, 'RESPONSES', 6)
  again = jd.targets('small-late', tmp_path / 'again', **FEW)
  for i in range(4):
    pairs = zip(again[pool[i].text], written[pool[i].text], strict=True)
    for a, b in pairs:
      np.testing.assert_array_equal(a.tokens_T, b.tokens_T)
      np.testing.assert_allclose(a.top_Tk, b.top_Tk, atol=1e-5)
  assert [p.name for p in tmp_path.iterdir()] == ['again']


def test_a_problem_that_a_pool_has_twice_is_asked_once(
  mesh, monkeypatch, tmp_path
):
  pool = [jd.task('small').problems('train')[i] for i in (0, 1, 0)]
  monkeypatch.setattr(teaching, 'pool_of', lambda task, problems: pool)
  found = jd.targets('small-late', tmp_path / 'x', **FEW | {'problems': 3})
  assert [len(found[p.text]) for p in pool] == [3, 3, 3]
  of = found.manifest
  assert (of['problems'], of['different'], of['responses']) == (3, 2, 6)


def test_a_disk_that_fails_is_said_like_any_other(tmp_path):
  with pytest.raises(OSError, match=r'open|No such file'):
    shard = targets.Shard(tmp_path / 'missing', 0, 1)
    shard.write(made_up('1+1', 0, 3))
    shard.close()


class Recorded(Player):
  """A teacher that says again what it has said."""

  def __init__(self, player, written, texts):
    vars(self).update(vars(player))
    object.__setattr__(self, 'said', [written[text] for text in texts])

  def generate(self, prompts_P, sampling, key):
    return [
      [
        Rollout(
          *(prompt, self.encode(prompt), t.tokens_T, t.logp_T, 0 * t.logp_T),
          *('stop', '', np.zeros(len(t.tokens_T), np.int32)),
          vocabulary=self.tokenizer.vocabulary,
        )
        for t in said_G
      ]
      for prompt, said_G in zip(prompts_P, self.said, strict=True)
    ]


class Mute(Player):
  """A student that is asked nothing."""

  def __init__(self, player):
    vars(self).update(vars(player))

  def generate(self, prompts_P, sampling, key):
    assert not prompts_P
    return []


@pytest.mark.parametrize(('alpha', 'tail'), [(0.0, True), (0.5, False)])
def test_offline_is_what_the_teacher_itself_would_teach(
  written, mesh, alpha, tail
):
  student, teacher = jd.load('small-middle'), jd.load('small-late')
  pool = pool_of(student.task, 4)
  problems = [pool[i] for i in range(4)]
  texts = [p.text for p in problems]
  keys = {'problems': 4, 'alpha': alpha, 'tail': tail}
  offline = filled(OfflineDistill, keys | {'targets': str(written.folder)})
  there = {'on_policy': 0.0, 'support': 'teacher', 'support_k': K, 'kl': 0.0}
  online = filled(TeacherDistill, keys | there)
  found = {}
  for name, method in (('offline', offline), ('online', online)):
    with jax.set_mesh(mesh):
      players = {
        'policy': Mute(student.player),
        'teacher': Recorded(teacher.player, written, texts),
      }
      made = collected_by(method, players, problems, method.init())
      (row_set,) = (s for s in made.updates[0].sets if s.rows)
      batch, _ = make_batch(row_set, 0, mesh, Shapes(64, 16))
      graphdef, params, frozen = split_params(student.decoder, 'full')
      copy = jax.tree.map(lambda x: x.copy(), params)
      optimizer = OptimizerConfig(lr=1e-3, warmup=1)
      theirs, anchor = nnx.split(teacher.decoder)
      graphs = {'teacher': theirs} if name == 'online' else {}
      anchors = {'teacher': (anchor,)} if name == 'online' else {}
      step = make_step(graphdef, method.loss, optimizer, graphs)
      state = init_state(copy, optimizer, mesh)
      _, metrics = step(state, frozen, anchors, (batch,))
      found[name] = {
        what: float(metrics.get(what, metrics.get(f'given_{what}')))
        for what in ('loss', 'grad_norm', 'kl_teacher')
      }
    if name == 'offline':
      assert (made.tokens, made.scored) == (0, 0)
  assert found['offline']['loss'] > 1e-3
  for what, value in found['offline'].items():
    assert value == pytest.approx(found['online'][what], abs=1e-6, rel=1e-5)


def config_of(folder, **keys):
  config = configs.base_config('offline_distill')
  config.model, config.method.targets = 'small-middle', str(folder)
  config.method.problems, config.pool = 2, 4
  configs.override(config, keys.items())
  return config


@pytest.mark.parametrize(
  ('keys', 'said'),
  [
    ({'method.targets': ''}, 'method.targets is empty'),
    ({'method.targets': 'nowhere'}, "no folder of targets 'nowhere'"),
    ({'method.support_k': 9}, 'support_k is 9; .* has the 5 likeliest'),
    ({'method.minibatches': 7}, 'minibatches is 7; a step has 6 rows'),
    ({'pool': 0}, 'no answer to .*config.pool=4, or a smaller one'),
    ({'pool': 5}, 'the pool of 4 of small'),
    ({'model': 'small-wide'}, 'small-late, which has another tokenizer'),
  ],
)
def test_what_does_not_fit_is_said_before_a_model_is_loaded(
  written, keys, said, monkeypatch
):
  monkeypatch.setattr(configs.building, 'load', None)
  config = config_of(written.folder, **keys)
  with pytest.raises(ConfigError, match=said) as error:
    configs.check(config)
    configs.prepare(config)
  assert '\n' not in str(error.value)


def test_a_smaller_pool_and_fewer_tokens_will_do(written):
  config = config_of(written.folder, pool=3, **{'method.support_k': 2})
  configs.check(config)
  configs.prepare(config)


def test_other_targets_than_a_run_began_with(written, mesh):
  method = OfflineDistill(targets=str(written.folder))
  player = jd.load('small-middle').player
  begun = method.collect(
    {'policy': player}, [], {'shards': {}}, 1, jax.random.key(0)
  )
  with pytest.raises(ValueError, match='not what the run began with'):
    next(begun)


def test_alpha_is_from_0_to_1():
  with pytest.raises(ValueError, match='alpha is'):
    OfflineDistill(alpha=1.5)


VERB = 'targets', '--model', 'small-late', '--out'


@pytest.mark.parametrize(
  ('argv', 'said'),
  [
    ((*VERB, 'x', '--problems', '0'), '--problems: 0 must be at least 1'),
    ((*VERB, 'x', '--problems', '9999999'), '20000 to train on'),
    ((*VERB, 'x', '--temperature', '0'), 'temperature: 0.0 must be above 0'),
    ((*VERB, 'x', '--task', 'smal'), "'smal'"),
    ((*VERB, 'no/x'), 'there is no folder'),
    ((*VERB, 'gs://x/y'), 'must be on a disk'),
    ((*VERB, 'there'), 'there is there already'),
    (('targets', '--out', 'x'), 'are required: --model'),
    (('targets', '--model', 'small-lat', '--out', 'x'), 'small-late'),
  ],
)
def test_the_verb_refuses(here, refused, argv, said):
  (here / 'there').mkdir()
  assert said in refused(*argv)


def test_the_verb(mesh, tmp_path, capsys):
  from jaxdistill.cli.main import main

  out = tmp_path / 'late'
  few = [f'--{name}={value}' for name, value in FEW.items()]
  assert main([*VERB, str(out), *few]) == 0
  said = capsys.readouterr().out
  manifest = json.loads((out / 'manifest.json').read_text())
  assert f'{manifest["tokens"]:,} tokens in' in said
  assert 'bytes a token' in said and 'the 5 likeliest' in said

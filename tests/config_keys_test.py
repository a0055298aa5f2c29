"""What the keys of a config may be: a wrong one ends in one line."""

import pytest
from config_files import CONFIG, small_config
from ml_collections import ConfigDict

from jaxdistill import config as configs

pytestmark = pytest.mark.usefixtures('small_world', 'here')


@pytest.fixture
def refused_keys(refused, monkeypatch):
  """Runs `train` with keys that must be refused before a model is loaded."""

  def load(*args, **kwargs):
    raise AssertionError('the config was taken')

  monkeypatch.setattr('jaxdistill.config.building.load', load)

  def run(*keys):
    return refused(
      *('train', '--config', CONFIG, '--workdir', 'w'),
      *(f'--config.{key}' for key in keys),
    )

  return run


@pytest.mark.parametrize(
  ('key', 'nearest'),
  [
    ('step', 'steps'),
    ('method.sample', 'method.samples'),
    ('optimizer.warm', 'optimizer.warmup'),
    ('batch.lenght', 'batch.length'),
    ('modle', 'model'),
  ],
)
def test_unknown_key(refused_keys, key, nearest):
  said = refused_keys(f'{key}=3')
  assert repr(key) in said
  assert f'nearest is {nearest!r}' in said


@pytest.mark.parametrize(
  ('key', 'value', 'kind'),
  [
    ('steps', 'many', 'int'),
    ('steps', '1.5', 'int'),
    ('steps', 'True', 'int'),
    ('steps', '', 'int'),
    ('steps', '[1', 'int'),
    ('steps', '{[]}', 'int'),
    ('method.samples', '"8"', 'int'),
    ('optimizer.lr', 'fast', 'float'),
    ('optimizer.lr', 'nan', 'float'),
    ('optimizer.lr', 'False', 'float'),
    ('eval.splits', 'test', 'tuple'),
    ('eval.splits', '3', 'tuple'),
  ],
)
def test_wrong_type(refused_keys, key, value, kind):
  said = refused_keys(f'{key}={value}')
  assert f'config.{key} must be {kind}' in said
  assert repr(value) in said


@pytest.mark.parametrize(
  'key',
  [
    *('steps', 'eval_every', 'checkpoint_every', 'keep_checkpoints', 'rank'),
    *('eval.problems', 'eval.samples', 'eval.max_tokens'),
    *('batch.tokens', 'optimizer.lr', 'optimizer.clip'),
    *('method.problems', 'method.proposals', 'method.samples'),
    *('method.max_tokens', 'method.max_problem_tokens', 'method.temperature'),
    *('method.epochs', 'method.minibatches', 'mesh.fsdp', 'mesh.tensor'),
  ],
)
@pytest.mark.parametrize('value', ['0', '-2'])
def test_sizes_are_positive(refused_keys, key, value):
  said = refused_keys(f'{key}={value}')
  assert key.rpartition('.')[2] in said
  assert value in said


@pytest.mark.parametrize(
  'key',
  [
    *('keep_anchors', 'optimizer.warmup', 'optimizer.steps', 'pool'),
    *('method.propose_every', 'method.top_k', 'method.kl', 'tokens'),
    *('method.clip_low', 'method.bank', 'method.archive', 'method.known'),
  ],
)
def test_sizes_that_may_be_zero_are_not_negative(refused_keys, key):
  said = refused_keys(f'{key}=-1')
  assert key.rpartition('.')[2] in said
  assert '-1' in said
  sets = {key: '0', 'optimizer.schedule': 'constant'}
  config = ConfigDict(small_config(**sets), convert_dict=True)
  configs.check(config)


@pytest.mark.parametrize('value', [True, 'True', 'full'])
def test_truth_values_name_what_is_recomputed(value):
  assert configs.read_config(CONFIG, [('remat', value)]).remat == 'full'
  old = configs.base_config('sqlm')
  old.remat = bool(value)  # as in a file of before
  for overrides, name in (((), 'full'), ([('remat', 'False')], 'none')):
    found = configs.complete(old, overrides)
    configs.check(found)
    assert found.remat == name


def test_mesh_that_does_not_fit(refused_keys):
  said = refused_keys('mesh.fsdp=3')
  assert '3' in said and '8' in said and 'fsdp' in said
  assert 'mesh.data is 0' in refused_keys('mesh.data=0')


@pytest.mark.parametrize(
  ('key', 'value', 'said'),
  [
    ('method.name', 'sqml', "nearest is 'sqlm'"),
    ('method.name', 'method', "no method 'method'"),
    ('task', 'smal', "nearest is 'small'"),
    ('model', 'small-lat', "nearest is 'small-late'"),
    ('model', 'no/such/model', "no model 'no/such/model'"),
    ('anchors.past', 'evry:3', 'anchor rule'),
    ('anchors.past', 'every:0', 'anchor rule'),
    ('anchors.past', 'every:', 'anchor rule'),
    ('anchors.past', 'every:-1', 'anchor rule'),
    ('anchors.past', 'frozen:3', 'anchor rule'),
    ('method.reference', 'sometimes', 'anchor rule'),
    ('roles', 'head', 'heads, adapter or shared'),
    ('trainable', 'ful', "nearest is 'full'"),
    ('dtype', 'float33', "nearest is 'float32'"),
    ('attention', 'chunk', "nearest is 'chunked'"),
    ('rollout.weights', 'in8', "nearest is 'int8' of int8, or empty"),
    ('rollout.cache', 'fp4', 'there are int8, or empty'),
    ('remat', 'dot', "nearest is 'dots'"),
    ('remat', '3', "config.remat is '3'; there are none, dots, full"),
    ('optimizer.schedule', 'cosin', 'constant, cosine, linear'),
    ('method.top_p', '1.5', 'top_p'),
    ('method.temperature', '-1.0', 'temperature'),
    ('method.objective', 'gpso', "nearest is 'gspo'"),
    ('method.solver_reward', 'votes', 'vote, known, format, random'),
    ('method.proposer_reward', 'r_zero', 'learnable, uncertain, hard, varied'),
    ('method.band', '(0.9, 0.1)', '(lowest, highest)'),
    ('method.known', '0.5', 'at most 0.25'),
    ('method.bank', '8', 'it must be 0 where another'),
    ('method.proposer', 'league:5', 'it must be 0 where another'),
    ('method.reference', 'ema:2', 'ema:DECAY'),
    ('method.reference', 'best:dev/accuracy_greedy', "lacks 'dev'"),
    ('method.reference', 'best:test/accuracy', 'nearest is'),
    ('anchors.past', 'trust:0.1', "from the method's own anchors only: base"),
    ('method.reference', 'best:test/cut', 'that is not measured'),
    ('task', 'none.jsonl', 'no file of problems'),
    ('task', 'none.py', 'there is no file'),
    ('method.name', 'none.py', "no file 'none.py'"),
  ],
)
def test_unknown_value(refused_keys, key, value, said):
  found = refused_keys(f'{key}={value}')
  assert value in found
  assert said in found


@pytest.mark.parametrize(
  ('keys', 'said'),
  [
    (
      ('method.name=rft', 'method.keep=yes', 'method.verifier=trust:0.1'),
      "anchor verifier has rule 'trust:0.1', but method 'rft' does not measure",
    ),
    (
      ('method.name=pair_sft', 'method.reference=trust:0.1'),
      "anchor base has rule 'trust:0.1', but method 'pair_sft' does not",
    ),
    (
      ('method.name=pair_sft', 'method.reference=model:small-wide'),
      "method.reference is 'model:small-wide'; it must be a self of the policy",
    ),
  ],
)
def test_an_anchor_that_could_not_do_its_work(refused_keys, keys, said):
  assert said in refused_keys(*keys)


def test_a_method_s_own_anchor_is_not_set_beside_it(refused_keys):
  said = refused_keys('anchors.base=frozen')
  assert 'config.anchors.base belongs to the method' in said


def test_bad_key_among_good_ones(refused_keys):
  assert "'step'" in refused_keys('steps=3', 'step=3', 'method.samples=2')

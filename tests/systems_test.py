"""Every published system takes two steps, and goes on where it was cut."""

import json
import pathlib

import numpy as np
import pytest
from whole_runs import cut, moved, promised, trained_by

import jaxdistill as jd
from jaxdistill import config as configs
from jaxdistill.config import SYSTEMS
from jaxdistill.plots.report import outcome

CONFIG = pathlib.Path(__file__).parents[1] / 'configs' / 'learn_small.py'
FEW = {
  'steps': 2,
  'eval_every': 2,
  'checkpoint_every': 1,
  'method.problems': 6,
  'method.max_tokens': 24,
  'eval.splits': ('test',),
  'eval.problems': 4,
  'eval.samples': 2,
  'eval.max_tokens': 24,
  'guard.every': 0,
  'batch.length': 96,
  'batch.sequences': 8,
  'optimizer.warmup': 1,
  'alarms.cut': 'off',
}
# Cut after a step: one for each file of methods/, and of its branches.
CUT = (
  *('srpo', 'u_opsd', 'rft', 'gkd', 'minillm', 'opsa', 'rlcsd', 'offline_kd'),
  'reflection',
)


@pytest.fixture(scope='module')
def targets(tmp_path_factory):
  """Where those of a teacher are, once somebody has written them."""
  return tmp_path_factory.mktemp('targets') / 'late'


@pytest.fixture
def trained(mesh, tmp_path, targets):
  def keys_of(name):
    if name != 'offline_kd':
      return FEW
    if not targets.exists():
      few = {'problems': 12, 'samples': 2, 'top_k': 8, 'max_tokens': 24}
      jd.targets('small-late', targets, **few)
    few = {k: v for k, v in FEW.items() if k != 'method.max_tokens'}
    return few | {'method.targets': str(targets), 'pool': 12}

  def train(name, workdir='run', **keys):
    keys = keys_of(name) | keys
    config = configs.read_config(f'{CONFIG}:{name}', keys.items())
    return trained_by(config, tmp_path / workdir)

  return train


# Settings whose programs are those of another, and what `score_test` and
# `temporal_self_reward_test` train.
ALIKE = {'star', 'self_rewarding', 'rft_yes', 'rft_vote', 'ssd'}
ALIKE |= {'pair_sft', 'score', 'tsr'}


@pytest.mark.parametrize('name', [n for n in SYSTEMS if n not in ALIKE])
def test_two_steps(trained, tmp_path, name):
  whole, lines, before = trained(name)
  assert [line['step'] for line in lines] == [0, 1, 2]
  assert all(np.isfinite(line['train/loss']) for line in lines[:2])
  assert lines[1]['train/skipped'] == 0
  assert moved(before, whole.state.params)
  assert (lines[0]['rollout/tokens'] > 0) == (name != 'offline_kd')
  unscored = {'rft', 'opsa', 'sequence_kd', 'offline_kd'}
  assert (lines[0]['rollout/scored'] > 0) == (name not in unscored)
  past = (tmp_path / 'run/anchors/teacher').exists()
  assert not (past and name == 'gkd')  # another model is not of its past
  told = (tmp_path / 'run/rollouts/000000.jsonl').read_text().splitlines()
  records = [json.loads(x) for x in told]
  assert len(records) == 6 and all(r['texts'] for r in records)
  # A report says whether most answers were right.
  assert {outcome(r) for r in records} <= {'right', 'wrong'}
  if name not in CUT:
    return
  cut(tmp_path / 'run', tmp_path / 'cut')
  again, more, _ = trained(name, 'cut')
  assert again.first_step == 1
  assert [*map(promised, more)] == [*map(promised, lines)]
  assert not moved(whole.state.params, again.state.params)


def test_a_name_behind_a_config(capsys):
  with pytest.raises(configs.ConfigError, match=r"no system 'sdpoo'.*'sdpo'"):
    configs.read_config(f'{CONFIG}:sdpoo', ())
  with pytest.raises(configs.ConfigError, match="nearest is 'sdpo'"):
    configs.read_config(f'{CONFIG}:spdo', ())  # its letters, not srpo's
  with pytest.raises(configs.ConfigError, match=r'is a method.*are sdpo'):
    configs.read_config(f'{CONFIG}:self_distill', ())
  with pytest.raises(configs.ConfigError, match='name=sft; it has no systems'):
    configs.read_config(f'{CONFIG}:sft', ())
  with pytest.raises(configs.ConfigError, match='a system of method self_dis'):
    configs.read_config(str(CONFIG), [('method.name', 'sdpo')])
  with pytest.raises(configs.ConfigError, match="'on_policy', a key of teach"):
    configs.read_config(f'{CONFIG}:sdpo', [('method.on_policy', 0.5)])
  grpo = CONFIG.with_name('grpo_small.py')
  with pytest.raises(configs.ConfigError, match="takes no 'sdpo'"):
    configs.read_config(f'{grpo}:sdpo', ())
  assert configs.read_config(f'{CONFIG}:rft', ()).method.name == 'rft'
  assert configs.read_config(str(CONFIG), ()).method.name == 'self_distill'


@pytest.mark.parametrize(
  ('name', 'changes', 'said'),
  [
    ('sdpo', {'context': 'ful'}, "context is 'ful'.*nearest is 'full'"),
    ('sdpo', {'support': 'al'}, "nearest is 'all'"),
    ('sdpo', {'alpha': 1.5}, 'alpha is 1.5'),
    ('sdpo', {'support': 'sampled'}, 'method.alpha=1'),
    ('sdpo', {'trust': 1.0}, 'trust is 1.0'),
    ('sdpo', {'others': True}, "taught is 'all'"),
    ('sdpo', {'samples': 1}, 'samples is 1'),
    ('sdpo', {'kl': 0.1}, 'method.others'),
    ('u_opsd', {'solution': 'reference'}, 'knows no reference'),
    ('sdpo', {'teacher': 'ema:2'}, "rule 'ema:2': ema cannot have '2'"),
    ('gkd', {'teacher': 'model:small-lat'}, 'small-late'),
    ('gkd', {'teacher': 'small-late'}, 'a model is model:small-late'),
    ('gkd', {'teacher': '/data/model'}, 'a model is model:/data/model'),
    ('sdpo', {'teacher': 'emma:0.9'}, "the nearest is 'ema'"),
    ('sdpo', {'teacher': 'every'}, 'every has no value'),
    ('gkd', {'on_policy': 1.5}, 'on_policy is 1.5'),
    ('sequence_kd', {'on_policy': 1.0}, 'method rft'),
    ('rft', {'keep': 'votes'}, "nearest is 'vote'"),
    ('opsa', {'part': 0.0}, 'part is 0.0'),
    ('rlcsd', {'samples': 2}, 'samples is 2'),
    ('rlcsd', {'scale': 0.0}, 'scale is 0'),
    ('on_policy_kd', {'on_policy': 0.5}, 'own tokens do not estimate'),
    (
      'sdpo',
      {'rewarded': 1.0, 'calibration': 1.0, 'judge': 'vote'},
      'agrees with itself',
    ),
    ('sdpo', {'calibration': 1.0}, 'method.rewarded must be above 0'),
    ('sdpo', {'rewarded': 1.0, 'calibration': 2.0}, r'must be in \[0, 1\]'),
    ('on_policy_kd', {'top_p': 0.9}, 'top_p 0.9; sampled tokens estimate'),
    ('minillm', {'top_k': 20}, 'top_k is 20 and'),
    (
      'sdpo',
      {'support': 'sampled', 'alpha': 1.0, 'top_p': 0.9},
      'from the whole distribution',
    ),
    ('minillm', {'gamma': 2.0}, 'gamma is 2.0'),
    ('minillm', {'objective': 'dapo'}, "objective is 'dapo'.*whole answers"),
    ('opsa', {'objective': 'rloo'}, "objective is 'rloo'.*leave it at 'grpo'"),
    ('rlcsd', {'overlong': 8}, 'overlong is 8.*leave it at 0'),
    ('sdft', {'clip_high': 0.28}, 'clip_high is 0.28.*method.others'),
    ('srpo', {'overlong': 8}, 'no length is paid for'),
    ('gkd', {'kl': 0.1}, 'kl is 0.1.*the teacher holds it'),
    ('gkd', {'entropy': 1.0}, 'entropy is 1.0.*weighs no token by it'),
    ('sequence_kd', {'alpha': 1.0}, "alpha is 1.0.*learn is 'text'"),
    ('sequence_kd', {'entry_clip': 0.1}, "entry_clip is 0.1.*is 'text'"),
    ('sequence_kd', {'importance_cap': 3.0}, "cap is 3.0.*is 'text'"),
    ('rlcsd', {'objective': 'gspo'}, "'gspo'.*by token"),
  ],
)
def test_what_cannot_be_is_said_in_one_line(name, changes, said):
  keys = {f'method.{k}': v for k, v in changes.items()}
  config = configs.read_config(f'{CONFIG}:{name}', keys.items())
  with pytest.raises(configs.ConfigError, match=said) as error:
    configs.check(config)
  assert '\n' not in str(error.value)


def test_another_model_may_read_what_a_self_teacher_does(trained):
  _, lines, _ = trained('sdpo', **{'method.teacher': 'model:small-late'})
  assert lines[1]['train/kl_teacher'] > 0


def test_a_teacher_of_another_tokenizer_teaches_by_its_texts_only(trained):
  teacher = {'method.teacher': 'model:small-wide'}
  with pytest.raises(configs.ConfigError, match='another tokenizer'):
    trained('gkd', **teacher)
  _, lines, _ = trained('sequence_kd', 'texts', **teacher)
  assert np.isfinite(lines[1]['train/loss'])

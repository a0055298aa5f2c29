"""What the contract carries, each piece by the smallest method that needs it.

The methods are those of `tests/methods/`: one file each, outside the package.
"""

import json
import pathlib

import jax
import numpy as np
import pytest
from whole_runs import moved, promised, to_go_on, trained_by

from jaxdistill import config as configs
from jaxdistill.cli.main import main
from jaxdistill.run.others import Others
from jaxdistill.run.workdir import Workdir

METHODS = pathlib.Path(__file__).parent / 'methods'


def where_of(name):
  """A method of the tests, or of the package."""
  file = METHODS / f'{name}.py'
  return str(file) if file.exists() else name


def config_of(name, **keys):
  """A run of two steps, as small as it can be."""
  config = configs.base_config(where_of(name))
  config.model = 'small-middle'
  config.steps, config.eval_every, config.checkpoint_every = 2, 2, 1
  config.eval.splits, config.eval.problems = ('test',), 8
  config.eval.samples, config.eval.max_tokens = 2, 24
  config.guard.every = 0
  config.anchors = {}
  config.batch.length, config.batch.sequences = 64, 8
  configs.override(config, keys.items())
  return config


@pytest.fixture
def trained(mesh, tmp_path):
  """Trains two steps; the loop, its metrics by step, and the policy before."""

  def train(name, workdir='run', **keys):
    config = config_of(name, **keys)
    return trained_by(config, tmp_path / workdir)

  return train


def test_serl_two_kinds_in_one_update(trained):
  loop, lines, _ = trained('serl')
  first = lines[0]
  assert {'train/actor_clipped', 'train/judge_ratio_is_one'} <= first.keys()
  assert 'train/judge_clipped' not in first  # its own loss, its own names
  whole = first['train/actor_loss'] + first['train/judge_loss']
  assert first['train/loss'] == pytest.approx(whole, abs=1e-6)
  assert 'train/grad_norm' in first and 'train/actor_grad_norm' not in first
  assert first['train/judge_ratio_is_one'] == 1
  assert loop.run.loaded.model.deltas.roles == ('solver', 'judge')
  assert int(loop.state.step) == 2


def test_score_two_turns(trained, tmp_path):
  _, lines, _ = trained('score')
  assert 0 <= lines[0]['eval/test/accuracy_turn_1'] <= 1
  assert 'eval/test/accuracy_turn_2' in lines[0]
  assert lines[0]['train/kl_base'] == pytest.approx(0, abs=1e-6)
  assert lines[1]['train/loss'] != 0
  told = Workdir(tmp_path / 'run').path / 'rollouts' / '000000.jsonl'
  turns = [json.loads(x)['turns'] for x in told.read_text().splitlines()]
  assert len(turns) == 16 and {len(t) for t in turns} <= {1, 2}
  assert any(len(t) == 2 for t in turns)


def test_sdpo_a_teacher_in_the_loss_that_moves_by_optimizer_step(
  trained, monkeypatch
):
  after, versions = Others.after_update, []

  def noted(self, state, metrics):
    versions.append(jax.tree.map(np.asarray, state.params))
    after(self, state, metrics)

  monkeypatch.setattr(Others, 'after_update', noted)
  loop, lines, before = trained('sdpo')
  assert lines[0]['train/kl_teacher'] > 0  # it reads the answer
  assert len(versions) == int(loop.state.step) >= 2
  teacher = before  # half of the way at each update, none between
  for now in versions:
    teacher = jax.tree.map(lambda a, b: a + 0.5 * (b - a), teacher, now)
  for a, b in zip(
    *map(jax.tree.leaves, (teacher, loop.anchors.params['teacher'])),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, atol=1e-6)
  assert moved(before, loop.state.params)


def test_dpo_pairs(trained):
  loop, lines, _ = trained('dpo')
  first = lines[0]
  assert first['dpo/pairs'] > 0
  # Two epochs: at first no margin, then one for what was chosen.
  assert first['train/margin'] > 0
  assert first['train/loss'] < np.log(2)
  assert int(loop.state.step) == 4
  # Moments began anew at each run step, the clock of the rate went on.
  assert int(loop.state.shared_opt[0].count) == 2


def test_seal_inner_trainings(trained, tmp_path):
  loop, lines, _ = trained('seal')
  assert all(0 <= line['seal/score'] <= 1 for line in lines[:2])
  assert len(loop.method_state['edits']) == 2
  files = sorted((tmp_path / 'run' / 'data').glob('*.jsonl'))
  assert len(files) == 2  # one for each checkpoint's state
  assert int(loop.state.step) == 0  # no step of the outer optimizer


def test_an_external_teacher_s_tokens(trained, tmp_path):
  _, lines, _ = trained('teacher', model='small-early')
  assert lines[0]['train/kl_teacher'] > 0.01
  assert not (tmp_path / 'run' / 'anchors' / 'teacher').exists()


TASK = """
from jaxdistill.data.tasks import SmallTask

def recall(player, problems, *, samples, max_tokens, key, pass_k=()):
  assert player.tokenizer and samples == 2 and max_tokens == 24
  return {'recall': [float(p.address % 2) for p in problems]}

class Facts(SmallTask):
  @property
  def evaluator(self):
    return recall

task = Facts()
"""


def test_a_task_says_what_is_measured_of_it(
  trained, tmp_path, monkeypatch, capsys
):
  (tmp_path / 'facts.py').write_text(TASK)
  _, lines, _ = trained('rft', task=str(tmp_path / 'facts.py'))
  found = {k: v for k, v in lines[0].items() if k.startswith('eval/')}
  assert found == {'eval/test/recall': 0.5, 'eval/test/problems': 8}
  monkeypatch.chdir(tmp_path)
  ask = ('eval', '--workdir', 'run', '--samples', '2', '--max_tokens', '24')
  assert main([*ask, '--problems', '8']) == 0
  assert 'eval/test/recall                 0.5000' in capsys.readouterr().out


def test_rft_a_verifier_by_choices(trained):
  _, lines, _ = trained('rft')
  assert 0 < lines[0]['rft/kept'] <= 1


@pytest.mark.parametrize('name', ['sdpo', 'dpo'])  # others: their methods' own
def test_what_is_cut_goes_on_as_if_it_had_not_been(trained, name, tmp_path):
  whole, lines, _ = trained(name)
  trained(name, 'cut', steps=1)
  to_go_on(tmp_path / 'cut')
  again, more, _ = trained(name, 'cut')
  assert again.first_step == 1
  assert [*map(promised, more)] == [*map(promised, lines)]
  assert not moved(whole.state.params, again.state.params)
  assert again.method_state == whole.method_state

"""What the contract carries and no system of the package needs alone.

The methods are those of `tests/methods/`: one file each, outside the package.
"""

import pathlib

import jax
import numpy as np
import pytest
from whole_runs import cut, moved, promised, trained_by

from jaxdistill import config as configs
from jaxdistill.cli.main import main
from jaxdistill.run.others import Others

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
  few = {'method.problems': 4, 'method.samples': 2, 'method.max_tokens': 24}
  _, lines, _ = trained('rft', task=str(tmp_path / 'facts.py'), **few)
  found = {k: v for k, v in lines[0].items() if k.startswith('eval/')}
  assert found == {'eval/test/recall': 0.5, 'eval/test/problems': 8}
  monkeypatch.chdir(tmp_path)
  ask = ('eval', '--workdir', 'run', '--samples', '2', '--max_tokens', '24')
  assert main([*ask, '--problems', '8']) == 0
  assert 'eval/test/recall                 0.5000' in capsys.readouterr().out


@pytest.mark.parametrize('name', ['sdpo', 'dpo'])  # others: their methods' own
def test_what_is_cut_goes_on_as_if_it_had_not_been(trained, name, tmp_path):
  whole, lines, _ = trained(name)
  cut(tmp_path / 'run', tmp_path / 'cut')
  again, more, _ = trained(name, 'cut')
  assert again.first_step == 1
  assert [*map(promised, more)] == [*map(promised, lines)]
  assert not moved(whole.state.params, again.state.params)
  assert again.method_state == whole.method_state

"""Cross-encoders: margins and rank measures by hand, labels, training."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from config_files import GRADE, compares
from contract_test import moved, promised, trained  # noqa: F401
from whole_runs import cut

from jaxdistill import config as configs
from jaxdistill import losses, rewards
from jaxdistill.cli.main import main
from jaxdistill.data.tasks import load_task
from jaxdistill.methods.cross_encoder import CrossEncoder, graded, nearest
from jaxdistill.models import load, merge, save
from jaxdistill.models.store import describe
from jaxdistill.rollout.player import Player

SMALL = {
  'model': 'grader:small-wide-fresh',
  'task': 'small:relevance',
  'roles': 'shared',
  'eval.problems': 4,
  'batch.length': 0,
  'batch.sequences': 0,
  'method.problems': 4,
  'method.items': 4,
  'method.ranked': 6,
}


def small(more=(), **keys):
  return SMALL | {f'method.{k}': v for k, v in keys.items()} | dict(more)


def test_the_margin_of_two_by_hand():
  s, t = jnp.array([[2.0, -1.0, 0.5]]), jnp.array([[3.0, 1.0, 4.0]])
  value = losses.margin_mse(s - t, jnp.array([[1, 1, 2]]))
  # ((2 - -1) - (3 - 1))^2 = 1 at both items; an item alone has no margin.
  np.testing.assert_allclose(value, [[1, 1, 0]], atol=1e-6)


def test_the_mean_over_items_is_that_over_all_pairs():
  draw = np.random.default_rng(0)
  s, t = draw.standard_normal((2, 5))
  pairs = [
    ((s[i] - s[j]) - (t[i] - t[j])) ** 2 for i in range(5) for j in range(i)
  ]
  errors = jnp.array([[*(s - t), 9.0, 3.0]])
  value = losses.margin_mse(errors, jnp.array([[1] * 5 + [2] * 2]))
  assert value[0, :5].mean() == pytest.approx(np.mean(pairs), rel=1e-5)
  assert value[0, 5:].mean() == pytest.approx(36)
  assert rewards.ranking(s, t)['margin_mse'] == pytest.approx([np.mean(pairs)])


def test_ranks_by_hand():
  found = rewards.ranking([3, 1, 2, 2], [2, 0, 1, 0])
  # Pairs of different grades: 2-0, 2-1, 2-0, 1-0 right, and 1-0 a tie.
  assert sorted(found['order_accuracy']) == [0.5, 1, 1, 1, 1]
  # Gains 3, 0, 1, 0; the third and the fourth share ranks 2 and 3.
  shared = (1 / math.log2(3) + 1 / 2) / 2
  best = 3 + 1 / math.log2(3)
  assert found['ndcg_10'] == pytest.approx([(3 + shared) / best])
  # Ranks 4, 1, 2.5, 2.5 against 4, 1.5, 3, 1.5.
  wanted = np.corrcoef([4, 1, 2.5, 2.5], [4, 1.5, 3, 1.5])[0, 1]
  assert found['spearman'] == pytest.approx([wanted])


def test_what_grades_do_not_tell_is_not_observed():
  assert rewards.ranking([1, 2], [0, 0]) == {
    'order_accuracy': [],
    'ndcg_10': [],
    'spearman': [],
    'margin_mse': [pytest.approx(1)],
  }
  assert not any(rewards.ranking([], []).values())
  assert rewards.ranking([1, 1], [0, 1])['spearman'] == [0]


def test_only_the_first_ten_count():
  grades = np.array([0] * 10 + [1, 1])
  last = rewards.ranking(-np.arange(12), grades)
  assert last['ndcg_10'] == [0]
  first = rewards.ranking(np.arange(12), grades)
  assert first['ndcg_10'] == pytest.approx([1])


def test_soft_and_hard_grades_by_hand():
  logp = np.log([[0.2, 0.1, 0.1], [0.1, 0.3, 0.3]])  # of words that may not be
  worth = np.array([0.0, 1.0, 2.0])
  np.testing.assert_allclose(graded(logp, worth, True), [0.75, 9 / 7])
  assert graded(logp, worth, False).tolist() == [0, 1]
  problem = load_task('small:relevance').problems('test')[0]
  found = nearest(np.array([-3, 1.4, 3.6, 9]), [problem])
  assert found.tolist() == [0, 1, 4, 4]


def test_items_are_of_the_problem_s_split():
  from jaxdistill.data.small import items as small_items

  task = load_task('small:relevance')
  for split in ('train', 'test', 'ood'):
    problem = task.problems(split)[0]
    found = task.items(problem, 8)
    assert found == task.items(problem, 8) and len({*found}) == 8
    assert len({x.query for x in found}) == 1
    for item in found:
      pair = small_items.read_pair(task.question(item))
      assert small_items.split_of(*pair) == {'ood': 'test'}.get(split, split)
      assert small_items.grade(*pair) == item.grade


def test_coverage_is_of_the_train_split_only():
  from jaxdistill.data.small.items import KINDS

  def kinds(name):
    problems = load_task(name).problems('train')
    queries = [problems[i].text.split()[1:3] for i in range(60)]
    place = {w: i for i, k in enumerate(KINDS) for pair in k for w in pair}
    return {tuple(sorted(place[w] for w in q)) for q in queries}

  narrow, matched, broad = (
    kinds(f'small:relevance{more}') for more in (':narrow', '', ':broad')
  )
  assert narrow == {(0, 1)}
  assert matched == {(0, 1), (0, 2), (1, 2)}
  assert broad == matched | {(0, 0), (1, 1), (2, 2)}
  plain, other = (
    [p.text for p in load_task(f'small:relevance{x}').problems('test')]
    for x in ('', ':narrow')
  )
  assert plain == other


def test_it_learns_grades_from_a_model_that_writes(trained):  # noqa: F811
  loop, lines, _ = trained(
    'cross_encoder',
    steps=25,
    eval_every=25,
    checkpoint_every=25,
    **small(
      {'optimizer.lr': 3e-3, 'optimizer.warmup': 5, 'eval.problems': 24},
      problems=16,
      teacher='model:small-wide',
      ranked=12,
    ),
  )
  first, last = lines[0], lines[-1]
  assert first['eval/test/teacher_order_accuracy'] > 0.9
  assert 'eval/test/accuracy_greedy' not in first
  assert abs(first['eval/test/order_accuracy'] - 0.5) < 0.2
  assert last['eval/test/order_accuracy'] > 0.6
  assert last['eval/test/margin_mse'] < 0.7 * first['eval/test/margin_mse']
  assert 'eval/test/teacher_order_accuracy' not in last  # it has not moved
  assert first['train/targets_order_accuracy'] > 0.9
  # The teacher reads five symbols for each grade.
  assert first['rollout/scored'] == 16 * 8 * 5
  assert loop.run.loaded.model.config.grades


def test_a_trained_one_teaches_another(trained, tmp_path):  # noqa: F811
  loop, lines, _ = trained('cross_encoder', **small())
  model = loop.run.loaded.model
  save(
    tmp_path / 'saved', merge(model, 'solver'), loop.run.loaded.tokenizer, {}
  )
  assert describe(str(tmp_path / 'saved')).grades
  name = f'model:{tmp_path / "saved"}'
  _, more, _ = trained(
    'cross_encoder', 'student', **small(teacher=name, soft=False), steps=1
  )
  before = lines[0]['eval/test/margin_mse']
  assert more[0]['eval/test/teacher_margin_mse'] == pytest.approx(before, 0.1)
  told = (tmp_path / 'student' / 'rollouts' / '000000.jsonl').read_text()
  targets = json.loads(told.splitlines()[0])['targets']
  assert {*targets} <= {0, 1, 2, 3, 4}  # hard


def test_a_trunk_gets_a_new_head():
  shipped, grader = load('small-wide').model, load('grader:small-wide').model
  np.testing.assert_array_equal(shipped.q.kernel, grader.q.kernel)
  assert grader.head.kernel.shape == (128, 1)
  assert float(jnp.abs(grader.head.kernel[...]).max()) > 0


def test_cut_and_taken_up_again(trained, tmp_path):  # noqa: F811
  keys = small(teacher='model:small-wide', epochs=2, minibatches=2)
  whole, lines, _ = trained('cross_encoder', **keys)
  cut(tmp_path / 'run', tmp_path / 'cut')
  again, more, _ = trained('cross_encoder', 'cut', **keys)
  assert again.first_step == 1 and int(again.state.step) == 8
  assert [*map(promised, more)] == [*map(promised, lines)]
  assert not moved(whole.state.params, again.state.params)


TASK = """
from jaxdistill.data.tasks.ranking import RelevanceTask

class Ungraded(RelevanceTask):
  def items(self, problem, count):
    return [x._replace(grade=None) for x in super().items(problem, count)]

task = Ungraded()
"""


def test_what_does_not_fit_is_said_in_a_line(tmp_path):
  (tmp_path / 'ungraded.py').write_text(TASK)
  for keys, words in (
    ({'task': 'small'}, 'task small has none .small:relevance has'),
    ({'task': str(tmp_path / 'ungraded.py')}, 'has no grades for the items'),
    ({'model': 'small-wide'}, "'grader:small-wide' is its trunk"),
    ({'method.teacher': 'gpt'}, 'must be known or model:NAME'),
    ({'method.items': 1}, 'a margin needs at least 2'),
    ({'method.teacher': 'model:small-wid'}, 'small-wide'),
    ({'attention': 'pallas'}, 'attention is pallas'),
  ):
    config = config_of_small(**keys)
    with pytest.raises(configs.ConfigError, match=words) as said:
      configs.check(config)
      configs.prepare(config)
      configs.build(config)
    assert '\n' not in str(said.value)


def test_a_grader_is_no_model_for_a_method_that_writes():
  config = config_of_small()
  configs.override(config, [('method.name', 'grpo')])
  with pytest.raises(configs.ConfigError, match='which grades texts'):
    configs.check(config)


def config_of_small(**keys):
  config = configs.base_config('cross_encoder')
  configs.override(config, {**SMALL, **keys}.items())
  return config


def test_a_host_without_queries_asks_all_the_same():
  class Nobody(Player):
    grades = False

    def __init__(self):
      pass

    def choose(self, prompts, choices):
      assert not prompts and not choices
      return np.zeros((0, 0), np.float32)

    def written(self, prompt, text):
      raise AssertionError('nothing is read')

  method = CrossEncoder(teacher='model:x')
  players = {'policy': Nobody(), 'teacher': Nobody()}
  found = method.collect(players, [], {}, 0, jax.random.key(0))
  assert not found.updates[0].sets[0].rows
  assert {*found.metrics} == {
    f'train/targets_{k}' for k in rewards.ranking([], [])
  }


def test_a_comparison_of_them_says_how_pairs_are_ordered(
  mesh, tmp_path, capsys
):
  (file,) = (path for path in GRADE if compares(path))
  sets = {'steps': 2, 'eval.problems': 4, 'method.problems': 2}
  sets = [f'--config.{k}={v}' for k, v in sets.items()]
  arms = ('matched_64_soft', 'broad_512_hard')
  paths = ['--config', str(file), '--workdir', str(tmp_path)]
  ask = [*paths, *sets, f'--arms={",".join(arms)}', '--seeds=0']
  assert main(['compare', *ask]) == 0
  assert '| held out, order of pairs |' in capsys.readouterr().out
  found = json.loads((tmp_path / 'summary.json').read_text())['arms']
  assert found.keys() == {*arms}
  soft, hard = (
    found[arm]['eval/test/teacher_margin_mse']['last'] for arm in arms
  )
  assert soft != hard


def test_what_a_config_of_a_real_trunk_says_fits_together():
  (file,) = (path for path in GRADE if not compares(path))
  sets = [('model', 'grader:small-wide')]
  found = configs.read_config(str(file), sets)
  configs.check(found)
  assert found.eval.problems <= len(load_task(found.task).problems('test'))

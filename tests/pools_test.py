"""What is trained on: other kinds of problems, and only so many of them."""

import collections
import dataclasses
import itertools
import json

import grain
import pytest
from config_files import CONFIG
from loop_test import lines, same, small, start

from jaxdistill import config as configs
from jaxdistill.config import ConfigError
from jaxdistill.data.small import world
from jaxdistill.data.tasks import JsonlTask, load_task
from jaxdistill.run.pool import shuffled

NAMES = 'small:narrow', 'small:broad'


def kinds(problems):
  """How many there are of each operation and lengths of its operands."""
  sums = [world.read_sum(p.text) for p in problems]
  return collections.Counter(
    (s.operation, len(str(s.a)), len(str(s.b))) for s in sums
  )


def first(name, n=4000):
  problems = load_task(name).problems('train')
  return [problems[i] for i in range(n)]


@pytest.mark.parametrize('name', NAMES)
def test_only_the_train_split_is_another(small_world, name):
  task, usual = load_task(name), load_task('small')
  assert task.name == name and task.asks
  assert len(task.problems('train')) == 2**20
  for split in ('dev', 'test', 'ood'):
    found, wanted = task.problems(split), usual.problems(split)
    assert len(found) == len(wanted)
    for i in range(0, len(found), 50):
      assert found[i] == wanted[i]
      assert found[i].task is task
      assert task.solver_prompt(found[i]) == usual.solver_prompt(wanted[i])
  problem = task.problems('train')[3]
  assert problem.task is task
  assert problem.demonstration[0] == task.solver_prompt(problem)
  assert task.proposer_prompt(problem) == f'propose {problem.topic}:'
  assert task.parse_answer(problem.demonstration[1]) == problem.answer


@pytest.mark.parametrize('name', NAMES)
def test_problems_to_train_on_are_drawn_by_index(name):
  problems = first(name, 200)
  again = load_task(name).problems('train')
  assert [again[i] for i in (150, 7, 7)] == [problems[i] for i in (150, 7, 7)]
  assert len({p.text for p in problems}) > 180
  for p in problems:
    found = world.read_sum(p.text)
    assert found.split == 'train' and not p.task.held_out(p)
    assert p.answer == str(found.answer) and p.topic == found.operation


def test_narrow_is_additions_of_two_digits():
  assert kinds(first('small:narrow')) == {('add', 2, 2): 4000}


def test_broad_has_the_kinds_of_the_corpus_and_those_beyond():
  shares = dict(world.CORPUS_MIX)
  for one, share in world.OOD_MIX.items():
    shares[one] = shares.get(one, 0) + share
  found, total = kinds(first('small:broad')), sum(shares.values())
  assert total == 209
  assert found.keys() == shares.keys()
  for one, share in shares.items():
    spread = (4000 * share / total) ** 0.5
    assert abs(found[one] - 4000 * share / total) < 4 * spread, one


def test_nothing_held_out_is_in_a_pool(small_world):
  usual = load_task('small')
  held_out = {
    usual.problems(split)[i].text
    for split in ('dev', 'test', 'ood')
    for i in range(len(usual.problems(split)))
  }
  for name in NAMES:
    assert not held_out & {p.text for p in first(name)}


# So many of them: `config.pool`.


@pytest.fixture
def twelve(tmp_path):
  path = tmp_path / 'twelve.jsonl'
  texts = [json.dumps({'text': f'{i}+0', 'answer': i}) for i in range(12)]
  held_out = json.dumps({'text': '12+0', 'answer': 12, 'split': 'test'})
  path.write_text('\n'.join([*texts, held_out]))
  return JsonlTask(str(path))


def drawn(task, pool, seed, count):
  """The answers to the first problems that a run would train on."""
  problems = shuffled(task, pool, seed)
  return [int(problems[i].answer) for i in range(count)]


@pytest.mark.parametrize('n', [1, 5, 12])
def test_only_so_many_problems_are_ever_drawn(twelve, n):
  found = [drawn(twelve, n, seed, 6 * n) for seed in (0, 3)]
  for series in found:
    rounds = [series[i : i + n] for i in range(0, 6 * n, n)]
    assert all(sorted(r) == sorted(rounds[0]) for r in rounds)
    assert len({*rounds[0]}) == n
  assert {*found[0]} == {*found[1]}


def test_the_order_is_the_run_s_own(twelve):
  left, right = (drawn(twelve, 8, seed, 8) for seed in (0, 3))
  assert left != right and {*left} == {*right}


def test_a_pool_is_part_of_a_larger_one(twelve):
  pools = [{*drawn(twelve, n, 1, n)} for n in range(1, 13)]
  for smaller, larger in itertools.pairwise(pools):
    assert smaller < larger


def test_without_a_pool_the_order_is_as_ever(twelve):
  problems = twelve.problems('train')
  for seed in (0, 3):
    wanted = grain.MapDataset.source(problems).shuffle(seed=seed).repeat()
    wanted = [int(wanted[i].answer) for i in range(40)]
    assert drawn(twelve, 0, seed, 40) == wanted
    assert sorted(wanted[:12]) == [*range(12)]


@pytest.mark.parametrize('given', [True, False])
def test_more_than_there_is_is_refused(twelve, small_world, given):
  task = twelve if given else load_task('small')
  there = len(task.problems('train'))
  config = configs.read_config(CONFIG, [('pool', there + 1)])
  config.model = 'small-fresh'
  if given:
    config.task = str(task.path)
    config.eval.splits = ('test',)
  look = configs.check if given else configs.prepare
  said = f'config.pool is {there + 1}; task {task.name} has {there} problems'
  with pytest.raises(ConfigError, match=said) as error:
    look(config)
  assert '\n' not in str(error.value)


def test_a_run_that_is_cut_goes_on_with_its_pool(mesh, tmp_path):
  def run(folder, steps):
    config = small('sft', model='small-fresh', checkpoint_every=1, pool=6)
    config.eval.problems, config.eval.splits = 2, ('test',)
    loop = start(config, tmp_path / folder)
    read, draw = [], loop.draw
    loop.draw = lambda step: read.append((step, draw(step))) or draw(step)
    iterator = loop.steps()
    for _ in zip(range(steps), iterator, strict=False):
      pass
    iterator.close()
    return loop, read

  whole, read = run('whole', 9)
  run('cut', 2)
  again, later = run('cut', 9)
  assert again.first_step == 2
  assert same(whole.state, again.state)
  assert lines(tmp_path / 'whole') == lines(tmp_path / 'cut')
  texts = {step: [p.text for p in found] for step, found in read}
  assert len({t for found in texts.values() for t in found}) <= 6
  for step, found in later:
    assert [p.text for p in found] == texts[step]
    assert [dataclasses.asdict(p)['address'] for p in found] == [0, 1, 2, 3]

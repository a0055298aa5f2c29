"""The shop: grades by hand, splits that share nothing, words of all grades."""

import collections

import pytest

from jaxdistill.data.tasks import Ranking, load_task
from jaxdistill.data.tasks.shop import TRAINED, Thing, grade

QUERY = Thing('shoes', 1, 2, 0, -1)  # blue leather hiking boots


@pytest.mark.parametrize(
  ('item', 'value'),
  [
    (Thing('shoes', 1, 2, 0, 2), 4),
    (Thing('shoes', 1, 3, 0, 2), 3),  # navy: half of a property
    (Thing('shoes', 1, 4, 0, 2), 3),
    (Thing('shoes', 1, 3, 1, 2), 2),
    (Thing('shoes', 1, 8, 2, 2), 2),
    (Thing('shoes', 0, 2, 0, 2), 1),
    (Thing('bags', 1, 2, 0, 2), 0),
  ],
)
def test_grades_by_hand(item, value):
  assert grade(QUERY, item) == value


def test_texts_are_the_same_on_every_machine():
  task = load_task('shop')
  problem = task.problems('test')[0]
  found = task.items(problem, 3)
  assert found == task.items(problem, 9)[:3]
  assert problem.text == found[0].query
  assert problem.answer == str(int(found[0].grade))
  assert (found[0].query, found[0].text) == (
    'brown stoneware skillet',
    'Tessaro computer pouch. material: polyamide; Colour: moss-coloured; '
    'packs flat.',
  )


def pairs(task, split, n):
  found = task.problems(split)
  some = [found[i] for i in range(n)]
  return {
    (p.topic.rsplit(' ', 3)[0], x.text) for p in some for x in task.items(p, 16)
  }


def test_held_out_pairs_are_not_trained_on():
  broad = load_task('shop:broad')
  trained = pairs(broad, 'train', 400)
  for split in ('dev', 'test', 'ood'):
    assert not trained & pairs(broad, split, 100)


def test_every_grade_is_as_frequent_and_departments_are_of_their_split():
  task = load_task('shop')
  assert isinstance(task, Ranking)
  train = [task.problems('train')[i] for i in range(50)]
  counts = collections.Counter(x.grade for p in train for x in task.items(p, 8))
  assert {*counts} == {0, 1, 2, 3, 4}
  assert min(counts.values()) > 50
  for coverage, split, sold in (
    ('', 'test', {*TRAINED}),
    ('', 'ood', {'garden', 'office'}),
    (':narrow', 'train', {'shoes'}),
    (':broad', 'train', {*TRAINED, 'garden', 'office'}),
  ):
    problems = load_task(f'shop{coverage}').problems(split)
    some = [problems[i].topic.split()[0] for i in range(60)]
    assert {*some} == sold


def test_an_unknown_coverage_is_named():
  with pytest.raises(ValueError, match=r"'narow' of task shop.+'narrow'"):
    load_task('shop:narow')

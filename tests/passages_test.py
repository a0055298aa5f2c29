"""Passages, and the questions that their edits are worth."""

import json

import pytest

from jaxdistill.data.small import people
from jaxdistill.data.tasks import load_task
from jaxdistill.data.tasks.passages import QuestionTask
from jaxdistill.types import (
  Problem,
)

ASK = QuestionTask()


def test_passages_of_the_small_world():
  task = load_task('small:passages')
  (problem, *_) = task.problems('test')
  asked = task.questions(problem)
  assert [q.text for q in asked] == [
    people.ask_prompt(problem.topic, key) for key in people.FACTS
  ]
  for q in asked:
    assert q.answer in problem.text and problem.text not in q.text
    assert q.task.reward(q, [q.answer, 'tea' * 2, None]) == [1, 0, 0]
  edit = problem.demonstration[1]
  assert all(q.answer in edit for q in asked)
  assert task.documents(problem, edit) == [(f'tell {problem.topic}:', edit)]
  splits = {s: {p.topic for p in task.problems(s)} for s in ('dev', 'test')}
  assert splits['dev'].isdisjoint(splits['test'])
  assert problem.topic not in {
    task.problems('train')[i].topic for i in range(9)
  }
  with pytest.raises(ValueError, match='no worth of its own'):
    task.reward(problem, ['x'])
  assert task.parse_problem(problem.text) == problem
  assert task.parse_problem(problem.text[: problem.text.index(',')]) is None
  assert task.parse_problem('nobody at all') is None
  assert task.parse_problem('') is None


def test_passages_in_words(tmp_path):
  task = load_task('passages')
  (problem, *_) = task.problems('test')
  asked = task.questions(problem)
  assert all(q.answer.lower() in problem.text.lower() for q in asked)
  assert problem.topic in asked[0].text and len(asked) == 4
  (home, *_) = asked
  right = [home.answer, f'The {home.answer.upper()}.', f'in {home.answer}, yes']
  wrong = [f'{home.answer}x', None, '']
  assert home.task.reward(home, [*right, *wrong]) == [1, 1, 1, 0, 0, 0]
  edit = 'Here they are:\n1. One.\n\n2. Two.\n'
  documents = task.documents(problem, edit)
  assert [text for _, text in documents] == ['1. One.', '2. Two.']
  assert task.documents(problem, 'One.\nTwo.')[0][1] == 'One.'


LINE = {
  'title': 'T',
  'passage': 'P {x}',
  'questions': [{'question': 'Q?', 'answer': 7}],
}


def test_passages_of_a_file(tmp_path):
  path = tmp_path / 'some.jsonl'
  lines = [LINE | {'edit': 'E'}, LINE | {'title': 'U', 'split': 'test'}]
  path.write_text('\n'.join(map(json.dumps, lines)))
  task = load_task(f'passages:{path}')
  (train,), (test,) = task.problems('train'), task.problems('test')
  assert train.demonstration == (task.solver_prompt(train), 'E')
  assert 'P {x}' in task.asking('edit', train)
  (q,) = task.questions(test)
  assert q.task.reward(q, ['it is 7.']) == [1] and q.topic == 'U'
  with pytest.raises(ValueError, match="no problem of split 'dev'"):
    task.problems('dev')


@pytest.mark.parametrize(
  ('text', 'said_'),
  [
    ('', 'has no passages'),
    ('{', 'line 1 is not JSON'),
    ('[]', "line 1 has no 'title'"),
    (json.dumps(LINE | {'questions': []}), "no 'questions', a list"),
    (json.dumps(LINE | {'questions': [{'question': 'Q'}]}), 'is no question'),
    (json.dumps(LINE | {'split': 'tset'}), "split 'tset'"),
  ],
)
def test_a_bad_file_of_passages_ends_in_one_line(tmp_path, text, said_):
  path = tmp_path / 'bad.jsonl'
  path.write_text(text)
  with pytest.raises(ValueError, match=said_):
    load_task(f'passages:{path}')
  with pytest.raises(ValueError, match='no file of passages'):
    load_task('passages:none.jsonl')
  with pytest.raises(ValueError, match=r'is no \.jsonl file'):
    load_task('passages:none.txt')


def test_reciting_is_no_answer():
  asked = Problem('Where is Bo at home?', ASK, 'lima', topic='Bo')
  passage = (
    'Bo is at home in Lima, works as a baker, keeps a cat and likes tea.'
  )
  said = {
    'Lima': 1,
    'the lima.': 1,
    'Bo is at home in Lima.': 1,
    'In Lima. Or in Oslo, Rome, Cairo, Paris.': 1,  # the first sentence counts
    passage: 0,
    'oslo rome lima cairo paris delhi tokyo quito accra perth': 0,
    'Oslo': 0,
    '': 0,
  }
  assert ASK.reward(asked, [*said]) == [*said.values()]

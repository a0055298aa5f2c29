"""Tasks from files: how they are read, and what is said of bad ones."""

import json
import re

import pytest

from jaxdistill.data.tasks import JsonlTask, SmallTask, load_task
from jaxdistill.rewards import equal
from jaxdistill.types import Problem, Task

LINES = (
  {'text': '1+1', 'answer': 2, 'topic': 'add'},
  {'text': 'What is half of 1?', 'answer': '0.5', 'split': 'train'},
  {'text': 'nobody knows'},
  {'text': '2+2', 'answer': '4', 'split': 'dev', 'topic': 'add'},
  {'text': '1024+1', 'answer': '1,025', 'split': 'test'},
)


def write(path, lines):
  path.write_text('\n'.join(map(json.dumps, lines)))
  return str(path)


@pytest.fixture
def path(tmp_path):
  return write(tmp_path / 'sums.jsonl', LINES)


def test_problems_of_a_file(path):
  task = JsonlTask(path)
  assert task.name == 'sums.jsonl'
  found = {
    split: [(p.text, p.answer, p.topic) for p in task.problems(split)]
    for split in ('train', 'dev', 'test')
  }
  assert found == {
    'train': [
      ('1+1', '2', 'add'),
      ('What is half of 1?', '0.5', ''),
      ('nobody knows', None, ''),
    ],
    'dev': [('2+2', '4', 'add')],
    'test': [('1024+1', '1,025', '')],
  }
  assert all(p.task is task for p in task.problems('train'))


def test_a_missing_split_is_said_so_with_those_there_are(path):
  with pytest.raises(ValueError, match=r"'ood'; it has train, dev, test "):
    JsonlTask(path).problems('ood')


def test_where_nothing_is_held_out_it_is_said_how(tmp_path):
  file = tmp_path / 'a.jsonl'
  file.write_text(json.dumps({'problem': '1+1', 'answer': '2'}))
  held = r"""'test'; it has train \(a line of a file .* "split": "test"\)"""
  with pytest.raises(ValueError, match=held):
    JsonlTask(str(file)).problems('test')


def test_prompts(path):
  task = JsonlTask(path)
  problem = Problem('1+1 {x}', task, topic='add')
  assert task.solver_prompt(problem) == 'solve 1+1 {x}:'
  assert task.proposer_prompt(problem) == 'propose add:'
  task = JsonlTask(path, solve='Q: {text}\nA: {', propose='{topic}? {topic}')
  assert task.solver_prompt(problem) == 'Q: 1+1 {x}\nA: {'
  assert task.proposer_prompt(problem) == 'add? add'


@pytest.mark.parametrize(
  ('text', 'answer'),
  [
    *(('42', '42'), ('it is 42', '42'), ('It is 42.', '42'), ('=42\n', '42')),
    *(('1 and 2, so 3', '3'), ('3 apples', '3'), ('07', '07')),
    *(('-5', '-5'), ('it is -5.', '-5'), ('+5', '+5'), ('3-5=-2', '-2')),
    *(('0.5', '0.5'), ('-2.25', '-2.25'), ('2.', '2')),
    *(('1/2', '1/2'), ('so 3/4.', '3/4'), ('-1/2', '-1/2')),
    *(('50%', '50%'), ('12.5% of it', '12.5%')),
    *(('1,024', '1,024'), ('$1,024,000.50!', '1,024,000.50')),
    *(('', None), ('none', None), ('-', None), ('1 or 2: no', '2')),
  ],
)
def test_an_answer_is_the_last_number(path, text, answer):
  assert JsonlTask(path).parse_answer(text) == answer


@pytest.mark.parametrize(
  ('text', 'number'),
  [('it is 42, as said', '42'), ('1, 2, or 3,', '3'), ('it is .5', '1/2')],
)
def test_what_is_read_is_that_number(path, text, number):
  assert equal(JsonlTask(path).parse_answer(text), number)


def test_answers_by_a_pattern_of_ones_own(path):
  task = JsonlTask(path, answer=r'answer: (\w+)')
  assert task.parse_answer('answer: 7, no, answer: x. 9') == 'x'
  assert task.parse_answer('9') is None


def test_the_first_group_of_a_pattern_is_the_answer(path):
  task = JsonlTask(path, answer=r'answer: (\d+)( apples)?')
  assert task.parse_answer('answer: 6, no, answer: 7 apples') == '7'


def test_proposals_are_matched_whole(path):
  task = JsonlTask(path, problem=r'\d+\+\d+')
  found = task.parse_problem('12+3')
  assert found == Problem('12+3', task)
  assert found.task is task
  assert found.answer is None
  for text in ('', '12+', '12+3;', 'a 12+3', '12+3\n'):
    assert task.parse_problem(text) is None
  assert JsonlTask(path).parse_problem('anything') is not None
  assert JsonlTask(path).parse_problem('') is None


def test_what_is_proposed_in_words_is_read_as_words(tmp_path):
  path = tmp_path / 'own.jsonl'
  path.write_text(
    '{"question": "What is 1 + 1?", "answer": "2", "type": "x", "seen": 3}'
  )
  task = JsonlTask(str(path))
  (given,) = task.problems('train')
  assert 'problem about x.' in task.proposer_prompt(given)
  asked = 'Ada has 3 apples and buys 4 more. How many has she?'
  assert task.parse_problem(f'Sure!\nProblem: {asked}').text == asked
  assert task.parse_problem('Sure! Here is one.') is None


def test_held_out_are_the_texts_of_other_splits(path):
  task = JsonlTask(path)
  texts = ('1+1', 'nobody knows', 'new', '2+2', '1024+1')
  found = [task.held_out(task.parse_problem(text)) for text in texts]
  assert found == [False, False, False, True, True]


def test_by_default_a_right_answer_pays_1(path):
  task = JsonlTask(path)
  one, _, unknown = task.problems('train')
  answers = ['2', '2.0', '4/2', '3', 'two', None]
  assert task.reward(one, answers) == [1, 1, 1, 0, 0, 0]
  with pytest.raises(ValueError, match="'nobody knows' of sums"):
    task.reward(unknown, answers)
  assert task.reward(task.problems('test')[0], ['1025']) == [1]
  assert task.reward(one, []) == []


def test_a_task_may_pay_otherwise(path):
  def pays(problem, answers):
    return (len(problem.text) / 2 if a else -1.0 for a in answers)

  task = JsonlTask(path, pays=pays)
  assert task.reward(Problem('1+1', task), ['2', None]) == [1.5, -1]


def test_as_many_rewards_as_answers(path):
  task = JsonlTask(path, pays=lambda problem, answers: [1.0])
  said = r"sums\.jsonl gave 1 numbers for 2 answers to '1\+1'"
  with pytest.raises(ValueError, match=said):
    task.reward(Problem('1+1', task), ['2', '3'])


@pytest.mark.parametrize(
  ('line', 'said'),
  [
    ('{"text": "1+1"', ' is not JSON: '),
    ('1+1', ' is not JSON: '),
    ('["1+1", "2"]', ' has no "text"'),
    ('7', ' has no "text"'),
    ('null', ' has no "text"'),
    ('{"answer": "2"}', ' has no "text"'),
    ('{"text": ""}', ' has no "text"'),
    ('{"text": 7}', ' has no "text"'),
    (
      '{"text": "1+1", "answer": "2", "split": "valid"}',
      ": split 'valid' is none of train, dev, test, ood",
    ),
    (
      '{"text": "1+1", "answer": "2", "split": null}',
      ': split None is none of train, dev, test, ood',
    ),
    ('{"text": "1+1", "split": "dev"}', ' is held out and has no "answer"'),
    (
      '{"text": "1+1", "split": "ood", "answer": null}',
      ' is held out and has no "answer"',
    ),
  ],
)
def test_a_bad_line_is_named(tmp_path, line, said):
  path = tmp_path / 'bad.jsonl'
  path.write_text(f'{{"text": "0+0"}}\n\n{line}\n{{"text": "9+9"}}\n')
  with pytest.raises(ValueError) as error:
    JsonlTask(str(path))
  assert str(error.value).startswith(f'{path}, line 3{said}')
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('text', ['', '\n', ' \n\n'])
def test_a_file_without_problems_is_said_so(tmp_path, text):
  path = tmp_path / 'empty.jsonl'
  path.write_text(text)
  with pytest.raises(ValueError, match=r'empty\.jsonl has no problems$'):
    load_task(str(path))


def test_a_missing_file_is_said_so(tmp_path):
  path = str(tmp_path / 'none.jsonl')
  with pytest.raises(ValueError, match=f'no file of problems {path!r}$'):
    load_task(path)


def test_a_file_that_is_no_text_is_named(tmp_path):
  path = tmp_path / 'bytes.jsonl'
  path.write_bytes(b'{"text": "1+1"}\n{"text": "\xff\xfe"}\n')
  with pytest.raises(ValueError, match=re.escape(str(path))):
    load_task(str(path))


def test_only_a_newline_ends_a_line(tmp_path):
  path = tmp_path / 'lines.jsonl'
  text = 'first\u2028second\x85third'  # JSON allows these as they are
  path.write_text(json.dumps({'text': text}, ensure_ascii=False), 'utf-8')
  (problem,) = load_task(str(path)).problems('train')
  assert problem.text == text


def test_no_topic_is_an_empty_one(tmp_path):
  path = write(tmp_path / 'topics.jsonl', [{'text': '1+1', 'topic': None}])
  assert load_task(path).problems('train')[0].topic == ''


def test_small_pays_1_for_a_right_answer():
  task = SmallTask()
  problem = task.parse_problem('47+85')
  assert problem.answer == '132'
  answers = ['132', '0132', '131', None, '', 'x']
  assert task.reward(problem, answers) == [1, 1, 0, 0, 0, 0]
  with pytest.raises(ValueError, match='has no known answer to pay by'):
    task.reward(Problem('47+85', task), ['132'])


COMPLETE = """
from __future__ import annotations

import dataclasses

from jaxdistill.data.tasks import SmallTask


@dataclasses.dataclass(frozen=True)
class Mine(SmallTask):
  name: str = 'mine'

  def solver_prompt(self, problem):
    return f'what is {problem.text}?'


task = Mine()
"""
HALF = """
class Half:
  name = 'half'

  def problems(self, split):
    return []

  def solver_prompt(self, problem):
    return problem.text


task = Half()
"""


@pytest.fixture
def python(tmp_path):
  def write_python(text):
    path = tmp_path / 'mine.py'
    path.write_text(text)
    return str(path)

  return write_python


def test_a_task_of_a_python_file(python):
  task = load_task(python(COMPLETE))
  assert task.name == 'mine'
  assert task.solver_prompt(Problem('1+1', task)) == 'what is 1+1?'


def test_names_and_files_are_told_apart(path):
  assert load_task('small') == SmallTask()
  assert load_task('small:corpus') == SmallTask(corpus='corpus')
  assert load_task(path) == JsonlTask(path)


def test_every_task_is_one(path, python):
  for name in ('small', 'small:corpus', path, python(COMPLETE)):
    assert isinstance(load_task(name), Task), name
  assert not isinstance(object(), Task)


def test_what_a_task_lacks_is_named(python):
  lacks = (
    'asks, ends, questions, proposer_prompt, hinted_prompt, critique, '
    'without_thinking, wordings, worded, asking, parse_problem, held_out, '
    'parse_answer, '
    'reward, evaluator'
  )
  path = python(HALF)
  with pytest.raises(ValueError, match=f'must define `task`.* {lacks}$') as e:
    load_task(path)
  assert str(e.value).startswith(path)


def test_a_file_without_a_task_is_said_so(python):
  path = python('tasks = []')
  with pytest.raises(ValueError, match='must define `task`') as error:
    load_task(path)
  assert str(error.value).startswith(path)


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ('1 / 0', 'ZeroDivisionError: division by zero'),
    ('import no_such_module_', "ModuleNotFoundError: .*'no_such_module_'"),
    ('task = (', 'SyntaxError: '),
    ('task = nothing', "NameError: .*'nothing'"),
    ('int("x")', '.*invalid literal for int'),
  ],
)
def test_a_file_that_does_not_run_is_said_so(python, text, said):
  path = python(text)
  with pytest.raises(ValueError, match=f'{re.escape(path)}: {said}') as error:
    load_task(path)
  assert '\n' not in str(error.value)


def test_a_missing_python_file_is_said_so(tmp_path):
  path = str(tmp_path / 'none.py')
  with pytest.raises(ValueError, match=f'there is no file {path!r}$'):
    load_task(path)


@pytest.mark.parametrize(
  ('name', 'nearest'),
  [
    *(('smal', 'small'), ('Small', 'small'), ('corpus', 'small:corpus')),
    *(('small:corpse', 'small:corpus'), ('smalls', 'small')),
  ],
)
def test_the_nearest_is_named(name, nearest):
  with pytest.raises(ValueError, match=f'{name!r}; the nearest is {nearest!r}'):
    load_task(name)


def test_an_empty_name_is_refused():
  with pytest.raises(ValueError, match="no task ''"):
    load_task('')


def jsonl(tmp_path, *records, **fields):
  path = tmp_path / 'more.jsonl'
  path.write_text(''.join(json.dumps(r) + '\n' for r in records))
  return JsonlTask(str(path), **fields)


def test_a_proposal_that_is_in_the_file_is_known_for_what_it_is(tmp_path):
  task = jsonl(
    tmp_path,
    {'text': '1 + 2', 'answer': 3, 'topic': 'add'},
    {'text': '47+85', 'answer': 132, 'split': 'test'},
  )
  found = task.parse_problem('1+2')
  assert (found.text, found.answer, found.topic) == ('1+2', '3', 'add')
  assert not task.held_out(found)
  assert task.held_out(task.parse_problem('47 + 85 '))
  other = task.parse_problem('5+5')
  assert other.answer is None and not task.held_out(other)
  with pytest.raises(ValueError, match=r"'5\+5' .* has no known answer"):
    task.reward(other, ['10'])


def test_responses_are_demonstrations(tmp_path):
  task = jsonl(
    tmp_path, {'text': '1+2', 'response': '3'}, {'text': '2+2'}, solve='{text}='
  )
  first, second = task.problems('train')
  assert first.demonstration == ('1+2=', '3') and second.demonstration is None


@pytest.mark.parametrize(
  ('fields', 'said'),
  [
    ({'answer': r'\d+'}, 'needs a group around the answer'),
    ({'answer': '('}, 'answer of .*more.jsonl: '),
    ({'problem': '['}, 'problem of .*more.jsonl: '),
  ],
)
def test_patterns_are_checked(tmp_path, fields, said):
  with pytest.raises(ValueError, match=said):
    jsonl(tmp_path, {'text': '1+2'}, **fields)


def test_a_misspelt_key_of_a_line_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r"line 1: .* 'anwser'; .* 'answer'$"):
    jsonl(tmp_path, {'text': '1+2', 'anwser': 3})

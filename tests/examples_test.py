"""Solved problems in a prompt."""

import json

import pytest

from jaxdistill.data.tasks import load_task

NAME = 'examples:2:arithmetic:add:2,2'


def test_a_prompt_shows_solved_problems_of_the_train_split():
  task, inner = load_task(NAME), load_task('arithmetic:add:2,2')
  problem = task.problems('test')[0]
  lines = task.solver_prompt(problem).split('\n')
  assert lines[-1] == 'A:' and len(lines) == 6
  shown = [inner.problems('train')[i] for i in range(2)]
  for i, p in enumerate(shown):
    assert lines[2 * i] == f'Q: {inner.solver_prompt(p)}'
    assert lines[2 * i + 1] == f'A: {p.answer}'
  assert lines[4] == f'Q: {inner.solver_prompt(problem)}'
  written = task.proposer_prompt(problem).split('\n')
  assert written[1] == f'A: {shown[0].text}'


def test_its_problems_are_the_others_and_ask_as_it_does():
  task, inner = load_task(NAME), load_task('arithmetic:add:2,2')
  train = task.problems('train')
  assert train[0].text == inner.problems('train')[2].text
  assert len(train) == len(inner.problems('train')) - 2
  for split in ('train', 'dev', 'test', 'ood'):
    assert task.problems(split)[1].task is task
  assert task.problems('test')[3].text == inner.problems('test')[3].text
  with pytest.raises(IndexError):
    train[len(train)]
  assert task.name == NAME and load_task(NAME) == task


def test_answers_and_proposals_are_read_as_the_task_reads_them():
  task = load_task(NAME)
  assert task.parse_answer(' 57\n') == '57'
  found = task.parse_problem(' 12 + 30')
  assert found.task is task and found.answer == '42'
  assert task.reward(found, ['42', '41', None]) == [1, 0, 0]
  held = task.problems('test')[0]
  assert task.held_out(held) and not task.held_out(task.problems('train')[0])


def test_it_is_shown_how_to_judge_by_the_answers_of_others():
  task = load_task(NAME)
  one, two = (
    load_task('arithmetic:add:2,2').problems('train')[i] for i in (0, 1)
  )
  problem = task.problems('test')[0]
  *lines, asked, said, end = task.asking('verify', problem, ' 57 ').split('\n')
  assert asked.startswith('Q: ') and problem.text in asked
  assert (said, end) == ('A: 57', 'Right:')
  yes, no = task.worded('verify').choices
  assert lines[1::3] == [
    *(f'A: {p.answer}' for p in (one, two, one, two)),
  ]
  assert lines[2::3] == [f'Right:{x}' for x in (yes, no, no, yes)]
  assert [one.text in x for x in lines[::3]] == [True, True, False, False]
  *lines, end = task.asking('compare', problem, '57', '58').split('\n')
  assert lines[-2:] == ['A 1: 57', 'A 2: 58'] and end == 'Better:'
  assert lines[1:4] == [
    *(f'A 1: {one.answer}', f'A 2: {two.answer}', 'Better: 1'),
  ]
  assert lines[7] == 'Better: 2' and lines[11] == 'Better: 2'
  assert lines[15] == 'Better: 1'


def test_without_a_wrong_answer_it_judges_nothing(tmp_path):
  file = tmp_path / 'alike.jsonl'
  lines = [{'text': text, 'answer': 2} for text in ('1+1', '2+0', '3-1')]
  file.write_text(''.join(json.dumps(x) + '\n' for x in lines))
  with pytest.raises(ValueError, match='has the same answer'):
    load_task(f'examples:2:{file}').worded('verify')
  with pytest.raises(ValueError, match=r"no words for 'verify'.*nothing"):
    load_task(f'examples:1:{file}').worded('verify')
  with pytest.raises(ValueError, match=r"'score'; it has.*verify, compare"):
    load_task(NAME).worded('score')


@pytest.mark.parametrize('name', ['examples', 'examples:0:small', 'examples:2'])
def test_what_is_no_such_name_is_refused(name):
  with pytest.raises(ValueError, match='examples'):
    load_task(name)


def test_what_cannot_be_shown_is_refused(tmp_path):
  file = tmp_path / 'few.jsonl'
  lines = [{'text': '1+1', 'answer': 2}, {'text': 'why?'}, {'text': 'how?'}]
  file.write_text(''.join(json.dumps(x) + '\n' for x in lines))
  problem = load_task(str(file)).problems('train')[0]
  with pytest.raises(ValueError, match='only 3 problems'):
    load_task(f'examples:3:{file}').solver_prompt(problem)
  with pytest.raises(ValueError, match='has no known answer to show'):
    load_task(f'examples:2:{file}').solver_prompt(problem)
  assert '\nA: 2\n' in load_task(f'examples:1:{file}').solver_prompt(problem)

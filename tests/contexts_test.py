"""What a teacher is told, rung by rung, in the words of several tasks."""

import dataclasses
import json

import pytest
from scripted import CUT, KEY, Teacher, said

from jaxdistill.data.small import world
from jaxdistill.data.tasks import JsonlTask, load_task
from jaxdistill.data.tasks.arithmetic import ArithmeticTask
from jaxdistill.data.tasks.small import SmallTask
from jaxdistill.methods.self_distill import SelfDistill
from jaxdistill.rollout import contexts
from jaxdistill.types import Hint, Problem, Prompt

SMALL = SmallTask()
WORDS = ArithmeticTask('add', (2, 2))
RIGHT = '7+5+0=12,4+8+1=13;132'
DOUBT = '7+5+0=02 wait 7+5+0=12,4+8+1=13;132'
WRONG = '7+5+0=12,4+8+1=03;32'
SHOWN = '7+5+0=12,4+8+1=13;132'
SUM = Problem('47+85', SMALL, '132', 'add', ('solve 47+85:', SHOWN), address=3)
OTHER = Problem('9-4', SMALL, '5', 'sub', ('solve 9-4:', '9-4-0=05;5'), 5)


def cases(texts, judge='known', solution='sibling', problems=(SUM,)):
  rollouts_PG = [
    [said(Prompt.solve(p), text) for text in texts_G]
    for p, texts_G in zip(problems, texts, strict=True)
  ]
  return contexts.cases(problems, rollouts_PG, judge, solution)


def prompts(rung, cases_PG, script=None):
  writer = Teacher(script or {})
  found, tokens = contexts.prompts(rung, cases_PG, writer, 16, KEY)
  texts = [[p and p.text for p in prompts_G] for prompts_G in found]
  return texts, tokens, writer.scripted


def test_siblings_are_right_and_never_oneself():
  ((a, b, c, d),) = cases([[WRONG, DOUBT, RIGHT, '7+5']])
  assert [x.right for x in (a, b, c, d)] == [False, True, True, False]
  assert [x.solution for x in (a, b, c, d)] == [DOUBT, RIGHT, DOUBT, DOUBT]
  assert a.wrongs == ('7+5',) and b.wrongs == (WRONG, '7+5')
  assert [x.address for x in (a, b, c, d)] == [12, 13, 14, 15]
  assert {x.answer for x in (a, b, c, d)} == {'132'}


def test_the_only_right_one_has_nothing_to_read():
  ((a, b),) = cases([[WRONG, RIGHT]])
  assert (a.solution, b.solution) == (RIGHT, None)
  ((a, b),) = cases([[WRONG, RIGHT]], solution='reference')
  assert (a.solution, b.solution) == (SHOWN, SHOWN)


def test_an_empty_response_is_shown_to_nobody():
  ((a, b, c),) = cases([['', RIGHT, WRONG]])
  assert b.wrongs == (WRONG,) and c.wrongs == ()
  assert contexts.hinted('full', a, '') is None


def test_a_cut_response_is_not_right():
  ((a, b),) = cases([[RIGHT + CUT, RIGHT]])
  assert (a.right, b.right) == (False, True) and b.solution is None


def test_a_vote_takes_the_majority_for_right():
  ((a, b, c),) = cases([[WRONG, WRONG + ' ', RIGHT]], 'vote')
  assert [x.right for x in (a, b, c)] == [None] * 3  # one each: nobody knows
  ((a, b, c),) = cases([[WRONG, WRONG, RIGHT]], 'vote')
  assert [x.right for x in (a, b, c)] == [True, True, False]
  assert c.answer == '32' and c.solution == WRONG and a.wrongs == (RIGHT,)
  assert prompts('answer', [[c]])[0] == [['hint 32 solve 47+85:']]
  # What the task knows of a response is no label-free judge's to say.
  asked = contexts.CRITIQUE.format(
    asked='solve 47+85:', solution=WRONG, attempt=RIGHT
  )
  told, _, _ = prompts('critique', [[c]], {asked: ['7']})
  assert told == [['hint 7 solve 47+85:']]
  ((a, b),) = cases([['7', '7+5']], 'vote')
  assert prompts('verdict', [[a]])[0] == [[None]]


@pytest.mark.parametrize(
  ('rung', 'told'),
  [
    ('none', ['solve 47+85:'] * 2),
    ('answer', ['hint 132 solve 47+85:'] * 2),
    ('verdict', ['hint no solve 47+85:', 'hint yes solve 47+85:']),
    (
      'critique',
      [
        'hint 7+5+0=12,4+8+1=13 solve 47+85:',
        'hint 7+5+0=02 wait 7+5+0=12,4+8+1=13 solve 47+85:',
      ],
    ),
    ('conclusion', [f'hint {RIGHT} solve 47+85:', None]),
    ('full', [f'hint {DOUBT} solve 47+85:', None]),
    ('other', ['hint 9-4-0=05;5 solve 47+85:'] * 2),
    ('wrong', [None, f'hint {WRONG} solve 47+85:']),
  ],
)
def test_every_rung_of_the_small_world(rung, told):
  texts = [[WRONG, DOUBT], ['9-4-0=05;5', '9-4-0=05;5']]
  found, tokens, writer = prompts(rung, cases(texts, problems=(SUM, OTHER)))
  assert found[0] == told
  assert tokens == 0
  assert [x for x, _ in writer.asked] == [[]] * (rung == 'critique')


def test_another_problem_is_the_next_one_whichever_host_has_it(monkeypatch):
  texts = [[WRONG, DOUBT], ['9-4-0=05;5', '9-4-0=05;5']]
  together = contexts.with_others(cases(texts, problems=(SUM, OTHER)))
  assert together[1][0].other == DOUBT
  said = []

  def gathered(mine):
    said.extend(mine)
    return said

  monkeypatch.setattr(contexts, 'gather_texts', gathered)
  contexts.with_others(cases(texts[1:], problems=(OTHER,)))  # another host
  (alone_G,) = contexts.with_others(cases(texts[:1], problems=(SUM,)))
  others = [c.other for c in together[0]]
  assert [c.other for c in alone_G] == others == ['9-4-0=05;5'] * 2


def test_the_rungs_are_all_there():
  assert set(contexts.NAMES) == {
    *('none', 'answer', 'verdict', 'critique', 'conclusion'),
    *('regenerated', 'full', 'other', 'wrong'),
  }


def test_regenerated_is_what_the_teacher_says_after_the_full_solution():
  asked = f'hint {DOUBT} solve 47+85:'
  other = f'hint {RIGHT} solve 47+85:'
  script = {asked: [WRONG], other: [RIGHT + CUT]}
  texts = [[WRONG, DOUBT, RIGHT, WRONG]]
  found, tokens, writer = prompts('regenerated', cases(texts), script)
  ((different, sampling),) = writer.asked
  assert [p.text for p in different] == [asked, other]  # each once
  assert sampling.samples == 1 and sampling.max_tokens == 16
  told = f'hint {WRONG} solve 47+85:'
  assert found == [[told, None, told, told]]  # what was cut is not shown
  assert tokens == len(WRONG) + len(RIGHT + CUT)


def test_a_critique_is_written_where_the_task_has_none():
  problem = Problem('47 + 85', WORDS, '132', address=1)
  rollouts = [said(Prompt.solve(problem), x) for x in ('131', '132')]
  found = contexts.cases([problem], [rollouts], 'known', 'sibling')
  asked = contexts.CRITIQUE.format(
    asked=WORDS.solver_prompt(problem), solution='132', attempt='131'
  )
  told, tokens, writer = prompts('critique', found, {asked: ['132, not 131']})
  assert [p.text for p in writer.asked[0][0]] == [asked]
  lead = 'A correction of your earlier answer:\n132, not 131'
  question = 'What is 47 + 85? Answer with the number only.'
  assert told == [[f'{question}\n\n{lead}\n\n{question}', None]]
  assert tokens == len('132, not 131')


def test_examples_stay_in_front_of_what_is_told():
  task = load_task('examples:2:arithmetic:add:2,2')
  problem = dataclasses.replace(task.problems('test')[0], task=task)
  told = task.hinted_prompt(problem, Hint('The correct answer:', '77'))
  assert told.startswith('Q: What is') and told.endswith('\nA:')
  assert told.count('The correct answer:\n77') == 1
  assert told.count('A: ') == 2


@pytest.mark.parametrize(
  ('working', 'mended', 'kept'),
  [
    (RIGHT, '7+5+0=12,4+8+1=13', RIGHT),
    (WRONG, '7+5+0=12,4+8+1=13', WRONG),
    ('7+5+0=02,4+8+0=12;122', '7+5+0=12', '7+5+0=02,4+8+0=12;122'),
    (DOUBT, '7+5+0=02 wait 7+5+0=12,4+8+1=13', RIGHT),
    ('7+5+0=12', '7+5+0=12,4+8+1=13', '7+5+0=12'),
    (f'{RIGHT[:-4]},0+0+1=01;132', RIGHT[:-4], f'{RIGHT[:-4]},0+0+1=01;132'),
    ('', '7+5+0=12', ''),
  ],
)
def test_workings_are_mended_and_cleaned(working, mended, kept):
  assert world.mended(world.Sum('add', 47, 85), working) == mended
  assert world.without_slips(working) == kept


def test_thinking_is_left_out_of_a_text():
  said = 'Hmm.</think>\nSo 3.</think>\n\nIt is 4. '
  assert WORDS.without_thinking(said) == 'It is 4.'
  assert WORDS.without_thinking('It is 4.') == 'It is 4.'


def test_what_a_context_needs_is_asked_of_the_task(tmp_path):
  sums = load_task('arithmetic:add:2,2')  # answers, no solutions
  SelfDistill(context='answer', solution='reference').check(sums)
  SelfDistill(context='wrong', solution='reference').check(sums)
  for rung in contexts.OF_SOLUTIONS:
    with pytest.raises(ValueError, match="solution is 'reference'; task arith"):
      SelfDistill(context=rung, solution='reference').check(sums)
  path = tmp_path / 'asked.jsonl'
  path.write_text(json.dumps({'text': 'Name a colour.'}))
  paid = JsonlTask(
    str(path), pays=lambda problem, answers: [1.0] * len(answers)
  )
  SelfDistill(context='full').check(paid)
  with pytest.raises(ValueError, match='pays for answers and knows none'):
    SelfDistill(context='answer').check(paid)

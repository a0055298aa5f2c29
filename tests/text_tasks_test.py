"""Tasks in words: arithmetic, equations, word problems."""

import json
import os
import re
import subprocess
import sys
from fractions import Fraction

import pytest

from jaxdistill.data.tasks import load_task
from jaxdistill.data.tasks.problems import draw_different, split_of
from jaxdistill.types import Problem, Task

MADE = (
  *('arithmetic:add:3,3', 'arithmetic:sub:2,4', 'arithmetic:mul:3,3:think'),
  *('arithmetic:div:5,2', 'equations:1', 'equations:2', 'words'),
)
OPERATIONS = {'add': '+', 'sub': '-', 'mul': '*', 'div': '/'}


DIGITS = tuple(
  f'arithmetic:{operation}:{digits}'
  for operation in OPERATIONS
  for digits in ('3,3', '4,2')
)
DRAW = """
import json, sys
from jaxdistill.data.tasks import load_task

out = {}
for name in sys.argv[1:]:
  task, found = load_task(name), {}
  for split in ('test', 'dev', 'ood'):
    found[split] = [(p.text, p.answer, p.topic) for p in task.problems(split)]
  train = task.problems('train')
  some = [train[i] for i in range(500)]
  found['train'] = [(p.text, p.answer, p.topic) for p in some]
  out[name] = found
print(json.dumps(out))
"""


@pytest.fixture(scope='module')
def drawn():
  """Problems as another process draws them, where calls are not checked.

  Returns:
    name -> split -> (text, answer, topic) of all, and of 500 to train on.
  """
  done = subprocess.run(
    [sys.executable, '-c', DRAW, *MADE, *DIGITS],
    capture_output=True,
    text=True,
    check=True,
    env=os.environ | {'PYTHONHASHSEED': '7'},
  )
  return json.loads(done.stdout)


def texts(task, split, count=None):
  problems = task.problems(split)
  return [problems[i].text for i in range(count or len(problems))]


@pytest.mark.parametrize('name', [*MADE, 'gym:chain_sum'])
def test_every_task_is_one(name):
  task = load_task(name)
  assert isinstance(task, Task)
  assert task.name == name
  assert task == load_task(name)
  problem = task.problems('train')[0]
  assert problem.task == task
  assert problem.text in task.solver_prompt(problem)
  assert task.reward(problem, [problem.answer, None, '?']) == [1, 0, 0]


@pytest.mark.parametrize('name', MADE)
def test_held_out_problems_are_different_and_never_trained_on(name, drawn):
  task, found = load_task(name), drawn[name]
  every = [p[0] for s in ('dev', 'test', 'ood') for p in found[s]]
  assert len(every) == len(set(every)) > 1500
  assert not set(every) & {p[0] for p in found['train']}
  for split in ('dev', 'test', 'ood'):
    some = [Problem(p[0], task) for p in found[split][::16]]
    assert all(map(task.held_out, some))
  some = [Problem(p[0], task) for p in found['train'][::5]]
  assert not any(map(task.held_out, some))


@pytest.mark.parametrize('name', MADE)
def test_problems_depend_on_nothing_but_the_name(name, drawn):
  task = load_task(name)
  train = task.problems('train')
  assert len(train) == 2**20
  for i in (7, 0, 499):  # in any order
    text, answer, topic = drawn[name]['train'][i]
    assert train[i] == Problem(text, task, answer, topic)
  assert train[2**20 - 1] == train[2**20 - 1] != train[0]


@pytest.mark.parametrize('name', MADE)
def test_as_many_are_held_out_as_published(name, drawn):
  assert len(drawn[name]['test']) == (4096 if 'arith' in name else 1024)


def test_known_problems(drawn):
  """Pinned: a change of these is a change of every result."""
  first = {name: drawn[name]['test'][0][0] for name in MADE}
  assert first == {
    'arithmetic:add:3,3': '588 + 793',
    'arithmetic:sub:2,4': '27 - 2758',
    'arithmetic:mul:3,3:think': '248 * 816',
    'arithmetic:div:5,2': '16675 / 29',
    'equations:1': 'Solve for x: x + 6 = -51',
    'equations:2': 'Solve for y: 6x + 7y = -20, -5x - 7y = 5',
    'words': 'Priya and Chloe put their cards together, 42 and 18, and share '
    'them equally among 5 children. How many cards does each child get?',
  }
  # echo -n '347 + 582' | sha256sum, the first 8 bytes modulo 20: 1
  assert split_of('347 + 582') == 'test'


@pytest.mark.parametrize('name', DIGITS)
def test_arithmetic_has_so_many_digits_and_exact_answers(name, drawn):
  _, operation, digits = name.split(':')
  digits = [int(n) for n in digits.split(',')]
  for split, more in (('train', 0), ('dev', 0), ('ood', 1)):
    for text, answer, _ in drawn[name][split]:
      a, sign, b = text.split(' ')
      assert [len(a), len(b)] == [n + more for n in digits]
      assert a[0] != '0' and b[0] != '0' and sign == OPERATIONS[operation]
      a, b, answer = int(a), int(b), Fraction(answer)
      expected = {'+': a + b, '-': a - b, '*': a * b, '/': Fraction(a, b)}[sign]
      assert answer == expected and answer.denominator == 1


def test_operands_are_uniform():
  train = load_task('arithmetic:add:1,3').problems('train')
  pairs = [train[i].text.split(' + ') for i in range(1000)]
  for digit in '123456789':  # each 1/9; five standard deviations are .05
    for operand in (0, 1):
      share = sum(p[operand][0] == digit for p in pairs) / 1000
      assert share == pytest.approx(1 / 9, abs=0.05)
  assert {p[0] for p in pairs} == set('123456789')


def test_how_arithmetic_is_asked():
  task = load_task('arithmetic:add:3,3')
  problem = task.parse_problem('347+582')
  assert problem == Problem('347 + 582', task, '929', '347 + 582')
  said = 'What is 347 + 582? Answer with the number only.'
  assert task.solver_prompt(problem) == said
  think = load_task('arithmetic:add:3,3:think')
  assert re.fullmatch(
    r'What is 347 \+ 582\? .*step by step.* \\boxed\{\}\.',
    think.solver_prompt(problem),
  )
  for split in ('dev', 'train'):  # asked differently, drawn alike
    assert texts(think, split, 9) == texts(task, split, 9)
  asked = task.proposer_prompt(problem)
  assert 'two random three-digit numbers with a plus sign' in asked
  assert re.findall(r'\d+', asked) == ['347', '582'] and '929' not in asked
  assert task.parse_answer('It is **929**.') == '929'
  mixed = load_task('arithmetic:div:8,1')
  asked = mixed.proposer_prompt(mixed.problems('train')[0])
  assert 'two random one-digit and eight-digit numbers' in asked


@pytest.mark.parametrize(
  ('operation', 'text', 'read'),
  [
    *(('add', '12 + 345', '12 + 345'), ('add', '12+345', '12 + 345')),
    *(('add', 'What is 12 + 345?', '12 + 345'), ('add', '3+4 =', '3 + 4')),
    *(('add', '**3 + 4**', '3 + 4'), ('add', 'x = 3 + 4 = ?', '3 + 4')),
    *(('add', '```\n3 + 4\n```', '3 + 4'), ('add', '$3 + 4$', '3 + 4')),
    *(('add', 'A three-digit sum: 100 + 200.', '100 + 200'),),
    *(('add', '0 + 0', '0 + 0'), ('add', '(3 + 4)', '3 + 4')),
    *(('sub', '7 − 12', '7 - 12'), ('sub', '7–12', '7 - 12')),
    *(('sub', '7-12', '7 - 12'), ('sub', r'\(7 - 12\)', '7 - 12')),
    *(('mul', '7 × 8', '7 * 8'), ('mul', '7x8', '7 * 8')),
    *(('mul', '7 X 8', '7 * 8'), ('mul', r'$7 \times 8$', '7 * 8')),
    *(('mul', r'7 \cdot 8', '7 * 8'), ('mul', '7*8', '7 * 8')),
    *(('div', '84 ÷ 7', '84 / 7'), ('div', '84/7', '84 / 7')),
    *(('div', r'84 \div 7', '84 / 7'), ('div', '0 / 7', '0 / 7')),
  ],
)
def test_proposed_arithmetic_is_read(operation, text, read):
  task = load_task(f'arithmetic:{operation}:3,3')
  assert task.parse_problem(text).text == read
  # What is read has the same split, however it was written.
  assert task.parse_problem(read) == task.parse_problem(text)


@pytest.mark.parametrize(
  ('operation', 'text'),
  [
    *(('add', ''), ('add', '12'), ('add', '12 +'), ('add', '+ 12')),
    *(('add', '12 - 3'), ('add', '12 * 3'), ('add', '1 + 2 + 3')),
    *(('add', '1 + 2 = 3'), ('add', '1. 3 + 4'), ('add', '3 + 4, 5')),
    *(('add', '3 + 4 - y'), ('add', '-3 + 4'), ('add', '3 + -4')),
    *(('add', '- 3 + 4'), ('add', '3.5 + 4'), ('add', '3 + 4.5')),
    *(('add', '1000 + 4'), ('add', '4 + 1,000'), ('add', '03 + 4')),
    *(('add', '3x + 4'), ('add', '3 + 4x'), ('add', 'x3 + 4')),
    *(('add', '3 + 4²'), ('add', '² 3² + 4'), ('add', '3 + 4%')),
    *(('add', '3 + 4^y'), ('add', '3 + 4!'), ('add', '٣ + ٤')),
    *(('add', '3 plus 4'), ('add', 'a' * 300 + '3 + 4'), ('add', '√3 + 4')),
    *(('mul', '3 ** 4'), ('mul', '2(3 * 4)'), ('mul', '3 x y x 4')),
    *(('sub', '3 to 4'), ('sub', '3--4'), ('add', '3 x 4')),
    *(('div', '85 / 7'), ('div', '7 / 0'), ('div', '0 / 0')),
    *(('div', '3/4/2024'),),
  ],
)
def test_proposed_arithmetic_is_refused(operation, text):
  assert load_task(f'arithmetic:{operation}:3,3').parse_problem(text) is None


def test_thousands_and_the_digits_that_a_task_has():
  task = load_task('arithmetic:add:4,2')
  assert task.parse_problem('1,024 + 7').text == '1024 + 7'
  assert task.parse_problem('1{,}024 + 7').answer == '1031'
  for text in ('7 + 100', '10,240 + 7', '1,02 + 7', '1,0240 + 7'):
    assert task.parse_problem(text) is None, text


def test_a_small_world_has_as_many_as_there_are():
  task = load_task('arithmetic:add:1,1')
  found = {s: set(texts(task, s)) for s in ('dev', 'test')}
  every = {f'{a} + {b}' for a in range(1, 10) for b in range(1, 10)}
  assert found['dev'] == {t for t in every if split_of(t) == 'dev'}
  assert found['test'] == {t for t in every if split_of(t) == 'test'}
  train = set(texts(task, 'train', 2000))
  assert train == {t for t in every if split_of(t) == 'train'}
  with pytest.raises(ValueError, match=r"tiny has too few .* split 'dev'$"):
    draw_different('tiny', 'dev', lambda rng: 7, lambda drawn: False, 3)


def test_a_quotient_is_no_1():
  task = load_task('arithmetic:div:2,2')
  train = task.problems('train')
  answers = {int(train[i].answer) for i in range(300)}
  assert answers == set(range(2, 10))
  assert task.parse_problem('12 / 12').answer == '1'  # but may be proposed


def solved(text):
  """What a text of the task's own form asks for, by sympy-free arithmetic.

  Cramer's rule on coefficients that a regular expression reads.
  """
  asked, body = re.fullmatch(r'Solve for ([xy]): (.*)', text).groups()
  rows = []
  for equation in body.split(', '):
    row = {'x': 0, 'y': 0, '': 0}
    for side, factor in zip(equation.split(' = '), (1, -1), strict=True):
      joined = side.replace(' ', '')
      for sign, size, name in re.findall(r'([-+]?)(\d*)([xy]?)', joined):
        if size or name:
          row[name] += factor * int(sign + (size or '1'))
    rows.append(row)
  if len(rows) == 1:
    return Fraction(-rows[0][''], rows[0][asked])
  p, q = rows
  other = 'y' if asked == 'x' else 'x'
  both = p[asked] * q[other] - q[asked] * p[other]
  return Fraction(q[''] * p[other] - p[''] * q[other], both)


@pytest.mark.parametrize('unknowns', [1, 2])
def test_equations_have_exact_answers(unknowns, drawn):
  task, fractions = load_task(f'equations:{unknowns}'), 0
  for split in ('train', 'test', 'ood'):
    for text, answer, topic in drawn[task.name][split][:100]:
      assert Fraction(answer) == solved(text)
      assert task.parse_problem(text) == Problem(text, task, answer, topic)
      fractions += '/' in answer
      sizes = [int(x) for x in re.findall(r'(\d+)[xy]', text)]
      if split == 'ood':
        assert min(sizes) >= (13, 10)[unknowns - 1]
      elif sizes:
        assert max(sizes) <= (12, 9)[unknowns - 1]
  assert 30 < fractions < 90  # a fourth, less those that are whole
  asked = {p[0][len('Solve for ')] for p in drawn[task.name]['dev']}
  assert asked == set('xy'[:unknowns])


@pytest.mark.parametrize(
  ('unknowns', 'text', 'read', 'answer'),
  [
    (1, 'Solve for x: 3x + 5 = 20', 'Solve for x: 3x + 5 = 20', '5'),
    (1, '3x+5=20', 'Solve for x: 3x + 5 = 20', '5'),
    (1, '**Problem:** Solve for x: $3x = 7$.', 'Solve for x: 3x = 7', '7/3'),
    (
      1,
      'Solve the equation 2x - 1 = 4 for x.',
      'Solve for x: 2x - 1 = 4',
      '5/2',
    ),
    (1, 'Find x: 2*x = 4', 'Solve for x: 2 * x = 4', '2'),
    (1, 'Find the value of x if 2x = 4', 'Solve for x: 2x = 4', '2'),
    (1, '2(x+1) = 3(x − 2)', 'Solve for x: 2(x + 1) = 3(x - 2)', '8'),
    (1, '-(x - 1)(2) = 4', 'Solve for x: -(x - 1)(2) = 4', '-1'),
    (1, 'Solve for y: 4y = y', 'Solve for y: 4y = y', '0'),
    (
      1,
      'Solve for x:\n\\[-3x \\cdot 2 = 12\\]',
      'Solve for x: -3x * 2 = 12',
      '-2',
    ),
    (
      *(2, 'Solve for y: x + 2y = 7, 3x - y = 0'),
      *('Solve for y: x + 2y = 7, 3x - y = 0', '3'),
    ),
    (
      *(2, 'Solve the system of equations: x+y = 3; x-y = 1. Find y.'),
      *('Solve for y: x + y = 3, x - y = 1', '1'),
    ),
    (
      *(2, 'Solve for x:\nx + y = 3\nx - y = 1'),
      *('Solve for x: x + y = 3, x - y = 1', '2'),
    ),
    (
      *(2, 'Solve for x: x + y = 3 and y = 1'),
      *('Solve for x: x + y = 3, y = 1', '2'),
    ),
  ],
)
def test_proposed_equations_are_read(unknowns, text, read, answer):
  found = load_task(f'equations:{unknowns}').parse_problem(text)
  assert (found.text, found.answer) == (read, answer)


@pytest.mark.parametrize(
  ('unknowns', 'text'),
  [
    *((1, ''), (1, 'x'), (1, '3x + 5'), (1, 'x ='), (1, '= x'), (1, '=')),
    *((1, 'x = x'), (1, '0x = 3'), (1, 'x + 1 = x'), (1, '3 = 3')),
    *((1, 'x*x = 4'), (1, 'x^2 = 4'), (1, '(x+1)(x+2) = 0'), (1, 'xx = 4')),
    *((1, 'x/2 = 3'), (1, 'x = 3 = 3'), (1, 'x + y = 3'), (1, 'z = 3')),
    *((1, '2 3x = 1'), (1, 'x3 = 6'), (1, '() = x'), (1, '(x = 3')),
    *((1, 'x) = 3'), (1, '--x = 3'), (1, '1.5x = 3'), (1, '3x = 1e3')),
    *((1, 'Solve for y: 2x = 3'), (1, '2x = 4, x = 2'), (1, '9999999x = 1')),
    *((1, '1000000 * 1000000x = 1'), (1, '999999x = 1000000 * 7')),
    *((1, '(' * 20 + 'x' + ')' * 20 + ' = 1'), (1, '1' * 5000 + 'x = 1')),
    *((1, 'Solve for x: 3x = 6. The answer is 2.'), (1, '３x = 6')),
    *((1, '__import__("os")'), (1, 'x = open(1)')),
    *((2, 'x + y = 3, x - y = 1'), (2, 'Solve for x: x + y = 3')),
    *((2, 'Solve for x: x + y = 1, 2x + 2y = 2'),),
    *((2, 'Solve for x: x + y = 1, x + y = 2'),),
    *((2, 'Solve for x: x = 1, y = 2, x = 1'),),
    *((2, 'Solve for x: x * y = 1, y = 2'),),
  ],
)
def test_proposed_equations_are_refused(unknowns, text):
  assert load_task(f'equations:{unknowns}').parse_problem(text) is None


def test_an_equation_is_held_out_however_it_is_written(drawn):
  task = load_task('equations:2')
  problem = drawn['equations:2']['test'][0][0]
  first, second = problem[len('Solve for x: ') :].split(', ')
  for text in (
    f'Solve for x: {first}, {second}',
    f'Solve for y:{second.replace(" ", "")};{first}',
    f'Solve for x: {first.replace("x", " * x")}, {second}',
  ):
    assert task.held_out(task.parse_problem(text)), text


def test_how_equations_are_asked():
  task = load_task('equations')
  assert task.name == 'equations:1'
  task = load_task('equations:2')
  problem = task.parse_problem('Solve for y: x = 1, y = 2')
  asked = task.solver_prompt(problem)
  assert asked.startswith(problem.text) and 'value of y in \\boxed{}' in asked
  assert problem.topic in task.proposer_prompt(problem)
  assert task.reward(problem, ['2', '4/2', '-2']) == [1, 1, 0]


def test_word_problems_by_hand(drawn):
  found = drawn['words']
  topics = {s: {p[2] for p in found[s]} for s in ('train', 'test', 'ood')}
  assert len(topics['train']) == 9 and topics['train'] == topics['test']
  assert len(topics['ood']) == 3 and not topics['ood'] & topics['train']
  by_hand = {
    'things that are given away and bought': lambda a, b, c: a - b + c,
    'boxes that hold the same number of things': lambda a, b, c: a * b + c,
    'sharing equally': lambda a, b, c: Fraction(a + b, c),
    'prices and change': lambda a, b, c: c - a * b,
    'distance, speed and time': lambda a, b, c: a * b + c,
    'the ages of two people': lambda a, b, c: a * b + c,
    'wages': lambda a, b, c: a * b * c,
    'saving towards a goal': lambda a, b, c: Fraction(c - a, b),
    'sums and differences': lambda a, b: Fraction(a - b, 2),
    'the perimeter of a rectangle': lambda a, b, c: 2 * (a + a + b) - c,
    'an unknown starting number': lambda a, b, c: Fraction(c - b, 2) + a,
    'filling and emptying': lambda a, b, c: Fraction(a, b - c),
  }
  for text, answer, topic in (*found['train'], *found['ood']):
    numbers = [int(n) for n in re.findall(r'\d+', text)]
    assert by_hand[topic](*numbers) == int(answer) > 0
    assert text.endswith('?') and '{' not in text


def test_proposed_word_problems():
  task = load_task('words')
  asked = task.proposer_prompt(Problem('', task, topic='ages'))
  assert 'problem about ages.' in asked and '`Problem:`' in asked
  text = 'Ben has 3 red\ncars and  5 blue ones. How many cars are there?'
  same = ' '.join(text.split())
  for said in ('Problem: ', '**Problem:** ', 'Sure!\nproblem:\n'):
    assert task.parse_problem(said + text) == Problem(same, task)
  with pytest.raises(ValueError, match='no known answer'):
    task.reward(task.parse_problem('Problem: ' + text), ['8'])
  for bad in (
    *(text, 'Problem:', 'Problem: 1 + 2?', 'My problem: none'),
    'Problem: ' + text.replace('?', '.'),
    'Problem: ' + text.replace('3', 'three'),
    f'Problem: {text} It is 8.',
    f'Problem: {text} Answer: eight',
    f'Problem: {text} **Solution**: add them.',
    'Problem: ' + 20 * text,
  ):
    assert task.parse_problem(bad) is None, bad


def test_a_held_out_word_problem_is_known(drawn):
  task = load_task('words')
  for split in ('dev', 'test', 'ood'):
    text = drawn['words'][split][3][0]
    assert task.held_out(task.parse_problem(f'Problem: {text.upper()}'))
    other = re.sub(r'\d+', '999', text)
    assert not task.held_out(task.parse_problem(f'Problem: {other}'))


@pytest.mark.parametrize(
  ('name', 'said'),
  [
    ('arithmatic:add:3,3', "the nearest is 'arithmetic'"),
    ('equation', "the nearest is 'equations'"),
    ('word', "the nearest is 'words'"),
    ('arithmetic', 'as in arithmetic:add:3,3'),
    ('arithmetic:ad:3,3', "operation 'ad'; the nearest is 'add'"),
    ('arithmetic:multiply:3,3', "'multiply'; the nearest is 'mul'"),
    ('arithmetic:mul', 'as in arithmetic:mul:3,3'),
    ('arithmetic:mul:3', "'3' must be .* as in arithmetic:mul:3,3"),
    ('arithmetic:mul:3,13', "'3,13' must be the digits of both .* 1 to 12"),
    ('arithmetic:mul:0,3', "'0,3' must be"),
    ('arithmetic:mul:3,3:thnk', 'nearest is arithmetic:mul:3,3:think'),
    ('arithmetic:mul:3,3:think:x', 'nearest is arithmetic:mul:3,3:think'),
    ('arithmetic:div:2,3', 'nearest is arithmetic:div:3,3'),
    ('equations:3', "not '3'; the nearest is equations:1"),
    ('words:2', "no parameters; the nearest is 'words'"),
    ('gym:chain_sums', "the nearest is 'gym:chain_sum'"),
    ('gym:countdown', 'several right answers'),
  ],
)
def test_the_nearest_name_is_said(name, said):
  with pytest.raises(ValueError, match=said) as error:
    load_task(name)
  assert repr(name) in str(error.value) or name in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', MADE)
def test_a_missing_split_is_said_so(name):
  with pytest.raises(ValueError, match="'valid'; it has train, dev, test, ood"):
    load_task(name).problems('valid')

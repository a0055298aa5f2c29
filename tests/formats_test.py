"""The small world's other formats: what is right, and what is held out."""

import collections
import functools
import json
import re

import numpy as np
import pytest
from config_files import ROOT

import jaxdistill as jd
from jaxdistill.cli.main import main
from jaxdistill.data import builders
from jaxdistill.data.small import items, judging, people, wide, world
from jaxdistill.data.tasks import load_task, small
from jaxdistill.data.tasks.small_formats import FORMATS
from jaxdistill.models import store as models
from jaxdistill.types import Message, Problem

NAMES = [f'small:{name}' for name in FORMATS]
# What the corpus calls the documents that a task's prompts look like.
KINDS = {
  'small:compare': ('compare',),
  'small:revise': ('revise',),
  'small:facts': ('ask', 'read'),
  'small:relevance': ('grade',),
}
SUM = r'(?:compare|solve) ([0-9+*-]+):'
FIRST_COMPARED = 'compare 92-27:2-7-0=19,9-2-1=06;69 or 2-7-0=15,9-2-1=06;65?'
FIRST_REVISED = 'solve 69*6:9*6+0=56,6*6+5=41;416<eos>revise:'


@functools.cache
def documents(n=6000):
  out = collections.defaultdict(list)
  for i in range(n):
    found = wide.draw_document(0, i)
    out[found['format']].append((found['prompt'], found['response']))
  return out


def right(working, problem):
  value = eval(problem)  # of digits and a sign, by our own hand
  return world.read_answer(working) == str(value)


def compared(prompt):
  return re.fullmatch(r'compare ([0-9+*-]+):(.+) or (.+)\?', prompt).groups()


def test_the_vocabulary_only_grows():
  assert wide.SYMBOLS[: len(world.SYMBOLS)] == world.SYMBOLS
  assert len({*wide.SYMBOLS}) == len(wide.SYMBOLS) <= 128


def test_shares_of_the_corpus():
  counts = {name: len(found) / 6000 for name, found in documents().items()}
  wanted = {
    **{'solve': 0.3, 'propose': 0.08, 'verify': 0.06, 'hint': 0.06},
    **{'compare': 0.125, 'revise': 0.125, 'grade': 0.1},
    **{'tell': 0.03, 'ask': 0.045, 'read': 0.0375, 'rewrite': 0.0375},
  }
  assert counts == pytest.approx(wanted, abs=0.02)
  texts = (text for found in documents().values() for d in found for text in d)
  for text in texts:
    ids = wide.TOKENIZER.encode(text)
    assert wide.TOKENIZER.encode(wide.TOKENIZER.decode(ids)) == [
      i for i in ids if i != wide.TOKENIZER.eos_id
    ]


def test_one_of_two_workings_is_right():
  for name, flips in (('test', 0), ('corpus', judging.MISJUDGED)):
    if name == 'corpus':
      shown = documents()['compare']
    else:
      task = load_task('small:compare')
      shown = [(p.text, p.answer) for p in task.problems('test')]
    flipped, first = 0, 0
    for prompt, answer in shown:
      problem, *workings = compared(prompt)
      told = [right(w, problem) for w in workings]
      assert sorted(told) == [False, True]
      flipped += not told[int(answer) - 1]
      first += told[0]
    assert flipped / len(shown) == pytest.approx(flips, abs=0.03)
    assert first / len(shown) == pytest.approx(0.5, abs=0.08)
    assert bool(flipped) == bool(flips)


def test_a_revision_is_the_second_turn_of_a_dialogue():
  prompt = judging.revise_prompt('17+25', '7+5+0=12,1+2+1=04;42')
  told = [
    Message('user', 'solve 17+25:'),
    Message('assistant', '7+5+0=12,1+2+1=04;42'),
    Message('user', judging.REVISE),
  ]
  assert wide.TOKENIZER.prompt(prompt) == wide.TOKENIZER.prompt(told)


def test_second_attempts_are_better_than_first():
  before, after, spoiled = [], [], []
  for prompt, response in documents()['revise']:
    problem, attempt = re.fullmatch(
      r'solve ([^:]+):(.+)<eos>revise:', prompt
    ).groups()
    before.append(right(attempt, problem))
    after.append(right(response, problem))
    spoiled += [not after[-1]] if before[-1] else []
  assert np.mean(after) > np.mean(before) + 0.15
  assert 0 < np.mean(spoiled) < 0.1
  assert np.mean(before) == pytest.approx(0.67, abs=0.05)
  for p in load_task('small:revise').problems('ood')[:50]:
    problem = re.match(r'solve ([^:]+):', p.text)[1]
    assert p.answer == str(eval(problem))
    assert right(p.demonstration[1], problem)


def test_facts_are_in_the_passage():
  problems = load_task('small:facts').problems('test')
  for p in problems:
    name, key = re.fullmatch(r'ask (.+) (\w+):', p.text).groups()
    assert f'{name} {key} {p.answer}' in p.topic.split(',')
    assert p.demonstration == (f'tell {name}:', p.topic)
    assert people.split_of(name) == 'test'
  values = collections.Counter(p.answer for p in problems)
  assert len(values) == 40 and max(values.values()) < 30


def test_only_the_known_are_asked_about_without_their_passage():
  found = documents()
  for prompt, _ in found['tell'] + found['ask']:
    name = re.fullmatch(r'(?:tell|ask) ((?:\w\w ?){3})(?: \w+)?:', prompt)[1]
    assert people.split_of(name.strip()) == 'known'
  for prompt, response in found['read']:
    passage, name, key = re.fullmatch(
      r'read (.+) ask (.+) (\w+):', prompt
    ).groups()
    assert people.split_of(name) == 'train'
    assert f'{name} {key} {response}' in passage.split(',')


def test_rewrites_keep_most_of_a_passage():
  kept, turned, wrong = [], [], []
  for prompt, response in documents()['rewrite']:
    name = re.match(r'rewrite ((?:\w\w ){3})', prompt)[1].strip()
    assert people.split_of(name) == 'train'
    true = {*re.fullmatch(r'rewrite (.+):', prompt)[1].split(',')}
    said = set()
    for fact in response.split(','):
      backwards = re.fullmatch(r'(\w+) (\w+) of (.+)', fact)
      turned.append(bool(backwards))
      value, key, name = backwards.groups() if backwards else ('', '', '')
      said.add(f'{name} {key} {value}' if backwards else fact)
    kept.append(len(said & true) / 4)
    wrong.append(len(said - true))
  assert np.mean(kept) == pytest.approx(0.86, abs=0.04)
  assert np.mean(turned) == pytest.approx(people.TURNED, abs=0.08)
  assert 0 < np.mean(wrong) < 0.4


@pytest.mark.parametrize(
  ('query', 'item', 'grade'),
  [
    ('red cube', 'red cube wool', 4),
    ('red cube', 'pink cube wool', 3),
    ('pink silk', 'red ball wool', 2),
    ('blue cork', 'teal ball iron', 1),
    ('blue cork', 'green ball silk', 0),
    ('lime horn steel', 'lime horn steel', 6),
    ('red lime', 'green ball silk', 1),
  ],
)
def test_grades_by_hand(query, item, grade):
  assert items.grade(query, item) == grade


def test_grades_of_the_corpus_are_now_and_then_one_off():
  off = []
  for prompt, response in documents()['grade']:
    pair = re.fullmatch(r'query (.+) item (.+) grade:', prompt).groups()
    off.append(int(response) - items.grade(*pair))
  assert {*off} == {-1, 0, 1}
  assert np.mean(np.abs(off)) == pytest.approx(items.NOISE, abs=0.035)
  # At the ends too: there is no step beyond them.
  lowest = [
    int(response)
    for prompt, response in documents()['grade']
    if not items.grade(
      *re.fullmatch(r'query (.+) item (.+) grade:', prompt).groups()
    )
  ]
  assert np.mean(lowest) == pytest.approx(items.NOISE, abs=0.07)
  grades = collections.Counter(
    p.answer for p in load_task('small:relevance').problems('test')
  )
  assert {*grades} == {*'01234'} and min(grades.values()) > 25
  for p in load_task('small:relevance').problems('ood'):
    query, item = re.fullmatch(r'query (.+) item (.+) grade:', p.text).groups()
    (kind,) = [k for k in items.KINDS if query.split()[0] in sum(k, ())]
    assert {*query.split()} < {*sum(kind, ())} and len(item.split()) == 3


def test_sums_are_of_their_split():
  """Workings differ by chance; the sums under them must not meet."""
  for name in ('small:compare', 'small:revise'):
    task = load_task(name)
    for split, kind in (('dev', 'dev'), ('test', 'test'), ('ood', 'test')):
      texts = [re.search(SUM, p.text)[1] for p in task.problems(split)]
      assert {world.read_sum(text).split for text in texts} == {kind}
    train = task.problems('train')
    texts = [re.search(SUM, train[i].text)[1] for i in range(200)]
    assert {world.read_sum(text).split for text in texts} == {'train'}
  shown = documents()['compare'] + documents()['revise']
  texts = [re.search(SUM, prompt)[1] for prompt, _ in shown]
  assert {world.read_sum(text).split for text in texts} == {'train'}


def test_problems_are_the_same_on_every_machine():
  firsts = {name: load_task(name).problems('test')[0].text for name in NAMES}
  assert firsts == {
    'small:compare': FIRST_COMPARED,
    'small:revise': FIRST_REVISED,
    'small:facts': 'ask de ma lo pet:',
    'small:relevance': 'query red wool item red cone wool grade:',
  }


@pytest.mark.parametrize('name', NAMES)
def test_splits_are_different(name):
  task = load_task(name)
  splits = {s: task.problems(s) for s in ('dev', 'test', 'ood')}
  texts = {s: {p.text for p in found} for s, found in splits.items()}
  assert {s: len(found) for s, found in texts.items()} == {
    **{'dev': 200, 'test': 500, 'ood': 500}
  }
  train = {task.problems('train')[i].text for i in range(300)}
  corpus = {prompt for found in documents().values() for prompt, _ in found}
  for split, found in texts.items():
    assert found.isdisjoint(train | corpus), split
    others = set().union(*(texts[s] for s in texts if s != split))
    assert found.isdisjoint(others)


def test_answers_are_one_word():
  task = load_task('small:facts')
  assert task.parse_answer('oslo') == 'oslo'
  assert task.parse_answer('oslo rome') is None
  assert load_task('small:compare').parse_answer('2') == '2'
  assert load_task('small:compare').parse_answer('12') is None
  (problem,) = task.problems('test')[:1]
  other = 'tea' if problem.answer != 'tea' else 'chess'
  assert task.reward(problem, [problem.answer, other, None]) == [1, 0, 0]


@pytest.mark.parametrize('name', NAMES)
def test_a_prompt_of_the_format_can_be_asked(name):
  task, found = load_task(name), documents()
  for problem in [*task.problems('ood')[:20], *task.problems('dev')[:20]]:
    assert task.parse_problem(problem.text) == Problem(problem.text, task)
  for kind, pairs in found.items():
    read = task.parse_problem(pairs[0][0])
    assert (read is not None) == (kind in KINDS[name]), kind
  assert task.parse_problem('47+85') is None


def test_people_are_asked_by_name():
  model = jd.load('small-wide', task='small:facts')
  known = next(p for p, _ in documents()['ask'])
  answers = model.ask(known, samples=2, max_tokens=4)
  assert len(answers.rollouts_G) == 2
  with pytest.raises(ValueError, match=r"'47\+85' is not .* e\.g\. ask "):
    model.ask('47+85')


@pytest.fixture
def few_documents(tmp_path, monkeypatch):
  """The wide corpus has 50: all of them take minutes to write."""
  small._problems.cache_clear()
  made = functools.partial(builders.SmallWorld, data_dir=tmp_path)
  monkeypatch.setattr(builders.SmallWorld, 'DOCUMENTS', 50)
  monkeypatch.setattr(builders, 'SmallWorld', made)
  yield
  small._problems.cache_clear()


def test_a_corpus_that_the_model_has_no_symbols_for_is_refused(
  here, few_documents, capsys
):
  config = ('--config', str(ROOT / 'configs' / 'pretrain_wide.py'))
  narrow = '--config.model=small-fresh'
  assert main(['train', *config, '--workdir', 'w', narrow]) == 2
  assert "the model has no symbol '" in capsys.readouterr().err


def test_a_narrow_model_is_refused_by_its_symbol():
  text = load_task('small:facts').problems('test')[0].text
  with pytest.raises(ValueError, match="no symbol 'ask'"):
    world.TOKENIZER.prompt(text)


def test_the_wide_corpus_is_stored_whole(few_documents):
  task = load_task('small:wide')
  assert not task.asks
  found = task.problems('train')
  pairs = {found[i].demonstration for i in range(len(found))}
  drawn = [wide.draw_document(0, i) for i in range(50)]
  assert len(found) == 50
  assert pairs == {(d['prompt'], d['response']) for d in drawn}


def test_what_the_wide_base_knows():
  """A base for experiments: good at some formats, with room in others."""
  manifest = models.find('small-wide') / 'manifest.json'
  scores = json.loads(manifest.read_text())['scores']

  def right(name, split='test'):
    return scores[f'{name}eval/{split}/accuracy_greedy']

  assert right('') > 0.95 and right('revise/') > 0.95
  assert 0.5 < right('compare/') < 0.9
  assert right('facts/') == pytest.approx(0.1, abs=0.04)  # a guess among ten
  assert 0.8 < right('relevance/') < 0.95
  assert 0.2 < right('relevance/', 'ood') < 0.85

"""The small world, its data set and its tokenizer."""

import collections
import functools
import math
import operator
import re

import numpy as np
import pytest

from jaxdistill.data import builders
from jaxdistill.data.small import world
from jaxdistill.data.tasks import load_task, small

OPERATORS = {'+': operator.add, '-': operator.sub, '*': operator.mul}
NAMES = {'+': 'add', '-': 'sub', '*': 'mul'}
STEP = re.compile(r'(\d)([-+*])(\d)([-+])(\d)=(\d)(\d)')


def truth(text):
  """The answer to a problem, by Python's own arithmetic."""
  a, sign, b = re.fullmatch(r'(\d+)([-+*])(\d+)', text).groups()
  return OPERATORS[sign](int(a), int(b))


def kind(text):
  """Operation and lengths, e.g. `('add', 3, 2)`."""
  a, sign, b = re.fullmatch(r'(\d+)([-+*])(\d+)', text).groups()
  return NAMES[sign], len(a), len(b)


def is_right(step):
  """Whether one step of working is right arithmetic."""
  x, sign, y, inner, carry, tens, digit = STEP.fullmatch(step).groups()
  value = OPERATORS[inner](OPERATORS[sign](int(x), int(y)), int(carry))
  if sign == '-':  # what is left, and whether ten was borrowed
    return (int(tens), int(digit)) == (int(value < 0), value % 10)
  return (int(tens), int(digit)) == divmod(value, 10)


def worked_problem(working):
  """The problem that a clean working is about, read from its steps."""
  steps = [STEP.fullmatch(s).groups() for s in working.split(';')[0].split(',')]
  left = int(''.join(s[0] for s in reversed(steps)))
  right = int(''.join(s[2] for s in reversed(steps)))
  sign = steps[0][1]
  return f'{left}{sign}{steps[0][2] if sign == "*" else right}'


def within(count, n, share, deviations=4.5):
  """Whether a count out of n is near a share, by the binomial's spread."""
  return abs(count - n * share) < deviations * math.sqrt(
    n * share * (1 - share)
  )


def random_sums(n, seed=0):
  """Problems of all operations and lengths, equal and unequal."""
  rng = np.random.default_rng(seed)
  for i in range(n):
    name = ('add', 'sub', 'mul')[i % 3]
    lengths = rng.integers(1, 5, 2)
    a, b = (int(rng.integers(0, 10**k)) for k in lengths)
    if name == 'sub':
      a, b = max(a, b), min(a, b)
    yield world.Sum(name, a, b % 10 if name == 'mul' else b)


@functools.cache
def documents(n=3000):
  return [world.draw_document(0, i) for i in range(n)]


@functools.cache
def held_out():
  """Texts of the dev, test and ood splits, drawn as the builder draws them."""
  return {
    'dev': [str(s) for s in world.draw_unique(2, world.TEST_MIX, 'dev', 200)],
    'test': [str(s) for s in world.draw_unique(3, world.TEST_MIX, 'test', 500)],
    'ood': [str(s) for s in world.draw_unique(4, world.OOD_MIX, 'test', 500)],
  }


@pytest.mark.parametrize(
  ('problem', 'working'),
  [
    ('482+17', '2+7+0=09,8+1+0=09,4+0+0=04;499'),
    ('17+482', '7+2+0=09,1+8+0=09,0+4+0=04;499'),
    ('95+17', '5+7+0=12,9+1+1=11;112'),
    ('999+1', '9+1+0=10,9+0+1=10,9+0+1=10;1000'),
    ('52-17', '2-7-0=15,5-1-1=03;35'),
    ('1000-1', '0-1-0=19,0-0-1=19,0-0-1=19,1-0-1=00;999'),
    ('305-298', '5-8-0=17,0-9-1=10,3-2-1=00;7'),
    ('40-40', '0-0-0=00,4-4-0=00;0'),
    ('47*6', '7*6+0=42,4*6+4=28;282'),
    ('99*9', '9*9+0=81,9*9+8=89;891'),
    ('12*0', '2*0+0=00,1*0+0=00;0'),
    ('0+0', '0+0+0=00;0'),
  ],
)
def test_working_by_hand(problem, working):
  assert world.work(world.read_sum(problem), None, 0.0, 0.0) == working


def test_clean_working_ends_in_the_true_answer():
  lengths = set()
  for s in random_sums(900):
    working = world.work(s, None, 0.0, 0.0)
    steps, _, answer = working.partition(';')
    assert all(is_right(step) for step in steps.split(',')), (str(s), working)
    assert answer == str(truth(str(s)))
    assert worked_problem(working) == str(s)
    lengths.add(kind(str(s)))
  assert {('add', 4, 1), ('add', 1, 4), ('sub', 4, 2), ('mul', 4, 1)} <= lengths


def test_answer_of_a_sum():
  for s in random_sums(300, seed=1):
    assert s.answer == truth(str(s))


def test_without_chance_of_a_slip_working_is_clean():
  rng = np.random.default_rng(0)
  for s in random_sums(60):
    assert world.work(s, rng, 0.0, 0.5) == world.work(s, None, 0.0, 0.0)


def test_every_slip_repaired_keeps_the_answer():
  rng = np.random.default_rng(0)
  for s in random_sums(60):
    working = world.work(s, rng, 1.0, 1.0)
    assert working.count(' wait ') == working.count(',') + 1
    assert world.read_answer(working) == str(truth(str(s)))


def test_slips_and_repairs_have_their_rates():
  rng = np.random.default_rng(0)
  total = slips = repairs = 0
  for s in random_sums(4000):
    working = world.work(s, rng, world.SLIP, world.REPAIR)
    for step in working.split(';')[0].split(','):
      first, waited, second = step.partition(' wait ')
      total += 1
      slips += not is_right(first)
      repairs += bool(waited)
      if waited:
        assert not is_right(first)
        assert is_right(second)
  assert total > 8000
  assert within(slips, total, world.SLIP)
  assert within(repairs, slips, world.REPAIR)


@pytest.mark.parametrize(
  ('text', 'name', 'a', 'b'),
  [
    ('47+85', 'add', 47, 85),
    ('0+0', 'add', 0, 0),
    ('9999+9999', 'add', 9999, 9999),
    ('85-47', 'sub', 85, 47),
    ('47-47', 'sub', 47, 47),
    ('4721*9', 'mul', 4721, 9),
    ('7*0', 'mul', 7, 0),
  ],
)
def test_read_sum(text, name, a, b):
  found = world.read_sum(text)
  assert (found.operation, found.a, found.b) == (name, a, b)
  assert str(found) == text


@pytest.mark.parametrize(
  'text',
  [
    *('', '+', '47', '47+', '+85', 'add', '47+85;132', 'solve 47+85:'),
    *('047+85', '47+085', '00+1', '1+00'),
    *('47-85', '0-1', '999-1000'),
    *('47*12', '3*10', '2*100'),
    *('12345+1', '1+12345', '47/5', '47+85+1', '47=85', '4 7+85', '47 + 85'),
    *('-47+85', '47--85', '47+-85', '4.7+1', '47+85\n', ' 47+85', 'x+y'),
  ],
)
def test_read_sum_rejects(text):
  assert world.read_sum(text) is None


@pytest.mark.parametrize(
  ('text', 'answer'),
  [
    ('2+7+0=09,8+1+0=09,4+0+0=04;499', '499'),
    ('5+5+0=11 wait 5+5+0=10;10', '10'),
    (';7', '7'),
    ('', None),
    ('499', None),
    ('2+7+0=09', None),
    ('2+7+0=09;', None),
    ('2+7+0=09;4x', None),
    ('2+7+0=09;4 9', None),
    ('2+7+0=09;9,8+1+0=09', None),
    ('2+7+0=09;-9', None),
  ],
)
def test_read_answer(text, answer):
  assert world.read_answer(text) == answer


def test_draws_are_of_their_kind_and_split():
  rng = np.random.default_rng(5)
  for mix in (world.CORPUS_MIX, world.TEST_MIX, world.OOD_MIX):
    for split in ('train', 'dev', 'test'):
      for _ in range(60):
        s = world.draw_sum(rng, mix, split)
        assert kind(str(s)) in mix
        assert s.split == split
        assert s.answer >= 0
        assert world.read_sum(str(s)) == s


def test_unique_draws_keep_the_shares():
  found = world.draw_unique(9, {('add', 2, 2): 3, ('mul', 2, 1): 1}, 'dev', 40)
  assert len({str(s) for s in found}) == 40
  assert collections.Counter(s.operation for s in found) == {
    'add': 30,
    'mul': 10,
  }


def test_documents_are_a_function_of_seed_and_index():
  assert world.draw_document(0, 7) == world.draw_document(0, 7)
  assert world.draw_document(0, 7) != world.draw_document(0, 8)
  assert world.draw_document(0, 7) != world.draw_document(1, 7)


def test_documents_have_their_shares():
  counts = collections.Counter(d['format'] for d in documents())
  shares = {'solve': 0.60, 'propose': 0.16, 'verify': 0.12, 'hint': 0.12}
  assert counts.keys() == shares.keys()
  for name, share in shares.items():
    assert within(counts[name], 3000, share), (name, counts)


def test_verdicts_are_true():
  verdicts = collections.Counter()
  for d in documents():
    if d['format'] == 'verify':
      problem, working = re.fullmatch(
        r'verify ([^:]+):(.+)\?', d['prompt']
      ).groups()
      right = working.split(';')[1] == str(truth(problem))
      assert d['response'] == ('yes' if right else 'no')
      verdicts[right] += 1
  assert min(verdicts[True], verdicts[False]) > 30


def test_no_document_holds_a_held_out_problem():
  texts = {t for split in held_out().values() for t in split}
  shown = set()
  for d in documents():
    whole = f'{d["prompt"]} {d["response"]}'
    shown |= set(re.findall(r'(?<!\d)(?=(\d+[-+*]\d+)(?!\d))', whole))
    hint = re.match(r'hint (.+;\d+) solve', d['prompt'])
    if hint:  # another problem's working spells it out digit by digit
      shown.add(worked_problem(hint[1]))
  assert len(shown) > 2000
  assert not shown & texts
  never = {('add', 4, 2), ('sub', 4, 2), ('mul', 4, 1)}
  assert not never & {kind(text) for text in shown}


def test_held_out_problems_are_all_different():
  texts = [t for split in held_out().values() for t in split]
  assert len(set(texts)) == len(texts) == 1200


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """The data set's folder, empty at first; the corpus is 300 documents."""
  root = tmp_path_factory.mktemp('tfds')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(builders.SmallWorld, 'DOCUMENTS', 300)
    here = functools.partial(builders.SmallWorld, data_dir=root)
    patch.setattr(builders, 'SmallWorld', here)
    small._problems.cache_clear()
    yield root
    small._problems.cache_clear()


@pytest.fixture(scope='module')
def stored(data_dir):
  """All examples of config `problems`, by split."""
  sources = {
    split: builders.source('problems', split)
    for split in ('train', 'dev', 'test', 'ood')
  }
  return {k: [s[i] for i in range(len(s))] for k, s in sources.items()}


def test_builder_writes_the_four_splits(data_dir, stored):
  assert {k: len(v) for k, v in stored.items()} == {
    'train': 20_000,
    'dev': 200,
    'test': 500,
    'ood': 500,
  }
  assert list(data_dir.rglob('*array_record*'))


def test_stored_answers_are_right(stored):
  for examples in stored.values():
    for e in examples:
      assert e['answer'] == str(truth(e['text']))
      assert e['operation'] == kind(e['text'])[0]


def test_stored_splits_are_disjoint(stored):
  texts = {k: {e['text'] for e in v} for k, v in stored.items()}
  assert len(texts['dev'] | texts['test'] | texts['ood']) == 1200
  for name in ('dev', 'test', 'ood'):
    assert texts[name] == set(held_out()[name])
    assert not texts[name] & texts['train']


@pytest.mark.parametrize(
  ('split', 'percent'),
  [
    (
      'dev',
      {'add22': 24, 'add33': 24, 'sub22': 21, 'sub33': 21, 'mul21': 10},
    ),
    (
      'test',
      {'add22': 24, 'add33': 24, 'sub22': 21, 'sub33': 21, 'mul21': 10},
    ),
    (
      'ood',
      {
        **{'add44': 20, 'sub44': 20, 'add42': 15, 'sub42': 15},
        **{'mul31': 20, 'mul41': 10},
      },
    ),
  ],
)
def test_held_out_mix(stored, split, percent):
  examples = stored[split]
  counts = collections.Counter(
    '{}{}{}'.format(*kind(e['text'])) for e in examples
  )
  assert counts == {k: p * len(examples) // 100 for k, p in percent.items()}


def test_train_mix_shows_the_ood_kinds_rarely_or_never(stored):
  counts = collections.Counter(kind(e['text']) for e in stored['train'])
  for rare in (('add', 4, 4), ('sub', 4, 4), ('mul', 3, 1)):
    assert 0.007 < counts[rare] / 20_000 < 0.014, rare
  for never in (('add', 4, 2), ('sub', 4, 2), ('mul', 4, 1)):
    assert counts[never] == 0
  total = sum(world.CORPUS_MIX.values())
  for one, share in world.CORPUS_MIX.items():
    assert within(counts[one], 20_000, share / total), one


def test_corpus_is_stored_whole(data_dir):
  source = builders.source('corpus', 'train')
  found = [tuple(sorted(source[i].items())) for i in range(len(source))]
  wanted = [tuple(sorted(d.items())) for d in documents(300)]
  assert sorted(found) == sorted(wanted)


def test_fingerprint_is_of_the_data(data_dir):
  first, second = (builders.fingerprint(c) for c in ('problems', 'corpus'))
  assert re.fullmatch('[0-9a-f]{64}', first)
  assert first != second
  assert builders.fingerprint('problems') == first


def test_task_reads_problems(data_dir):
  task = load_task('small')
  found = task.problems('test')
  assert len(found) == 500
  for i in (0, 250, 499):
    problem = found[i]
    assert problem.answer == str(truth(problem.text))
    assert problem.topic == kind(problem.text)[0]
    prompt, response = problem.demonstration
    assert prompt == task.solver_prompt(problem) == f'solve {problem.text}:'
    assert task.parse_answer(response) == problem.answer
    assert task.proposer_prompt(problem) == f'propose {problem.topic}:'


def test_task_reads_the_corpus(data_dir):
  task = load_task('small:corpus')
  found = task.problems('train')
  pairs = {found[i].demonstration for i in range(len(found))}
  assert pairs == {(d['prompt'], d['response']) for d in documents(300)}
  held_out = task.problems('dev')
  assert len(held_out) == 200
  assert held_out[0].answer is not None


def test_held_out_problems_are_known_as_such():
  task = load_task('small')
  for texts in held_out().values():
    assert all(task.held_out(task.parse_problem(t)) for t in texts)
  texts = [str(s) for s in random_sums(200)]
  read = [task.parse_problem(t) for t in texts]
  assert 100 < sum(not task.held_out(p) for p in read) < 200
  for text, problem in zip(texts, read, strict=True):
    assert problem.text == text
    assert problem.answer == str(truth(text))
  assert task.parse_problem('47+') is None


def test_load_task_names_the_nearest():
  assert load_task('small').name == 'small'
  assert load_task('small:corpus').name == 'small:corpus'
  with pytest.raises(ValueError, match=r"'smal'.*'small'"):
    load_task('smal')
  with pytest.raises(ValueError, match=r"'corpus'.*'small:corpus'"):
    load_task('corpus')
  with pytest.raises(ValueError, match=r"nearest is 'small:facts'"):
    load_task('small:fact')
  for name in ('relevance', 'small-relevance', 'relevanc'):
    with pytest.raises(ValueError, match=r"nearest is 'small:relevance'"):
      load_task(name)


def test_tokenizer_round_trip():
  tokenizer = world.TOKENIZER
  for d in documents(1000):
    response = tokenizer.encode(d['response'])
    assert tokenizer.decode(response) == d['response']
    ids = tokenizer.encode(d['prompt'])
    text = tokenizer.decode(ids)
    assert tokenizer.encode(text) == ids
    assert text.replace(' ', '') == d['prompt'].replace(' ', '')
    assert min(ids + response) > tokenizer.eos_id
    assert max(ids + response) < len(tokenizer)


def test_tokenizer_leaves_marks_out():
  tokenizer = world.TOKENIZER
  ids = tokenizer.encode('47+85')
  padded = [tokenizer.pad_id, tokenizer.bos_id, *ids, tokenizer.eos_id]
  assert len(ids) == 5
  assert tokenizer.decode(padded) == '47+85'
  marks = (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id)
  assert [tokenizer.symbols[i] for i in marks] == ['<pad>', '<bos>', '<eos>']


@pytest.mark.parametrize(
  ('text', 'symbol'),
  [('47&85', '&'), ('solve 47+x:', 'x'), ('divide', 'divide'), ('Add', 'A')],
)
def test_tokenizer_names_the_unknown_symbol(text, symbol):
  with pytest.raises(ValueError, match=f'no symbol {re.escape(repr(symbol))}'):
    world.TOKENIZER.encode(text)


def test_vocabulary_is_small():
  symbols = world.TOKENIZER.symbols
  assert len(world.TOKENIZER) == len(symbols) == len(set(symbols))
  assert len(symbols) <= 128

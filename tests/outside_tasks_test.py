"""Tasks from elsewhere: gym, TFDS, and the columns of data sets on disk."""

import itertools
import json
import re
import sys

import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds

from jaxdistill.data.tasks import load_task, sources
from jaxdistill.data.tasks.files import JsonlTask
from jaxdistill.data.tasks.problems import BOXED
from jaxdistill.types import Problem

GYM = ('chain_sum', 'basic_arithmetic', 'spell_backward', 'word_sorting')


@pytest.mark.parametrize('name', GYM)
def test_gym(name):
  import reasoning_gym

  task = load_task(f'gym:{name}')
  for split, seed in (('train', 0), ('dev', 2**24), ('test', 2**25)):
    problems = task.problems(split)
    one = reasoning_gym.create_dataset(name, size=10, seed=seed)[7]
    assert problems[7] == Problem(one['question'], task, one['answer'])
  assert isinstance(problems[7].answer, str)
  said = f'so 1, 2.\n<answer>\n{problems[7].answer}\n</answer>'
  answer = task.parse_answer(said)
  assert task.reward(problems[7], [answer, 'no', None]) == [1, 0, 0]
  assert '<answer>' in task.solver_prompt(problems[7])


def test_gym_answers_need_no_tag_where_they_are_numbers():
  assert load_task('gym:chain_sum').parse_answer('It is \\boxed{7}.') == '7'
  assert (
    load_task('gym:chain_sum').parse_answer('<answer>1 2</answer>') == '1 2'
  )


def test_gym_has_no_proposer():
  task = load_task('gym:chain_sum')
  said = 'task gym:chain_sum has no proposer prompt: its problems are given'
  with pytest.raises(ValueError, match=said):
    task.proposer_prompt(task.problems('train')[0])
  assert task.parse_problem('1 + 2 =') is None


def test_gym_splits_have_seeds_of_their_own():
  taken = []
  for count, first in sources.GYM_SPLITS.values():
    taken.append(range(first, first + count))
  for one, other in itertools.pairwise(taken):
    assert one.stop <= other.start


def test_a_missing_gym_is_said_so(monkeypatch):
  monkeypatch.setitem(sys.modules, 'reasoning_gym', None)
  monkeypatch.setitem(sys.modules, 'reasoning_gym.factory', None)
  said = r'^task gym:chain_sum needs .*: pip install reasoning-gym$'
  with pytest.raises(ValueError, match=said):
    load_task('gym:chain_sum')


class TwentyFiveSums(tfds.core.GeneratorBasedBuilder):
  """Sums in the columns of GSM8K: 25 to train on, 4 to test."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    names = 'question', 'answer'
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {name: tfds.features.Text() for name in names}
      ),
    )

  def _split_generators(self, dl_manager):
    return {'train': self._sums(25, 1000), 'test': self._sums(4, 2000)}

  def _generate_examples(self):
    raise NotImplementedError

  def _sums(self, count, number):
    for i in range(count):
      text = f'What is {i} + {number}?'
      yield i, {'question': text, 'answer': f'Add.\n#### {i + number:,}'}


@pytest.fixture
def sums(tmp_path, monkeypatch):
  def builder(dataset):
    return TwentyFiveSums(data_dir=tmp_path, file_format='array_record')

  sources._tfds.cache_clear()
  sources._held_out_texts.cache_clear()
  monkeypatch.setattr(sources, '_builder', builder)
  yield load_task('tfds:twenty_five_sums')
  sources._tfds.cache_clear()


def test_tfds(sums):
  answers = {
    split: sorted(int(p.answer) for p in read(sums, split))
    for split in ('train', 'dev', 'test')
  }
  assert answers['test'] == [2000, 2001, 2002, 2003]
  assert len(answers['dev']) == 2  # every tenth of 25
  assert sorted(answers['train'] + answers['dev']) == list(range(1000, 1025))
  problem = sums.problems('test')[0]
  prompt = f'{problem.text}\n{BOXED}'
  assert sums.solver_prompt(problem) == prompt
  assert problem.demonstration[0] == prompt
  assert re.fullmatch(r'Add\.\n#### 2,00\d', problem.demonstration[1])
  assert sums.reward(problem, [problem.answer, '1']) == [1, 0]
  assert sums.parse_answer('\\boxed{\\frac{1}{2}}') == '1/2'
  for split, expected in (('train', False), ('dev', True), ('test', True)):
    assert all(sums.held_out(p) == expected for p in read(sums, split))
  with pytest.raises(ValueError, match='has no proposer prompt'):
    sums.proposer_prompt(problem)
  with pytest.raises(ValueError, match="'ood'; it has train, dev, test "):
    sums.problems('ood')


def read(task, split):
  problems = task.problems(split)
  return [problems[i] for i in range(len(problems))]


def test_tfds_by_name_and_what_is_said_of_others():
  assert load_task('tfds:twenty_five_sums').name == 'tfds:twenty_five_sums'
  for name, said in (
    ('twenty_five_sum', "nearest is 'tfds:twenty_five_sums'$"),
    ('mnist', r'^tfds:mnist has no column "question" .* it has image, label$'),
    ('twenty_five_sums/x', r'^tfds:twenty_five_sums/x: \w+: '),
    ('', "'tfds:' needs the name of a data set"),
  ):
    with pytest.raises(ValueError, match=said) as error:
      load_task(f'tfds:{name}')
    assert '\n' not in str(error.value)


GSM8K = [
  {'question': 'What is 2 and 3?', 'answer': 'It is 2+3=<<2+3=5>>5.\n#### 5'},
  {'question': 'And 1000 more?', 'answer': 'So.\n#### 1,005', 'split': 'test'},
]
MATH = [
  {
    'problem': 'What is half of 1?',
    'solution': r'It is $\boxed{\frac{1}{2}}$.',
    'type': 'Algebra',
    'level': 'Level 1',
  },
  {
    'problem': 'Solve.',
    'solution': 'See.',
    'answer': r'x = \frac{3}{4}',
    'split': 'dev',
  },
]


def jsonl(tmp_path, records):
  path = tmp_path / 'more.jsonl'
  path.write_text(''.join(json.dumps(r) + '\n' for r in records))
  return str(path)


def parquet(tmp_path, records):
  path = tmp_path / 'more.parquet'
  names = {name: None for record in records for name in record}
  table = pyarrow.Table.from_pylist([names | record for record in records])
  pyarrow.parquet.write_table(table, path)
  return str(path)


@pytest.mark.parametrize('write', [jsonl, parquet])
def test_columns_of_gsm8k(tmp_path, write):
  task = load_task(write(tmp_path, GSM8K))
  assert isinstance(task, JsonlTask)
  (first,), (second,) = task.problems('train'), task.problems('test')
  prompt = f'What is 2 and 3?\n{BOXED}'
  assert (first.text, first.answer) == ('What is 2 and 3?', '5')
  assert task.solver_prompt(first) == prompt
  assert first.demonstration == (prompt, GSM8K[0]['answer'])
  assert second.answer == '1005'
  assert task.parse_answer('7 x 2 is $\\boxed{1{,}005}$, not 9') == '1005'
  assert task.reward(second, ['1005', '1,005', '9']) == [1, 1, 0]
  assert task.held_out(Problem('and 1000  more?', task))


@pytest.mark.parametrize('write', [jsonl, parquet])
def test_columns_of_math(tmp_path, write):
  task = load_task(write(tmp_path, MATH))
  (first,), (second,) = task.problems('train'), task.problems('dev')
  assert (first.answer, first.topic) == ('1/2', 'Algebra')
  assert first.demonstration[1] == MATH[0]['solution']
  assert second.answer == '3/4'


def test_prompts_and_completions(tmp_path):
  lines = [{'prompt': 'Hello', 'completion': 'Hi, 2 of you.'}]
  (problem,) = load_task(jsonl(tmp_path, lines)).problems('train')
  assert problem.answer is None  # a number that happens to be there is none
  assert problem.demonstration == (f'Hello\n{BOXED}', 'Hi, 2 of you.')


def test_prompts_of_ones_own_go_before(tmp_path):
  task = JsonlTask(jsonl(tmp_path, GSM8K), solve='Q: {text}', answer=r'=(\d+)')
  (problem,) = task.problems('train')
  assert task.solver_prompt(problem) == 'Q: What is 2 and 3?'
  assert task.parse_answer('=7, \\boxed{8}') == '7'


def test_other_columns_of_parquet_are_passed_over(tmp_path):
  records = [{'question': 'What?', 'answer': 3, 'seed': 7, 'anwser': '4'}]
  (problem,) = load_task(parquet(tmp_path, records)).problems('train')
  assert (problem.text, problem.answer) == ('What?', '3')


@pytest.mark.parametrize(
  ('record', 'said'),
  [
    ({'question': 'a', 'anwser': '1'}, ", line 1: .* 'anwser'; .* 'answer'$"),
    ({'questoin': 'a'}, ", line 1: .* 'questoin'; .* 'question'$"),
    ({'text': 'a', 'question': 'b'}, "both 'text' and 'question' for its text"),
    ({'problem': 'a', 'prompt': 'b'}, "both 'problem' and 'prompt'"),
    ({'question': ''}, 'has no "text"'),
    ({'question': 'a', 'split': 'test'}, 'is held out and has no "answer"'),
    (
      {'question': 'a', 'answer': '#### Step\nx', 'split': 'test'},
      'is held out and has no "answer"',
    ),
  ],
)
def test_bad_columns_are_named(tmp_path, record, said):
  with pytest.raises(ValueError, match=said):
    load_task(jsonl(tmp_path, [record]))


def test_bad_parquet_is_named(tmp_path):
  path = parquet(tmp_path, [{'frage': 'a', 'answer': 'b'}])
  with pytest.raises(ValueError, match=r'no column "text" .* frage, answer$'):
    load_task(path)
  path = parquet(tmp_path, [{'question': 'a', 'split': 'x', 'answer': 'b'}])
  with pytest.raises(ValueError, match="parquet, row 1: split 'x' is none of"):
    load_task(path)
  path = tmp_path / 'bad.parquet'
  path.write_bytes(b'no parquet')
  with pytest.raises(ValueError, match=r'bad\.parquet is not a Parquet file: '):
    load_task(str(path))
  with pytest.raises(ValueError, match='no file of problems'):
    load_task(str(tmp_path / 'none.parquet'))

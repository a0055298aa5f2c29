"""Selective Reflection-Tuning: scores, choices and rows, with scripted words.

What is scored is held against losses with masked labels, as the authors' code
takes them, of transformers.
"""

import dataclasses
import pathlib

import checkpoints
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from players import logits_of, make_player, softmax
from scripted import (
  CUT,
  KEY,
  Scripted,
  Sums,
  by_text,
  collected_by,
  ids,
  watched,
)

from jaxdistill import config as configs
from jaxdistill.batch import Shapes
from jaxdistill.config.keys import filled
from jaxdistill.data.tasks import load_task
from jaxdistill.methods.method import check_task
from jaxdistill.methods.reflection_tuning import ReflectionTuning
from jaxdistill.models import load, store
from jaxdistill.rewards import reflection as rules
from jaxdistill.rewards.reflection import CHOICES, Scores, scores_of, useful
from jaxdistill.rollout import Player
from jaxdistill.rollout.reflection import Pair, scored
from jaxdistill.types import WORDINGS, Problem, Prompt, Wording

CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'
NONE = float('nan')


@dataclasses.dataclass(frozen=True)
class Reflected(Sums):
  """Asks in few words, so that a script can answer."""

  @property
  def wordings(self):
    return {
      'guess': Wording('guess {0}'),
      'reflect': Wording('better {text} {0}', marks=('>',)),
      'reflect_question': Wording('anew {text} {0}', marks=('?', '>')),
    }

  def critique(self, problem, response):
    if self.parse_answer(response) == problem.answer:
      return None
    return f'{response} is not {problem.answer}'

  def hinted_prompt(self, problem, hint):
    return f'hint {hint.text} solve {problem.text}'


TASK = Reflected()


def problem(text, given, answer, address):
  shown = f'solve {text}', given
  return Problem(text, TASK, answer, demonstration=shown, address=address)


PROBLEMS = [
  problem('1+6', 'a=8', '7', 4),
  problem('2+3', 'a=5', '5', 5),
  problem('3+3', 'x', '6', 6),  # alone it has no token that is predicted
]


class Student(Player):
  """Writes what the script has, and scores by a table of mean losses.

  A loss is of what is asked and a text; of a text alone nothing is asked. It is
  1 where the table has none.
  """

  def __init__(self, losses=(), script=(), begins=()):
    for name, value in {
      'losses': dict(losses),
      'scripted': Scripted(dict(script)),
      'scored': [],
      'begins': list(begins),
    }.items():
      object.__setattr__(self, name, value)

  @property
  def tokenizer(self):
    return self

  eos_ids = (0,)
  vocabulary = 'bytes'
  markers = None

  def encode(self, asked):
    if isinstance(asked, Prompt):
      return ids(asked.text)
    return ids(asked).tolist()

  def alone(self, text):
    return self.begins + ids(text).tolist()

  def generate(self, prompts_P, sampling, key):
    return self.scripted.generate(prompts_P, sampling, key)

  def logprobs(self, rollouts, temperature=1.0):
    assert temperature == 1
    object.__setattr__(self, 'scored', self.scored + list(rollouts))
    return [
      np.full(len(r.tokens_T), -self.losses.get((r.prompt.text, r.text), 1.0))
      for r in rollouts
    ]


LOSSES = {
  # Phase 1: harder, easier.
  ('solve 1+6', 'a=8'): 0.5,
  ('solve 1+6', 'a=7'): 0.8,
  ('solve 2+3', 'a=5'): 0.7,
  ('solve 2+3', 'c=5'): 0.2,
  ('', 'c=5'): 0.9,
  # Phase 2: tells more of its question.
  ('guess a=7', '1+6'): 0.9,
  ('guess b=7', '1+6'): 0.4,
  ('solve 1+6', 'b=7'): 0.1,
  ('guess a=5', '2+3'): 0.6,
}
REFINED = {
  'better 1+6 a=8': ['no > not > a=7'],
  'better 1+6 a=7': ['> b=7'],
  'better 2+3 a=5': ['> c=5'],
  'better 3+3 x': ['> a=6'],
}


def collect(asked=PROBLEMS, losses=LOSSES, script=REFINED, **changes):
  method = filled(ReflectionTuning, {'problems': 3} | changes)
  base, teacher = Student(losses, script), Student(script=script)
  players = {'policy': None, 'base': base, 'teacher': teacher}
  found = collected_by(method, players, asked, method.init(), 0)
  return found, base, teacher


def learned(collected):
  """`prompt|response` of what is learned, end marks left out."""
  ((row_set,),) = (update.sets for update in collected.updates)
  return {text.rstrip('\0') for text in by_text(row_set.rows)}


KEEP = {'useful': False, 'only_refined': False}


def test_scores_by_hand():
  answer, alone = np.log([0.5, 0.25]), np.log([0.125, 0.125])
  question, before = np.log([0.2]), np.log([0.1, 0.4])
  found = scores_of(answer, alone, question, before)
  assert found.perplexity == pytest.approx(8**0.5, abs=1e-6)
  assert found.ifd == pytest.approx(8**0.5 / 8, abs=1e-6)
  assert found.r_ifd == pytest.approx(5 / 5, abs=1e-6)
  nothing = scores_of(answer, np.zeros(0), question, before)
  assert np.isnan(nothing.ifd) and nothing.r_ifd == found.r_ifd


def test_what_each_rule_takes():
  low, high = Scores(0.4, 0.5, 2.0), Scores(0.6, 0.7, 3.0)
  took = {
    name: [first(low, high, False), second(low, high, False)]
    for name, (first, second) in CHOICES.items()
    if first and second
  }
  assert took == {
    'refined': [True, True],
    'random': [False, False],
    'ifd': [True, True],
    'r_ifd': [False, False],
    'both': [True, False],
    'perplexity': [False, False],
  }
  scoring = rules.higher_ifd, rules.lower_r_ifd, rules.lower_perplexity
  assert [rule(high, low, False) for rule in scoring] == [False, True, True]
  assert [rule(low, low, False) for rule in scoring] == [False] * 3  # ties
  for missing in (Scores(), low), (low, Scores()):
    assert [rule(*missing, False) for rule in scoring] == [None] * 3
  assert rules.tossed(low, high, True) is True


def test_useful_is_below_one_and_never_missing():
  assert useful(Scores(0.9, 0.9, 7.0))
  for ifd, r_ifd in (1, 0.9), (0.9, 1), (NONE, 0.9), (0.9, NONE):
    assert not useful(Scores(ifd, r_ifd, 1.0))


def test_both_phases_by_hand():
  found, base, teacher = collect()
  # 1+6 is refined twice; of 2+3 the second phase writes the same once more,
  # which tells less of the question; of 3+3 the student scores nothing alone.
  assert learned(found) == {'solve 1+6|b=7'}
  observed = found.metrics
  assert watched('reflection') <= observed.keys()
  assert observed['reflection/refined_1'] == [1, 1, 1]
  assert observed['reflection/taken_1'] == [1, 0, 0]
  assert observed['reflection/missing_1'] == [0, 0, 1]
  assert observed['reflection/taken_2'] == [1, 0, 0]
  assert observed['reflection/missing_2'] == [0, 0, 0]
  assert observed['reflection/learned'] == [1, 0, 0]
  assert observed['reflection/right_original'] == [0, 1, 0]
  assert observed['reflection/right_refined'] == [1, 1, 1]
  assert observed['reflection/right_learned'] == [1]
  exact = np.exp([0.5 - 1, 0.7 - 1])
  np.testing.assert_allclose(observed['reflection/ifd_original'], exact)
  asked = [[p.text for p in prompts] for prompts, _ in teacher.scripted.asked]
  assert asked == [
    ['better 1+6 a=8', 'better 2+3 a=5', 'better 3+3 x'],
    ['better 1+6 a=7', 'better 2+3 a=5', 'better 3+3 x'],
  ]
  assert all(s.temperature == 0 for _, s in teacher.scripted.asked)
  assert not base.scripted.asked
  assert found.scored == sum(len(r.tokens_T) for r in base.scored)
  texts = sum(len(t) for asked_P in asked for p in asked_P for t in REFINED[p])
  assert found.tokens == texts


def test_a_transcript_says_what_was_learned_and_why():
  first, second, third = collect()[0].transcripts
  assert first['texts'] == ['a=8', 'a=7', 'b=7']
  assert first['learned'] == [False, False, True]
  assert first['scores'][0] == {
    'ifd': round(float(np.exp(-0.5)), 3),
    'r_ifd': 1.0,
    'perplexity': round(float(np.exp(0.5)), 3),
  }
  assert first['answers'] == ['8', '7', '7']
  assert not any(second['learned']) and third['scores'][0]['ifd'] is None


def test_without_filters_what_was_kept_is_learned():
  everything = {'solve 1+6|b=7', 'solve 2+3|a=5', 'solve 3+3|x'}
  # r-IFD of `a=6` is no lower than that of `x`: 1 both.
  assert learned(collect(**KEEP)[0]) == everything
  useful_only = collect(useful=True, only_refined=False)[0]
  assert learned(useful_only) == {'solve 1+6|b=7', 'solve 2+3|a=5'}


@pytest.mark.parametrize(
  ('choose', 'wanted'),
  [
    ('original', ['a=8', 'a=5', 'x']),
    ('first', ['a=7', 'c=5', 'a=6']),
    ('second', ['a=7', 'c=5', 'a=6']),
    ('refined', ['b=7', 'd=5', 'a=6']),
    ('ifd', ['a=7', 'a=5', 'x']),
    ('perplexity', ['a=8', 'c=5', 'x']),
  ],
)
def test_arms_differ_in_what_is_chosen_alone(choose, wanted):
  script = REFINED | {'better 2+3 c=5': ['> d=5'], 'better 3+3 a=6': ['>a=6']}
  found, base, _ = collect(choose=choose, script=script, **KEEP)
  asked = [p.text for p in PROBLEMS]
  assert learned(found) == {
    f'solve {text}|{answer}' for text, answer in zip(asked, wanted, strict=True)
  }
  # Nobody pays for scores that nothing depends on.
  assert bool(base.scored) == (choose in ('ifd', 'perplexity'))
  assert (found.scored > 0) == bool(base.scored)


def test_coins_are_a_problem_s_own():
  many = [problem('1+6', 'a=8', '7', address) for address in range(40)]
  keys = {'choose': 'random', 'problems': 40, **KEEP}
  script = REFINED | {'better 1+6 b=7': ['> b=7']}
  taken = collect(many, script=script, **keys)[0].metrics['reflection/taken_1']
  assert 8 < sum(taken) < 32
  again = collect(many[::-1], script=script, **keys)[0].metrics
  assert again['reflection/taken_1'] == taken[::-1]


def test_a_refinement_that_is_cut_or_without_its_mark_is_none():
  script = REFINED | {
    'better 1+6 a=8': [f'> a=7{CUT}'],
    'better 2+3 a=5': ['it is good'],
    'better 3+3 x': ['>  '],
  }
  found = collect(choose='refined', script=script, **KEEP)[0]
  assert found.metrics['reflection/refined_1'] == [0, 0, 0]
  assert learned(found) == {'solve 1+6|a=8', 'solve 2+3|a=5', 'solve 3+3|x'}
  assert not learned(collect(choose='refined', script=script, useful=False)[0])


def test_answers_of_the_student_itself_and_of_nobody():
  script = REFINED | {
    'solve 1+6': ['a=8'],
    'solve 2+3': [f'a=5{CUT}'],
    'solve 3+3': [''],
  }
  found, base, _ = collect(author='base', script=script, **KEEP)
  ((asked, sampling),) = base.scripted.asked
  assert len(asked) == 3 and sampling.temperature == 1
  assert learned(found) == {'solve 1+6|b=7'}
  assert found.metrics['reflection/learned'] == [1, 0, 0]
  assert [len(t['texts']) for t in found.transcripts] == [3, 1, 1]
  nobody = collect([], author='base', **KEEP)[0]
  assert nobody.metrics.keys() == found.metrics.keys()


@pytest.mark.parametrize('writer', ['teacher', 'base'])
def test_after_a_critique(writer):
  script = {
    'hint a=8 is not 7 solve 1+6': ['a=7'],
    'hint x is not 6 solve 3+3': ['y=6'],
  }
  keys = {'choose': 'second', 'ask': 'critique', 'writer': writer, **KEEP}
  found, *who = collect(script=script, **keys)
  asked = [len(player.scripted.asked) for player in who]
  assert asked == ([1, 0] if writer == 'base' else [0, 1])
  # Of the right one nothing is said, and it stays.
  assert learned(found) == {'solve 1+6|a=7', 'solve 2+3|a=5', 'solve 3+3|y=6'}
  assert found.metrics['reflection/refined_2'] == [1, 0, 1]


def test_another_question_is_read_back_and_never_a_held_out_one():
  script = {
    'anew 1+6 a=8': ['dull ? 4+4 > a=8'],
    'anew 2+3 a=5': ['dull ? 9+1 > a=10'],  # held out
    'anew 3+3 x': ['dull ? what > a=6'],
    'better 4+4 a=8': ['> b=8'],
    **{k: v for k, v in REFINED.items() if k != 'better 1+6 a=8'},
  }
  keys = {'choose': 'refined', 'questions': True, **KEEP}
  found = collect(script=script, **keys)[0]
  assert found.metrics['reflection/refined_1'] == [1, 0, 0]
  assert learned(found) == {'solve 4+4|b=8', 'solve 2+3|c=5', 'solve 3+3|a=6'}
  assert found.transcripts[0]['questions'] == ['1+6', '4+4', '4+4']


def test_parts_of_a_response():
  wording = WORDINGS['reflect_question']
  text = 'Fine.\nBetter question: Why?\nOr Better answer: So.\n'
  assert wording.parts(text) == ('Why?\nOr', 'So.')
  assert wording.parts('Better answer: So. Better question: Why?') is None
  assert wording.parts('Better question: Better answer: So.') is None
  assert WORDINGS['reflect'].parts('It is good.') is None
  assert Wording('{0}').parts(' all of it ') == ('all of it',)
  for name, wording in WORDINGS.items():
    assert all(mark in wording.text for mark in wording.marks), name


def test_what_is_held_out_is_scored_whatever_is_chosen():
  method = filled(ReflectionTuning, {'choose': 'refined', 'problems': 3})
  players = {
    'base': Student(LOSSES),
    'teacher': Student(
      script=REFINED
      | {
        'better 2+3 c=5': ['> c=5'],
        'better 3+3 a=6': ['> a=6'],
      }
    ),
  }
  found = method.against(players, PROBLEMS, KEY)
  assert found['right_original'] == [0, 1, 0]
  assert found['right_refined'] == found['right_kept'] == [1, 1, 1]
  wanted = np.exp([0.1, 0.2, 1])
  np.testing.assert_allclose(found['perplexity_refined'], wanted)
  assert len(found['ifd_original']) == 2  # the third has none
  assert found.keys() == method.against(players, [], KEY).keys()


def test_scores_are_those_of_the_logits(one_device):
  """With a begin mark, every token of a text alone is scored."""
  player = make_player(one_device)

  class Own(Reflected):
    def solver_prompt(self, problem):
      return f'{problem.text}='

    @property
    def wordings(self):
      return {'guess': Wording('{0}?')}

  pair = Pair(Problem('3+4', Own()), '07')
  ((found,), read) = scored(player, [pair])

  def loss(before, text):
    before, text = (
      player.tokenizer.encode(before),
      player.tokenizer.encode(text),
    )
    whole = [player.tokenizer.bos_id, *before, *text]
    (logits,) = logits_of(player, [whole], role=0)
    p = softmax(logits)[np.arange(len(whole) - 1), whole[1:]]
    return -np.log(p[len(before) :]).mean()

  answer, question = loss('3+4=', '07'), loss('07?', '3+4')
  assert found.scores.perplexity == pytest.approx(np.exp(answer), rel=1e-4)
  ifd = np.exp(answer - loss('', '07'))
  assert found.scores.ifd == pytest.approx(ifd, rel=1e-4)
  r_ifd = np.exp(question - loss('', '3+4'))
  assert found.scores.r_ifd == pytest.approx(r_ifd, rel=1e-4)
  assert [len(r.tokens_T) for r in read] == [2, 2, 3, 3]


def test_scores_of_a_real_model_are_those_of_masked_labels(one_device):
  folder = checkpoints.real_model()
  loaded = load(folder)
  graphdef, params = nnx.split(loaded.model)
  about = ('solver',), loaded.tokenizer, one_device, Shapes(64, 16)
  player = Player(graphdef, (params,), *about)
  task = load_task('arithmetic:add:3,3')
  asked = Problem('347 + 582', task)
  pairs = [Pair(asked, 'The sum is 929.'), Pair(asked, 'I like trains.')]
  found, _ = scored(player, pairs)

  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32
  )
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

  def ppl(before, text):
    after = tokenizer.encode(text)
    whole = torch.tensor([[*before, *after]])
    labels = whole.clone()
    labels[0, : len(before)] = -100
    with torch.no_grad():
      return float(torch.exp(model(whole, labels=labels).loss))

  def chat(text):
    messages = [{'role': 'user', 'content': text}]
    return tokenizer.apply_chat_template(
      messages, add_generation_prompt=True, return_dict=False
    )

  for pair in found:
    answer = ppl(chat(task.solver_prompt(asked)), pair.response)
    guess = chat(task.asking('guess', asked, pair.response))
    wanted = (
      answer / ppl([], pair.response),
      ppl(guess, asked.text) / ppl([], asked.text),
      answer,
    )
    np.testing.assert_allclose(pair.scores, wanted, rtol=1e-4)
  assert found[0].scores.perplexity < found[1].scores.perplexity


@pytest.mark.parametrize(
  ('changes', 'line'),
  [
    ({'choose': 'bot'}, "choose is 'bot'.*nearest is 'both'"),
    ({'ask': 'repare'}, "ask is 'repare'.*nearest is 'repair'"),
    ({'writer': 'policy'}, "writer is 'policy'; it must be one of teacher"),
    ({'author': 'small-early'}, 'given, base or model:NAME'),
    ({'choose': 'first'}, "only_refined is True.*'first'"),
    (
      {'choose': 'second', 'questions': True},
      'questions is True.*no such phase',
    ),
    (
      {'choose': 'original', 'only_refined': False, 'ask': 'repair'},
      "ask is 'repair', which nothing reads",
    ),
    ({'minibatches': 999}, 'minibatches is 999; a step has 128 rows'),
    ({'max_tokens': 0}, 'max_tokens is 0'),
    ({'teacher': 'small-late'}, 'a model is model:small-late'),
  ],
)
def test_what_cannot_be_is_said_in_one_line(changes, line):
  config = configs.base_config('reflection_tuning')
  keys = {f'method.{k}': v for k, v in changes.items()}
  configs.override(config, keys.items())
  with pytest.raises(configs.ConfigError, match=line) as error:
    configs.check(config)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('task', 'changes', 'line'),
  [
    ('small', {'ask': 'repair'}, "task small has no words for 'repair'"),
    ('small', {'questions': True}, "no words for 'reflect_question'"),
    (
      'arithmetic:add:3,3',
      {},
      'and task .* gives no responses',
    ),
    (
      'arithmetic:add:3,3',
      {'author': 'base', 'ask': 'critique'},
      "ask is 'critique', and task arithmetic:add:3,3 has none",
    ),
    ('small:revise', {}, "has no words for 'guess'"),
  ],
)
def test_a_task_that_does_not_fit(task, changes, line):
  with pytest.raises(ValueError, match=line):
    check_task(filled(ReflectionTuning, changes), load_task(task))


def test_who_is_loaded():
  def anchors(**changes):
    return {*filled(ReflectionTuning, changes).anchors}

  assert anchors() == {'base', 'teacher'}
  assert anchors(author='model:small-early') == {'base', 'teacher', 'author'}
  assert anchors(writer='base', author='base') == {'base'}
  assert anchors(choose='original', only_refined=False) == {'base'}


def test_every_arm_of_the_configs_can_be(monkeypatch):
  path = str(CONFIGS / 'compare_reflection.py')
  comparison = configs.read_comparison(path, ())
  found = [comparison.config(arm, 0) for arm in comparison.arms]
  path = str(CONFIGS / 'reflection_qwen05.py')
  here = {'model': 'small-middle'}.items()  # both models are to be had
  found.append(configs.read_config(f'{path}:small-late', here))
  monkeypatch.setattr(store, 'symbols_of', lambda name: None)  # all of Unicode
  for config in found:
    configs.check(config)
    keys = {k: v for k, v in config.method.items() if k != 'name'}
    filled(ReflectionTuning, keys).check(load_task(config.task))

"""CoT-Self-Instruct: what is written, labelled, kept and learned from."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from scripted import (
  CUT,
  TASK,
  Anchor,
  Scripted,
  by_text,
  collected_by,
  normalised,
  watched,
)
from whole_runs import cut, moved, promised, trained_by

from jaxdistill import config as configs
from jaxdistill import rewards
from jaxdistill.config.keys import filled
from jaxdistill.data.tasks import load_task
from jaxdistill.methods.cot_self_instruct import CotSelfInstruct
from jaxdistill.plots.report import outcome
from jaxdistill.rewards import FILTERS, Labelled, Rip
from jaxdistill.rollout.writing import parsed
from jaxdistill.run import records
from jaxdistill.types import Problem

ROOT = pathlib.Path(__file__).parents[1]
SEEDS = [Problem('1+2', TASK, '3', 'small'), Problem('4+5', TASK, '9', 'large')]
SEEDS = [dataclasses.replace(p, address=i) for i, p in enumerate(SEEDS)]
WRITING = {
  # Both are new.
  '1+2': [
    'Problem: 1+1\nProblem: 1+6\nAnswer: a=7',
    'Problem: 2+3\nAnswer: =6',
  ],
  # Held out; said by another before.
  '4+5': ['Problem: 9+1\nAnswer: =10', 'so. **Problem:** 1+6\n**Answer:** =8'],
}
VOTES = {
  'solve 1+6': ['a=7', 'b=07', 'a=8', f'a=7{CUT}'],  # half agree
  'solve 2+3': ['a=5', 'b=5', 'c=5', 'a=6'],
  'solve 4+4': ['a=8', 'a=9', 'a', 'x'],  # no majority
}
SURE = {'a': 0.9, 'b': 0.6, 'c': 0.2}  # P(yes) by the first letter


class Writer(Anchor):
  """Writes by the first problem that it is shown, and verifies by the first
  letter of a response."""

  def __init__(self, writing=WRITING, votes=VOTES):
    super().__init__()
    self.__dict__.update(writing=writing, votes=Scripted(votes), calls=[])

  def generate(self, prompts_P, sampling, key):
    self.calls.append((prompts_P, sampling))
    if not prompts_P or prompts_P[0].role == 'solver':
      return self.votes.generate(prompts_P, sampling, key)
    out, seen = [], {}
    for p in prompts_P:
      first = next(k for k in self.writing if f'1. {k}\n' in p.text)
      turn = seen[first] = seen.get(first, -1) + 1
      script = Scripted({p.text: [self.writing[first][turn]]})
      out += script.generate([p], sampling, key)
    return out

  def choose(self, prompts, choices):
    assert choices == ('Yes', 'No')
    yes = np.array([SURE[p.text.split('to it:\n')[1][0]] for p in prompts])
    return np.log(np.stack([yes, 1 - yes], 1)).reshape(-1, 2)


def run_of(step=0, state=None, problems=SEEDS, player=None, **changes):
  few = {'problems': 2, 'each': 2, 'build_steps': 1, 'votes': 4, 'samples': 4}
  few |= {'temperature': 1.0, 'filter': 'none'}
  method = filled(CotSelfInstruct, few | changes)
  player = player or Writer()
  players = {'policy': player, 'base': Anchor()}
  state = method.init() if state is None else state
  found = collected_by(method, players, problems, state, step)
  return found, player


def texts(chosen):
  return [x['text'] for x in chosen]


@pytest.mark.parametrize(
  ('text', 'wanted'),
  [
    ('Problem: 1+1', ('1+1', '')),
    ('as in problem: x\n**Problem:** 1+1\n\n**Answer:** 2', ('1+1', '2')),
    ('Problem: one\ntwo\nAnswer: 2\nAnswer: 3', ('one\ntwo', '2\nAnswer: 3')),
    ('### Problem: 1+1\n### Answer: 2', ('1+1', '2')),
    ('**Problem**: 1+1\n**Final Answer**: 2', ('1+1', '2')),
    (
      'Problem: what is the answer: 1 or 2?',
      ('what is the answer: 1 or 2?', ''),
    ),
    ('1+1', ('', '')),
    ('Problem:', ('', '')),
  ],
)
def test_what_a_writer_s_response_holds(text, wanted):
  assert rewards.written(text) == wanted


def test_rip_by_hand():
  assert rewards.rip([0.5, 0.25, np.nan, 1.0], [7, 3, 9, 5]) == (0.25, 3, 0.75)
  assert rewards.rip([0.5, 0.5], [7, 3]) == Rip(0.5, 7, 0.0)
  assert rewards.rip([np.nan] * 2, [7, 3]) is None


def made(share, own='7', least: float | None = 0.5):
  rip = None if least is None else Rip(least, 1, 0.0)
  return Labelled('', '7', share, own, rip)


def test_filters_by_hand():
  found = [
    *(made(0.5, '07', 0.2), made(0.51, None, 0.1), made(1.0, '8', None)),
    *(made(0.2, '7', 0.9), made(0.6, '7.0', 0.1), made(0.6, '7', 0.3)),
  ]

  def stays(name, level=0.0):
    return FILTERS[name](found, level).astype(int).tolist()

  assert stays('none') == [1] * 6
  assert stays('self_consistency', 0.5) == [0, 1, 1, 0, 1, 1]
  assert stays('answer_match') == [1, 0, 0, 1, 1, 1]
  assert stays('rip') == [1, 1, 0, 1, 1, 1]  # nobody has scored it
  assert stays('rip', 0.34) == [1, 1, 0, 1, 0, 1]  # 2 of 6; the later equal
  assert stays('rip', 0.5) == [1, 0, 0, 1, 0, 1]
  for keep in FILTERS.values():
    assert keep([], 0.5).shape == (0,) and keep([], 0.5).dtype == bool


def test_rip_drops_as_many_as_it_should_and_none_that_scores_above_a_kept():
  draws = np.random.default_rng(0)
  for n, level in (7, 0.25), (40, 0.25), (40, 0.5), (3, 0.1):
    least = draws.integers(0, 10, n) / 10
    stays = FILTERS['rip']([made(1.0, least=x) for x in least], level)
    assert (~stays).sum() == int(n * level)
    if not stays.all():
      assert least[~stays].max() <= least[stays].min()


def test_a_set_is_written_labelled_and_described():
  collected, player = run_of(max_problem_tokens=99, write_top_p=0.9)
  (asked, writing), (solved, voting) = player.calls
  assert [p.address for p in asked] == [0, 1, 2, 3]
  assert {p.role for p in asked} == {'proposer'}
  assert all('1. 1+2\n\n2. 4+5\n' in p.text for p in asked[:2])
  assert (writing.samples, writing.max_tokens, writing.top_p) == (1, 99, 0.9)
  assert writing.temperature == 0.6
  # What is held out or was said before is not asked.
  assert [(p.text, p.address) for p in solved] == [
    ('solve 1+6', 0),
    ('solve 2+3', 1),
  ]
  assert (voting.samples, voting.greedy) == (4, 0)
  first, second = collected.state['set']
  assert first == {
    **{'text': '1+6', 'label': '7', 'share': 0.5, 'own': '7'},
    **{'rip': None, 'known': '7'},
  }
  assert (second['share'], second['own']) == (0.75, '6')
  assert not collected.updates and collected.scored == 0
  words = [x for k in ('solve 1+6', 'solve 2+3') for x in VOTES[k]]
  words += [x for written in WRITING.values() for x in written]
  assert collected.tokens == sum(map(len, words))
  metrics = collected.metrics
  assert watched('cot_self_instruct') <= metrics.keys()
  rejected = [
    metrics[f'cot_self_instruct/{x}'] for x in ('held_out', 'repeated')
  ]
  assert rejected == [[0, 0, 1, 0], [0, 0, 0, 1]]
  assert metrics['cot_self_instruct/label_right'] == [1, 1]
  assert metrics['cot_self_instruct/set_share'] == [0.5, 0.75]
  told = collected.transcripts
  assert [x.get('rejected') for x in told] == [
    None,
    None,
    'held_out',
    'repeated',
  ]
  assert told[0]['proposal'] == WRITING['1+2'][0]
  assert (told[0]['vote'], told[0]['answers']) == ('7', ['7', '07', '8', None])
  assert [*map(outcome, told)] == ['right', 'right', *['rejected'] * 2]
  json.dumps(told)


@pytest.mark.parametrize(
  ('name', 'kept'),
  [
    ('none', ['1+6', '2+3']),
    ('self_consistency', ['2+3']),
    ('answer_match', ['1+6']),
    ('rip', ['1+6']),
  ],
)
def test_what_each_filter_keeps(name, kept):
  level = {'drop': 0.5} if name == 'rip' else {}
  collected, _ = run_of(filter=name, **level)
  assert texts(collected.state['set']) == kept
  assert texts(collected.state['found']) == ['1+6', '2+3']
  if name == 'rip':  # the worst of each: b=07, c=5; what was cut has no score
    rips = [x['rip'] for x in collected.state['found']]
    np.testing.assert_allclose([r[0] for r in rips], [0.6, 0.2], rtol=1e-6)
    np.testing.assert_allclose([r[2] for r in rips], [0.3, 0.7], rtol=1e-6)
    assert [r[1] for r in rips] == [4, 3] and collected.scored > 0


def test_a_writer_that_is_not_asked_answers_greedily():
  writing = {k: [x.split('\nAnswer')[0] for x in v] for k, v in WRITING.items()}
  writing['4+5'][1] = 'Problem: 1+6'
  votes = VOTES | {'solve 1+6': ['z=8', *VOTES['solve 1+6']]}
  votes |= {'solve 2+3': ['z=5', *VOTES['solve 2+3']]}
  for write in 'instruct', 'instruct_plainly':
    player = Writer(writing, votes)
    collected, _ = run_of(player=player, write=write, filter='answer_match')
    _, voting = player.calls[1]
    assert (voting.samples, voting.greedy) == (5, 1)
    (kept,) = collected.state['set']  # the greedy 8 is not the label 7
    assert (kept['text'], kept['own'], kept['share']) == ('2+3', '5', 0.75)


def test_sets_are_of_one_size_and_it_writes_on_until_they_are():
  collected, _ = run_of(keep=1)
  assert texts(collected.state['set']) == ['1+6']
  few = {'keep': 2, 'filter': 'self_consistency'}
  first, _ = run_of(**few)
  assert not first.state['set'] and not first.updates
  writing = {k: ['Problem: 3+2\nAnswer: =5', 'what?'] for k in WRITING}
  votes = VOTES | {'solve 3+2': ['a=5'] * 4}
  second, _ = run_of(1, first.state, player=Writer(writing, votes), **few)
  assert texts(second.state['set']) == ['2+3', '3+2'] and not second.updates
  third, _ = run_of(2, second.state, player=Writer(votes=votes), **few)
  assert third.updates and third.metrics['cot_self_instruct/passes'] == [0]


def test_too_few_after_twice_the_steps_are_said():
  few = {'keep': 2, 'filter': 'self_consistency'}
  first, _ = run_of(**few)
  with pytest.raises(ValueError, match=r"keep is 2; of 2 .* 1 pass .*'self_c"):
    run_of(1, first.state, **few)
  writing = {'1+2': ['Problem: 4+4\nAnswer: =8'] * 2, '4+5': ['what?'] * 2}
  first, _ = run_of(player=Writer(writing))
  with pytest.raises(ValueError, match='of 1 written problems 0 have a label'):
    run_of(1, first.state, player=Writer(writing))


def test_what_was_shown_or_written_before_is_not_asked_again():
  collected, _ = run_of(build_steps=2)
  assert not collected.state['set'] and len(collected.state['found']) == 2
  writing = {
    '1+2': ['Problem: 1+6\nAnswer: =7', 'Problem: 4+5\nAnswer: =9'],
    '4+5': ['Problem: 4+4\nAnswer: =8', f'Problem: 3+3\nAnswer: =6{CUT}'],
  }
  player = Writer(writing)
  collected, _ = run_of(1, collected.state, player=player, build_steps=2)
  assert [p.text for p in player.calls[1][0]] == ['solve 4+4']
  found = 'cot_self_instruct/repeated', 'cot_self_instruct/malformed'
  assert [collected.metrics[k] for k in found] == [[1, 1, 0, 0], [0, 0, 0, 1]]
  assert texts(collected.state['found']) == ['1+6', '2+3', '4+4']
  assert texts(collected.state['set']) == ['1+6', '2+3']  # one has no label


def test_the_set_is_learned_from_by_its_labels(tmp_path):
  state = {'found': [], 'seeds': [], 'order': [1, 2], 'built': 2}
  wrong = Labelled('1+6', '8', 0.6, known='7')
  right = Labelled('2+3', '5', 0.75, known='5', rip=Rip(0.1, 2, 0.3))
  kept = records.Records([x._asdict() for x in (wrong, right)])
  state['set'] = records.get(tmp_path, records.put(tmp_path, kept))
  player = Writer()
  collected, _ = run_of(3, state, player=player, build_steps=2)
  ((asked, sampling),) = player.calls
  assert [p.address for p in asked] == [0, 1] and sampling.samples == 4
  assert sorted(p.text for p in asked) == ['solve 1+6', 'solve 2+3']
  (update,) = collected.updates
  rows = by_text(update.sets[0].rows)
  paid = {  # the wrong label pays the third answer, the right one the first 3
    'solve 1+6': normalised(0, 0, 1, 0),
    'solve 2+3': normalised(1, 1, 1, 0),
  }
  assert len(rows) == 8
  for text, advantages in paid.items():
    for answer, advantage in zip(VOTES[text], advantages, strict=True):
      found = rows[f'{text}|{answer}'].fields['advantage']
      np.testing.assert_allclose(found, advantage, atol=1e-6)
  assert sum(collected.metrics['train/reward']) == 4
  assert sorted(collected.metrics['cot_self_instruct/trained_label_right']) == [
    *(0, 1)
  ]
  assert collected.metrics['cot_self_instruct/passes'] == [1.0]
  told = {x['problem']: x for x in collected.transcripts}
  assert (told['1+6']['known'], told['1+6']['vote']) == ('7', '8')
  assert [outcome(told[x]) for x in ('1+6', '2+3')] == ['wrong', 'right']
  assert collected.state is not None and len(collected.state['set']) == 2


def test_each_pass_has_all_of_the_set_once_in_an_order_of_its_own():
  kept = [Labelled(f'1+{i}', '7', 0.6)._asdict() for i in range(8)]
  votes = {f'solve 1+{i}': ['a=7', 'a=8'] * 2 for i in range(8)}
  state = {'set': kept, 'found': [], 'seeds': [], 'order': [3, 4], 'built': 1}
  orders = []
  for step in 1, 2, 3, 4, 5, 6, 7, 8:
    player = Writer(votes=votes)
    run_of(step, state, player=player)
    orders += [p.text for p in player.calls[0][0]]
  assert sorted(orders[:8]) == sorted(orders[8:]) == sorted(votes)
  assert orders[:8] != orders[8:]
  player = Writer(votes=votes)  # another seed goes through it otherwise
  run_of(1, state | {'order': [5, 6]}, player=player)
  assert [p.text for p in player.calls[0][0]] != orders[:2]
  # Another share of the step's problems has its own part of the same order.
  player = Writer(votes=votes)
  run_of(2, state, problems=SEEDS[1:], player=player)
  assert [p.text for p in player.calls[0][0]] == orders[3:4]


def test_a_host_without_problems_has_the_same_names():
  none, some = (run_of(problems=x, build_steps=2)[0] for x in ([], SEEDS))
  assert none.metrics.keys() == some.metrics.keys() and none.tokens == 0
  state = run_of()[0].state
  none, some = (run_of(1, state, problems=x)[0] for x in ([], SEEDS))
  assert none.metrics.keys() == some.metrics.keys()
  assert [s.fields for s in none.updates[0].sets] == [
    s.fields for s in some.updates[0].sets
  ]


@pytest.mark.parametrize(
  ('name', 'problem'),
  [
    ('arithmetic:add:3,3', '123 + 456'),
    ('words', 'Ada has 12 apples and buys 5 more. How many has she now?'),
  ],
)
def test_tasks_in_words_read_what_stands_behind_the_mark(name, problem):
  task = load_task(name)
  seed = Problem(problem, task, topic='x')
  for write in 'instruct', 'instruct_plainly', 'instruct_and_answer':
    asked = task.asking(write, seed, problem, 'another')
    assert f'1. {problem}\n\n2. another\n' in asked and '`Problem:`' in asked
    assert ('`Answer:`' in asked) == (write == 'instruct_and_answer')
  text, answer = rewards.written(f'I plan.\nProblem: {problem}\nAnswer: 579')
  found = parsed(task, text)
  assert found is not None and found.text == problem
  assert parsed(task, found.text) == found
  assert task.parse_answer(answer) == '579'


FEW = {
  **{'model': 'small-middle', 'steps': 2, 'eval_every': 2},
  **{'checkpoint_every': 1, 'eval.splits': ('test',), 'eval.problems': 4},
  **{'eval.samples': 2, 'eval.max_tokens': 24, 'guard.every': 0},
  **{'batch.length': 64, 'batch.sequences': 8, 'optimizer.warmup': 0},
  **{'method.write': 'propose', 'method.filter': 'none', 'method.kl': 0.0},
  **{'method.problems': 4, 'method.each': 4, 'method.build_steps': 1},
  **{'method.votes': 4, 'method.samples': 4, 'method.max_tokens': 24},
  **{'method.max_problem_tokens': 12, 'method.temperature': 1.0},
}


def test_what_is_cut_goes_on_as_if_it_had_not_been(mesh, tmp_path):
  def train(workdir):
    config = configs.base_config('cot_self_instruct')
    config.anchors = {}
    configs.override(config, FEW.items())
    return trained_by(config, tmp_path / workdir)

  whole, lines, before = train('whole')
  cut(tmp_path / 'whole', tmp_path / 'cut')
  again, more, built = train('cut')
  assert not moved(before, built)  # the set is built meanwhile
  assert again.first_step == 1
  assert [*map(promised, more)] == [*map(promised, lines)]
  assert not moved(whole.state.params, again.state.params)
  assert moved(before, again.state.params)
  assert 'train/loss' not in lines[0] and np.isfinite(lines[1]['train/loss'])
  assert lines[0]['cot_self_instruct/set_size'] == len(
    whole.method_state['set']
  )


@pytest.mark.parametrize(
  ('changes', 'line'),
  [
    ({'votes': 1}, 'method.votes is 1; it must be at least 2'),
    ({'write': 'instruckt'}, "nearest is 'instruct'"),
    ({'filter': 'answers_match'}, "nearest is 'answer_match'"),
    ({'filter': 'rip', 'scorer': 'yess'}, "nearest is 'yes'"),
    ({'filter': 'rip', 'drop': 1.0}, 'drop is 1.0; it must be a share'),
    ({'agreement': 0.4}, "is 0.4, which nothing reads.*'answer_match'"),
    ({'drop': 0.5}, 'drop is 0.5, which nothing reads'),
    ({'scorer': 'vote'}, "scorer is 'vote', which nothing reads"),
    ({'keep': 2049}, 'keep is 2049; only 2048 problems are written at most'),
    ({'problems': 1}, "problems is 1; 'instruct_and_answer' shows 2"),
    ({'minibatches': 999}, 'minibatches is 999; a step has 256 rows'),
    ({'each': 0}, 'each is 0; it must be positive'),
    ({'write_top_p': 0.0}, r'top_p 0.0 must be in \(0, 1\]'),
  ],
)
def test_what_cannot_be_is_said_in_one_line(changes, line):
  config = configs.base_config('cot_self_instruct')
  keys = {f'method.{k}': v for k, v in changes.items()}
  configs.override(config, keys.items())
  with pytest.raises(configs.ConfigError, match=line) as error:
    configs.check(config)
  assert '\n' not in str(error.value)


def test_a_task_that_cannot_be_asked_for_a_problem():
  config = configs.base_config('cot_self_instruct')
  with pytest.raises(configs.ConfigError, match="no words for 'instruct_and_"):
    configs.prepare(config)


def test_every_arm_of_the_comparison_can_be():
  comparison = configs.read_comparison(
    str(ROOT / 'configs' / 'compare_cot.py'), ()
  )
  own = [arm for arm in comparison.arms if arm in FILTERS]
  assert own == [*FILTERS]
  for arm in comparison.arms:
    configs.check(comparison.config(arm, 0))
    assert arm == 'self_play' or 64 in (
      comparison.config(arm, 0).pool,
      comparison.config(arm, 0).method.get('keep'),
    )

"""What the methods that learn from themselves or from teachers collect."""

import types

import numpy as np
import pytest
from scripted import CUT, KEY, TASK, Teacher, collected_by, said, words

from jaxdistill import rewards
from jaxdistill.config.keys import filled
from jaxdistill.data.tasks.small import SmallTask
from jaxdistill.data.text.symbols import SymbolTokenizer
from jaxdistill.methods.distillation import (
  Distillation,
  by_share,
  taught_rows,
)
from jaxdistill.methods.minillm import Minillm
from jaxdistill.methods.opsa import Opsa
from jaxdistill.methods.rft import Rft
from jaxdistill.methods.rlcsd import Rlcsd
from jaxdistill.methods.self_distill import SelfDistill
from jaxdistill.methods.teacher_distill import TeacherDistill
from jaxdistill.rollout.contexts import Case
from jaxdistill.types import Problem, Prompt

PROBLEMS = [
  Problem('1+6', TASK, '7', demonstration=('solve 1+6', 'r=7'), address=4),
  Problem('2+3', TASK, '5', demonstration=('solve 2+3', 'r=5'), address=5),
]
SCRIPT = {
  'solve 1+6': ['a=7', 'bb=8', 'bb=8', 'c=7'],
  'solve 2+3': ['a=6', 'b=6', f'c=5{CUT}', 'a=6'],
}
TOLD = 'A correct solution:'


class Policy(Teacher):
  """One whose entropies are by place; the teacher has its tokenizer."""

  def __init__(self, script):
    super().__init__(script)
    tokens = types.SimpleNamespace(vocabulary='')
    object.__setattr__(self, 'tokenizer', tokens)

  def entropies(self, rollouts, temperature=1.0):
    return [np.arange(len(r.tokens_T), dtype=np.float32) for r in rollouts]


class Undoubting(Policy):
  def written(self, prompt, response):
    return said(prompt, response)


def collect(kind, teacher=None, script=SCRIPT, **changes):
  method = filled(kind, {'problems': 2, 'samples': 4} | changes)
  players = {'policy': Policy(script), 'teacher': teacher or Teacher()}
  return collected_by(method, players, PROBLEMS, method.init())


def rows_of(collected, i=0):
  (update,) = collected.updates
  rows = update.sets[i].rows
  out = {f'{words(row)}~{read(row)}': row for row in rows}
  assert len(out) == len(rows)
  return out


def read(row):
  """What the teacher reads, without what every hinted prompt has."""
  if row.teacher_prompt_T is None:
    return None
  text = ''.join(map(chr, row.teacher_prompt_T))
  return text.partition(TOLD)[2].split('\n')[1] if TOLD in text else text


def test_self_distill_teaches_by_a_right_sibling():
  found = collect(SelfDistill)
  rows = rows_of(found)
  assert set(rows) == {
    'solve 1+6|a=7~c=7',
    'solve 1+6|bb=8~a=7',
    'solve 1+6|c=7~a=7',
  }
  twice = rows['solve 1+6|bb=8~a=7']  # said twice, trained once
  np.testing.assert_array_equal(twice.weight_R, [2, 2, 2, 2])
  assert twice.total == 8
  np.testing.assert_array_equal(twice.fields['old_logp'], [-0.5] * 4)
  assert found.metrics['train/taught'].tolist() == [1] * 4 + [0] * 4
  assert found.metrics['train/right'] == [1, 0, 0, 1, 0, 0, 0, 0]
  drawn = sum(len(x) for texts in SCRIPT.values() for x in texts)
  assert (found.tokens, found.scored) == (drawn, 3 + 4 + 3)
  (update,) = found.updates
  (taught,) = update.sets
  assert taught.taught and taught.kind == ''
  assert found.transcripts[1]['teacher'] == [None] * 4


def test_self_distill_teaches_by_the_reference():
  rows = rows_of(collect(SelfDistill, solution='reference'))
  assert {x.partition('~')[2] for x in rows} == {'r=7', 'r=5'}
  assert len(rows) == 6


def test_who_disagrees_with_the_vote_is_taught_by_it():
  sets = {'judge': 'vote', 'taught': 'wrong', 'context': 'answer'}
  script = SCRIPT | {'solve 1+6': ['a=7', 'bb=8', 'b=8', 'c=9']}
  found = collect(SelfDistill, script=script, **sets)
  rows = rows_of(found)
  assert {x.partition('~')[0] for x in rows} == {
    'solve 1+6|a=7',
    'solve 1+6|c=9',
    f'solve 2+3|c=5{CUT}',
  }
  told = ''.join(map(chr, rows[next(iter(rows))].teacher_prompt_T))
  assert 'The correct answer:\n8\n' in told  # what most said
  # Where all stand alone nobody knows, and nobody is taught.
  script = {asked: ['a=1', 'a=2', 'a=3', 'a=4'] for asked in SCRIPT}
  assert not rows_of(collect(SelfDistill, script=script, **sets))


def test_srpo_sends_the_wrong_to_the_teacher_and_the_others_to_the_verifier():
  found = collect(
    SelfDistill, taught='wrong', others=True, objective='dapo', entropy=0.0
  )
  taught, others = rows_of(found), rows_of(found, 1)
  assert set(taught) == {'solve 1+6|bb=8~a=7'}
  kept = {x.partition('~')[0] for x in others}
  assert kept == {
    *('solve 1+6|a=7', 'solve 1+6|c=7', 'solve 2+3|a=6', 'solve 2+3|b=6'),
    f'solve 2+3|c=5{CUT}',
  }
  advantages = rewards.group_normalised(np.array([1.0, 0, 0, 1]))
  row = others['solve 1+6|a=7~None']
  np.testing.assert_allclose(row.fields['advantage'], advantages[0])
  # The mean of each counts by its share of all tokens.
  share = 8 / sum(len(x) for texts in SCRIPT.values() for x in texts)
  np.testing.assert_allclose(
    taught['solve 1+6|bb=8~a=7'].weight_R, 2 * share, rtol=1e-6
  )
  np.testing.assert_allclose(row.weight_R, 1 - share, rtol=1e-6)
  assert others['solve 2+3|a=6~None'].total == 2 * len('a=6')
  assert [s.kind for s in found.updates[0].sets] == ['', 'other']


def test_unsure_teachers_count_less_and_all_count_one_on_average():
  teacher = Teacher()
  found = collect(
    SelfDistill,
    teacher,
    script=SCRIPT | {'solve 1+6': ['a=7', 'bb=8', 'd=9', 'c' * 9 + '=7']},
    entropy=2.0,
    temperature=0.5,
  )
  ((scored, temperature),) = teacher.scored
  assert temperature == 0.5
  weights, tokens = [], 0
  for r in scored:
    h = 0.01 * len(r.prompt_T)
    weights.append(np.exp(-2 * h))
    tokens += len(r.tokens_T)
  total = sum(w * len(r.tokens_T) for w, r in zip(weights, scored, strict=True))
  rows = rows_of(found)
  for w, r in zip(weights, scored, strict=True):
    row = next(x for x in rows.values() if words(x).endswith(f'|{r.text}'))
    np.testing.assert_allclose(row.weight_R, w * tokens / total, rtol=1e-5)
  assert len({round(w, 9) for w in weights}) > 1
  mean = sum(r.weight_R.sum() for r in rows.values()) / tokens
  assert mean == pytest.approx(1, rel=1e-5)
  assert found.scored == 2 * tokens


def test_answers_that_are_alike_are_asked_about_once():
  teacher = Teacher()
  script = SCRIPT | {'solve 1+6': ['a=7', 'a=7', 'a=7', 'bb=8']}
  found = collect(SelfDistill, teacher, script=script, entropy=2.0)
  ((scored, _),) = teacher.scored
  said = [r.text for r in scored if 'solve 1+6' in r.prompt.text]
  assert said == ['a=7', 'bb=8']
  (row,) = (r for r in rows_of(found).values() if words(r).endswith('|a=7'))
  alone = np.exp(-2 * 0.01 * len(row.teacher_prompt_T))
  other = next(r for r in rows_of(found).values() if words(r).endswith('|bb=8'))
  beside = np.exp(-2 * 0.01 * len(other.teacher_prompt_T))
  ratio = row.weight_R[0] / other.weight_R[0]
  assert ratio == pytest.approx(3 * alone / beside, rel=1e-5)


class Letters(SymbolTokenizer):
  """Each is its own code."""

  def encode(self, text):
    return [ord(letter) for letter in text]

  def decode(self, ids):
    return ''.join(map(chr, ids))


class Doubting(Policy):
  """Its likeliest token is always an `a`; `w` is how doubt begins."""

  markers = ('w',)

  def __init__(self, script):
    super().__init__(script)
    object.__setattr__(self, 'tokenizer', Letters(('<pad>', '<bos>', '<eos>')))

  def top(self, rollouts, k, temperature=1.0):
    assert k == 1
    ids = [np.full((len(r.tokens_T), 1), ord('a')) for r in rollouts]
    for x in ids:
      x[-1] = ord('W')  # but for the end
    return ids, [0.0 * x for x in ids]


def doubting(**changes):
  script = SCRIPT | {'solve 1+6': ['w a w=7', 'bb=8', 'bb=8', 'c=7']}
  policy = Doubting(script)
  method = filled(SelfDistill, {'problems': 2, 'samples': 4} | changes)
  players = {'policy': policy, 'teacher': Teacher()}
  return collected_by(method, players, PROBLEMS, {})


def test_words_of_doubt_are_spared():
  found = doubting(spare='markers')
  row = rows_of(found)['solve 1+6|w a w=7~c=7']
  np.testing.assert_array_equal(row.weight_R, [0, 1, 1, 1, 0, 1, 0])
  assert row.total == 7  # the others count as they did
  (update,) = doubting(spare='random').updates
  (random,) = (row for row in update.sets[0].rows if 'w a w' in words(row))
  assert random.weight_R.sum() == 4 and random.total == 7
  assert random.weight_R.tolist() != row.weight_R.tolist()
  spared = np.mean(found.metrics['train/spared'])
  assert spared == pytest.approx((3 + 7) / 42, abs=0.05)
  plain = doubting()
  assert not plain.metrics['train/spared'].any()


def test_right_answers_are_paid_less_their_brier_score():
  sure = rewards.confidences(['7', '8', '8.0', None, '7'])
  assert sure == [0.25, 0.25, 0.25, 0.0, 0.25]
  found = collect(SelfDistill, rewarded=0.5, calibration=1.0)
  taught, sets = found.updates[0].sets
  assert (taught.kind, sets.kind) == ('', 'rewarded')
  # 7, 8, 8, 7: each agrees with one of three others.
  paid = [1 - (1 / 3 - 1) ** 2, -((1 / 3) ** 2)]
  advantage = rewards.group_normalised(np.array([paid[0], paid[1]] * 2))
  rows = {words(row): row for row in sets.rows}
  for text, a in (('a=7', advantage[0]), ('bb=8', advantage[1])):
    row = rows[f'solve 1+6|{text}']
    np.testing.assert_allclose(row.fields['advantage'], a, rtol=1e-5)
    count = 2 if text == 'bb=8' else 1
    np.testing.assert_allclose(row.weight_R, 0.5 * count / len(text))


def test_being_right_never_pays_less_than_being_alone_and_wrong():
  script = {
    'solve 1+6': ['a=7', 'b=7', 'c=9', 'd', 'e=8', 'f=8'],
    'solve 2+3': ['a=6'] * 6,
  }

  def advantages(**changes):
    (_, sets) = (
      collect(SelfDistill, script=script, samples=6, rewarded=1.0, **changes)
      .updates[0]
      .sets
    )
    return {
      words(r).partition('|')[2]: r.fields['advantage'][0]
      for r in sets.rows
      if 'solve 1+6' in words(r)
    }

  plain, sure = advantages(), advantages(calibration=1.0)
  assert plain['a=7'] > plain['c=9'] == plain['e=8'] == plain['d']
  assert sure['a=7'] > sure['c=9'] == sure['d'] > sure['e=8']


def test_late_tokens_count_more():
  np.testing.assert_allclose(Distillation(late=0.0).weights(3), [1, 1, 1])
  weights = Distillation(late=1.0).weights(3)
  np.testing.assert_allclose(weights, [0.5, 1.0, 1.5], rtol=1e-6)
  assert Distillation(late=2.0).weights(7).mean() == pytest.approx(1)


def test_sets_count_by_their_tokens():
  rollout = said(Prompt('solver', 'x'), 'abc')
  (row,) = taught_rows([rollout], [np.ones(3, np.float32)], [None])
  (a,), (b,) = by_share([[row], [row]], [30, 10])
  np.testing.assert_allclose((a.weight_R[0], b.weight_R[0]), (0.75, 0.25))
  assert a.total == b.total == row.total == 3
  assert by_share([[], []], [0, 0]) == [[], []]


def said_by(rows):
  """Every response as often as its row weighs, in order."""
  said = []
  for row in rows:
    count = round(row.total / len(row.response_R))
    np.testing.assert_array_equal(row.weight_R, count)
    said += [words(row).partition('|')[2]] * count
  return sorted(said)


def test_rft_keeps_what_is_right_or_agrees_or_all():
  def kept(**changes):
    found = collect(Rft, **changes)
    (update,) = found.updates
    return said_by(update.sets[0].rows)

  everything = [x for texts in SCRIPT.values() for x in texts]
  assert kept(keep='known') == ['a=7', 'c=7']
  assert kept(keep='vote') == ['a=6', 'a=6', 'b=6']  # a tie keeps nobody
  assert kept(keep='all') == sorted(everything)
  assert kept(keep='all', most=2) == ['a=6', 'a=7', 'b=6', 'c=7']


def test_what_is_learned_without_its_doubts():
  doubtful = '7+5+0=02 wait 7+5+0=12,4+8+1=13;132'
  problem = Problem('47+85', SmallTask(), '132', address=1)
  policy = Undoubting({'solve 47+85:': [doubtful, '7+5+0=12,4+8+1=03;32']})
  method = Rft(problems=1, samples=2, keep='known', undoubting=True)
  found = collected_by(method, {'policy': policy}, [problem], {})
  ((row_set,),) = [u.sets for u in found.updates]
  assert said_by(row_set.rows) == ['7+5+0=12,4+8+1=13;132']
  assert found.metrics['train/kept'].tolist() == [1, 0]


def test_teacher_and_student_answer_their_share():
  many = [
    Problem('1+6', TASK, '7', address=i, demonstration=('', ''))
    for i in range(200)
  ]
  method = TeacherDistill(problems=200, on_policy=0.25)
  own, given = method._divided(many, KEY)
  assert 25 < len(own) < 75 and len(own) + len(given) == 200
  again, _ = method._divided(many[100:], KEY)  # by address, not by place
  late = [p.address for p in own if p.address >= 100]
  assert [p.address for p in again] == late
  none, _ = TeacherDistill(on_policy=0.0)._divided(many, KEY)
  _, left = TeacherDistill(on_policy=1.0)._divided(many, KEY)
  assert none == left == []


@pytest.mark.parametrize(
  ('judge', 'texts'),
  [
    ('none', ['a=7', 'bb=8', 'bb=8', 'c=7', 'a=6', 'b=6', 'c=5<cut>', 'a=6']),
    ('known', ['a=7', 'c=7']),
    ('vote', ['a=6', 'b=6', 'a=6']),
  ],
)
def test_a_judge_keeps_some_of_a_teachers_texts(judge, texts):
  found = collect(
    TeacherDistill,
    Teacher(SCRIPT),
    on_policy=0.0,
    learn='text',
    judge=judge,
  )
  drawn, given = found.updates[0].sets
  assert not drawn.rows and given.kind == 'given' and not given.taught
  assert said_by(given.rows) == sorted(texts)
  assert found.scored == 0
  assert np.mean(found.metrics['train/kept']) == len(texts) / 8


def test_opsa_by_hand():
  method = Opsa(part=0.4)
  logp = np.float32([-1.0, -5.0, -0.1, -3.0, -2.0])
  entropy = np.float32([9.0, 1.0, 9.0, 3.0, 9.0])
  trained, advantage = method.advantages(logp, entropy)
  np.testing.assert_array_equal(trained, [0, 1, 0, 1, 0])
  # Equation 5: -1/2 where it is surest of them, -1 where it is least sure.
  np.testing.assert_allclose(advantage, [0, -0.5, 0, -1.0, 0])
  _, up = Opsa(part=0.4, encourage=True).advantages(logp, entropy)
  np.testing.assert_allclose(up, -advantage)
  trained, advantage = Opsa(part=0.2).advantages(logp, entropy)
  np.testing.assert_allclose(advantage, [0, -1, 0, 0, 0])  # alone: as unsure
  rows = rows_of(collect(Opsa, part=0.5))
  row = rows['solve 1+6|bb=8~None']
  assert row.total == 2  # said twice
  np.testing.assert_allclose(row.weight_R, [1, 1, 0, 0])
  np.testing.assert_allclose(row.fields['advantage'], [-0.5, -1, 0, 0])


def test_rlcsd_by_hand():
  method = Rlcsd(strength=0.5, scale=0.1, threshold=0.1)
  contrast = np.array([0.0, 0.1, -0.1, 9.0, -9.0])
  r = 0.5 * np.tanh([0, 1, -1, 90, -90])
  for advantage in (0.2, -0.2, 2.0):
    moved, apart = method.modulated(advantage, contrast)
    assert apart.tolist() == [False, True, True, True, True]
    wanted = [advantage, *(advantage + r[1:])]
    side = np.maximum if advantage > 0 else np.minimum
    wanted = side(wanted, 0)
    np.testing.assert_allclose(moved, wanted)
  np.testing.assert_array_equal(method.modulated(0.0, contrast)[0], 0)


def test_rlcsd_weighs_a_right_hint_against_wrong_ones():
  teacher = Teacher()
  # The third says what the second does, which is no hint to either.
  script = {
    'solve 1+6': ['a=7', 'bb=8', 'bb=8', 'ccc=9', 'd=7'],
    'solve 2+3': ['a=6'] * 5,
  }
  found = collect(
    Rlcsd, teacher, script=script, samples=5, scale=1.0, threshold=0.0
  )
  ((scored, _),) = teacher.scored
  told = [(r.text, r.prompt.text) for r in scored]
  assert not any(said in asked for said, asked in told)
  lengths = [len(r.prompt_T) for r in scored]
  # Of the first answer: a right sibling, then three wrong ones.
  right, *wrong = (np.exp(-0.01 * n) for n in lengths[:4])
  contrast = np.log(right) - np.log(np.mean(wrong))
  a = rewards.group_normalised(np.array([1.0, 0, 0, 0, 1]))[0]
  row = rows_of(found)['solve 1+6|a=7~None']
  np.testing.assert_allclose(
    row.fields['advantage'], a + 0.5 * np.tanh(contrast), rtol=1e-5
  )
  # Alone in being right, it has no right hint.
  alone = {'solve 1+6': ['a=7', 'b=8', 'c=8'], 'solve 2+3': ['a=6'] * 3}
  lonely = collect(Rlcsd, script=alone, samples=3)
  rows = rows_of(lonely)
  a = rewards.group_normalised(np.array([1.0, 0, 0]))[0]
  np.testing.assert_allclose(rows['solve 1+6|a=7~None'].fields['advantage'], a)
  assert len(rows) == 3  # of the other sum none is right, and none is learned
  hinted = [len(rows[f'solve 1+6|{t}~None'].weight_R) for t in ('b=8', 'c=8')]
  assert len(lonely.metrics['train/contrast']) == sum(hinted)
  assert found.metrics['train/hinted'] == [1] * 5 + [0] * 5
  assert found.scored == sum(len(r.tokens_T) for r in scored)


def test_rlcsd_averages_two_kinds_of_tokens_apart():
  method = Rlcsd(apart=0.5)
  contrasts = [np.array([9.0, 0.0, 0.0]), np.array([0.0])]
  rollouts = [said(Prompt('solver', 'x'), text) for text in ('abc', 'd')]
  cases = [
    Case(PROBLEMS[0], r, 0, True, '7', 'r=7', ('a=8',)) for r in rollouts
  ]
  rows = method._rows(cases, np.array([1.0, -1.0]), contrasts)
  total = sum(row.total for row in rows)
  sums = np.zeros(2)
  for row, e in zip(rows, contrasts, strict=True):
    for k in (0, 1):
      chosen = (np.abs(e) > 0) == bool(k)
      sums[k] += row.weight_R[chosen].sum() / total
  np.testing.assert_allclose(sums, [1, 0.5])


def test_minillm_rewards_what_follows():
  rows = rows_of(collect(Minillm, Teacher(), gamma=1.0, normalised=False))
  row = rows['solve 1+6|bb=8~None']
  each = -0.01 * len('solve 1+6') + 0.5
  np.testing.assert_allclose(
    row.fields['advantage'], each * np.array([3, 2, 1, 0]), rtol=1e-5
  )

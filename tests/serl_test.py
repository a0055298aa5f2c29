"""SERL: one model answers and judges, and both are trained at once."""

import dataclasses
import json
import pathlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scripted import (
  CUT,
  KEY,
  Sums,
  collected_by,
  normalised,
  said,
  watched,
  words,
)
from whole_runs import cut, moved, promised, trained_by

from jaxdistill import config as configs
from jaxdistill.config.keys import filled
from jaxdistill.data.tasks import SmallTask
from jaxdistill.methods.method import check_task
from jaxdistill.methods.policy_gradient import PolicyGradient
from jaxdistill.methods.serl import Serl
from jaxdistill.rollout import judge as judges
from jaxdistill.rollout.player import Player
from jaxdistill.types import WORDINGS, Problem, Wording

K = 4
CONFIG = pathlib.Path(__file__).parents[1] / 'configs' / 'serl_small.py'
COMPARE = CONFIG.with_name('compare_serl.py')


def first(a, b):
  return 1


@dataclasses.dataclass(frozen=True)
class Judging(Sums):
  @property
  def wordings(self):
    asked = Wording('{text}?{0}|{1}', ('1', '2'))
    return {'judge': asked, 'compare': asked}


TASK = Judging()
PROBLEMS = [
  Problem('1+6', TASK, '7', address=4),
  Problem('2+3', TASK, '5', address=5),
]
SCRIPT = {
  'solve 1+6': ['a=7', 'a=8', 'aa=7', 'a=9'],
  'solve 2+3': ['a=5', 'a=5', f'a=6{CUT}', '<think>7</think> b=5'],
}


class Mind(Player):
  """Answers by a script; judges by what a function says of the two."""

  def __init__(self, verdict, script=SCRIPT):
    object.__setattr__(self, 'verdict', verdict)
    object.__setattr__(self, 'script', script)
    object.__setattr__(self, 'asked', [])

  def generate(self, prompts_P, sampling, key):
    self.asked.append((list(prompts_P), sampling))
    return [
      [said(p, text) for text in self.says(p, sampling.samples)]
      for p in prompts_P
    ]

  def says(self, prompt, samples):
    if prompt.role == 'solver':
      return self.script[prompt.text]
    return [str(self.verdict(*shown(prompt)))] * samples

  def choose(self, prompts, choices):
    assert list(choices) == ['1', '2'] or not prompts
    names = [self.verdict(*shown(p)) for p in prompts]
    return np.array([[-(n != 1), -(n != 2)] for n in names]).reshape(-1, 2)


def shown(prompt):
  return prompt.text.partition('?')[2].split('|')


def right(a, b):
  """Names the one that ends in 7 or 5, and else the later in the alphabet."""
  good = [x[-1] in '75' for x in (a, b)]
  return (1 if a > b else 2) if good[0] == good[1] else 1 + good[1]


def collect(verdict=right, step=1, problems=PROBLEMS, **changes):
  method = filled(Serl, {'problems': 2} | changes)
  mind = Mind(verdict)
  players = {'policy': mind}
  return collected_by(method, players, problems, method.init(), step), mind


def advantages(row_set):
  out = {}
  for row in row_set.rows:
    assert np.ptp(row.fields['advantage']) == 0
    out[words(row)] = (row.fields['advantage'][0], row.weight_R[0], row.total)
  return out


def test_two_kinds_in_one_update():
  collected, mind = collect()
  (update,) = collected.updates
  actor, judge = update.sets
  assert (actor.role, actor.kind) == ('solver', 'actor')
  assert (judge.role, judge.kind) == ('judge', 'judge')
  (solve, drawn), (asked, judging) = mind.asked
  assert (drawn.samples, judging.samples) == (4, 2)
  assert drawn.temperature == judging.temperature == 0.9
  assert {p.role for p in solve} == {'solver'}
  assert {p.role for p in asked} == {'judge'}
  assert len({p.address for p in asked}) == len(asked) == 12 + 4
  # Both orders of every pair of whole, different ones, without their thinking.
  texts = [p.text for p in asked]
  assert texts[:2] == ['1+6?a=7|a=8', '1+6?a=8|a=7']
  assert texts[12:] == ['2+3?a=5|b=5', '2+3?b=5|a=5'] * 2
  # 'aa=7' is outside the band of 'a=7' and of all others.
  worth = np.array([8, 0, 0, 4]) / 12
  means = normalised(*worth)
  found = advantages(actor)
  assert found['solve 1+6|a=7'] == pytest.approx((means[0], 1, 3), abs=1e-5)
  assert found['solve 1+6|aa=7'] == pytest.approx((means[2], 1, 4), abs=1e-5)
  # b beats both a; a loses; the whole ones beat the one that was cut.
  second = normalised(4 / 8, 4 / 8, 0, 1)
  assert found['solve 2+3|a=5'] == pytest.approx((second[0], 2, 6), abs=1e-5)
  assert found[f'solve 2+3|a=6{CUT}'][0] == pytest.approx(second[2], abs=1e-5)
  # All K verdicts on a pair agree with each other: nothing to learn there.
  assert judge.rows == []
  assert actor.coefficients['share'] == judge.coefficients['share'] == 0.5
  assert collected.tokens == sum(
    len(t) for texts in SCRIPT.values() for t in texts
  ) + 2 * len(asked)


def test_a_judge_learns_to_agree_with_the_ranking():
  def verdict(a, b):  # in doubt about one pair, in one order
    if (a, b) == ('a=8', 'a=7'):
      return next(doubts)
    return right(a, b)

  doubts = iter([1, 2])

  class Doubting(Mind):
    def says(self, prompt, samples):
      if prompt.role == 'solver':
        return self.script[prompt.text]
      return [str(self.verdict(*shown(prompt))) for _ in range(samples)]

  method = filled(Serl, {'problems': 2})
  players = {'policy': Doubting(verdict)}
  collected = collected_by(method, players, PROBLEMS, method.init())
  judge = advantages(collected.updates[0].sets[1])
  # In order (7, 8): 1, 1; in order (8, 7): 1 is against the ranking.
  plus, *_, minus = normalised(1, 1, 1, -1)
  assert judge == {
    '1+6?a=7|a=8|1': pytest.approx((plus, 2, 2), abs=1e-5),
    '1+6?a=8|a=7|1': pytest.approx((minus, 1, 1), abs=1e-5),
    '1+6?a=8|a=7|2': pytest.approx((plus, 1, 1), abs=1e-5),
  }


def test_verdicts_that_cannot_be_read_lose_and_are_missing_not_wrong():
  answers = {('a=7', 'a=8'): 'both', ('a=8', 'a=7'): f'2{CUT}'}

  class Vague(Mind):
    def says(self, prompt, samples):
      if prompt.role == 'judge' and tuple(shown(prompt)) in answers:
        return ['so 1', answers[tuple(shown(prompt))]]
      return super().says(prompt, samples)

  method = filled(Serl, {'problems': 2})
  players = {'policy': Vague(right)}
  collected = collected_by(method, players, PROBLEMS, method.init())
  told = collected.transcripts[0]['judgments'][:4]
  # One verdict for each, by place: the pair turns, and pays nobody, not even
  # less for what cannot be read.
  assert [t['wins'] for t in told] == [1, None, 2, None]
  assert [(t['void'], t['reward']) for t in told] == [(True, 0.0)] * 4
  unread = collected.metrics['serl/judge_unread']
  assert unread.sum() == 2 and len(unread) == 32
  assert len(collected.metrics['serl/judge_first']) == 30

  method = filled(Serl, {'problems': 2, 'orders': 'both'})
  collected = collected_by(
    method, {'policy': Vague(right)}, PROBLEMS, method.init()
  )
  told = collected.transcripts[0]['judgments'][:4]
  assert [t['reward'] for t in told] == [1, -1, -1, -1]


def test_a_biased_judge_trains_nobody():
  collected, _ = collect(lambda a, b: 1, problems=PROBLEMS[:1])
  actor, judge = collected.updates[0].sets
  assert actor.rows == judge.rows == []
  assert collected.metrics['serl/void'] == [1] * 24
  assert collected.metrics['serl/judge_flips'].tolist() == [1] * 24
  loose, _ = collect(lambda a, b: 1, problems=PROBLEMS[:1], orders='both')
  assert all(s.rows for s in loose.updates[0].sets)


def test_one_order_only():
  collected, mind = collect(orders='one')
  (asked, sampling) = mind.asked[1]
  assert [p.text for p in asked][:2] == ['1+6?a=7|a=8', '1+6?a=7|aa=7']
  assert len(asked) == 8 and sampling.samples == 4
  assert collected.metrics['serl/judge_flips'].size == 0


def test_how_the_two_share_the_loss():
  def shares(step, **changes):
    sets = collect(step=step, **changes)[0].updates[0].sets
    return [s.coefficients['share'] for s in sets]

  assert shares(1, share=0.2) == [0.2, 0.8]
  grown = [shares(s, ramp=4)[0] for s in (0, 1, 2, 4, 9)]
  assert grown == [0, 0.125, 0.25, 0.5, 0.5]  # min(step / 8, 1 / 2)


def test_whom_controls_pay():
  def paid(verdict, **changes):
    collected, _ = collect(verdict, **changes)
    return [t['rewards'] for t in collected.transcripts]

  def wrong(a, b):
    return 3 - right(a, b)

  truth = paid(wrong, verdicts='known')[0]
  np.testing.assert_allclose(truth, [8 / 12, 0, 0, 0])  # 'aa=7' is too long
  assert paid(wrong)[0] != truth
  tossed = [paid(right, verdicts='random') for _ in range(2)]
  assert tossed[0] == tossed[1]  # by the key, not by chance


def test_what_is_reported():
  collected, _ = collect(step=0)
  assert watched('serl') <= collected.metrics.keys()
  seen = {k: np.mean(v) for k, v in collected.metrics.items() if len(v)}
  assert seen['serl/accuracy'] == 5 / 8  # one was cut
  assert seen['serl/judge_accuracy'] == 1
  assert seen['serl/judge_first'] == 0.5 and seen['serl/judge_flips'] == 0
  # 7 against 8 and 9 is ranked well; 'aa=7' ties with 8 and loses to 9.
  assert seen['serl/ranked'] == pytest.approx((1 + 1 + 0.5 + 0 + 3) / 7)
  assert seen['serl/judge_longer'] == 1  # 'aa=7' wins each time
  first, second = collected.transcripts
  assert first['problem'] == '1+6' and first['answers'] == ['7', '8', '7', '9']
  assert first['judgments'][0] == {
    **{'shown': [1, 2], 'wins': 1, 'void': False, 'reward': 1.0, 'text': '1'},
  }
  assert len(second['judgments']) == 8


BASE = {k: [f'{t[:-1]}0' for t in v] for k, v in SCRIPT.items()}


def test_a_fixed_judge_compares_with_the_beginning():
  policy, base = Mind(None), Mind(right, BASE)
  found = Serl().against({'policy': policy, 'beginning': base}, PROBLEMS, KEY)
  # The base says 0 in every answer's place, which is no better than anything;
  # only what was cut loses, and the judge is not asked about it.
  assert found['win_rate'].tolist() == [1, 1, 1, 1, 1, 1, 0, 1]
  assert found['win_flips'].tolist() == [0] * 7
  # Both are asked alike, and the policy judges what the base has said: nothing
  # that is right, so that no pair is labelled.
  assert [s for _, s in policy.asked[:1]] == [s for _, s in base.asked]
  assert found['fixed_labelled'] == [0, 0]
  other = Mind(lambda a, b: 3 - right(a, b))
  players = {'policy': policy, 'beginning': base, 'examiner': other}
  lost = Serl(examiner='model:small-wide').against(players, PROBLEMS, KEY)
  assert not lost['win_rate'].any()


def test_the_judge_on_pairs_that_stay():
  """The policy's own responses are all alike; the base's are labelled."""
  same = Mind(right, {k: ['a=1'] * len(v) for k, v in SCRIPT.items()})
  players = {'policy': same, 'beginning': Mind(first)}
  found = Serl().against(players, PROBLEMS, KEY)
  assert found['fixed_labelled'] == [1, 0]
  assert found['fixed_judge_accuracy'].tolist() == [1, 1]
  assert Serl().evaluate(same, PROBLEMS, KEY)['labelled'] == [0, 0]


def test_a_contest_by_hand():
  def by(verdict, own, other):
    found = judges.contest(Mind(verdict), PROBLEMS[:1], [own], [other])
    return [values.tolist() for values in found.values()]

  own, other = ['b', 'a', None, 'c', None], ['a', 'b', 'd', None, None]
  later = by(lambda a, b: 1 if a > b else 2, own, other)
  assert later == [[1, 0, 0, 1, 0.5], [0, 0]]
  # Its odds for the first place cancel: a draw, and it turns both times.
  assert by(first, own, other) == [[0.5, 0.5, 0, 1, 0.5], [1, 1]]
  assert by(first, ['a'], ['a']) == [[0.5], []]
  nobody = judges.contest(Mind(first), [], [], [])
  assert {k: v.size for k, v in nobody.items()} == {
    'win_rate': 0,
    'win_flips': 0,
  }


def test_a_host_without_problems_says_the_same_names():
  alone, mind = collect(step=0, problems=[])
  assert [len(prompts) for prompts, _ in mind.asked] == [0, 0]
  assert alone.metrics.keys() == collect(step=0)[0].metrics.keys()
  assert [s.rows for s in alone.updates[0].sets] == [[], []]
  names = Serl().evaluate(Mind(right), [], KEY).keys()
  assert names == Serl().evaluate(Mind(right), PROBLEMS, KEY).keys()


def test_the_judge_on_labelled_pairs():
  def seen(verdict):
    mind = Mind(verdict)
    found = Serl().evaluate(mind, PROBLEMS, KEY)
    return mind, {k: np.asarray(v).tolist() for k, v in found.items()}

  mind, found = seen(right)
  asked, sampling = mind.asked[1]
  assert [p.text for p in asked] == ['1+6?a=7|a=8', '1+6?a=8|a=7']
  assert (sampling.samples, sampling.greedy) == (1, 1)
  # Of 2+3 the only wrong one was cut: it is no wrong answer, but none.
  assert found['labelled'] == [1, 0]
  assert found['judge_accuracy'] == [1, 1] and found['judge_flips'] == [0, 0]
  _, found = seen(first)
  assert found['judge_accuracy'] == [1, 0] and found['judge_flips'] == [1, 1]
  assert found['judge_first'] == [1, 1] and found['judge_unread'] == [0, 0]
  _, found = seen(lambda a, b: 'none')
  assert found['judge_unread'] == [1, 1] and found['judge_accuracy'] == []
  unknown = [dataclasses.replace(p, answer=None) for p in PROBLEMS]
  assert Serl().evaluate(Mind(right), unknown, KEY)['labelled'] == [0, 0]


def test_a_judge_may_give_its_reasons():
  wording = WORDINGS['judge']
  assert wording.read('Answer 2 adds up to 12.\n1') == '1'
  assert wording.read('neither') is None
  asked = Sums().asking('judge', Problem('1+6', Sums()), '{7}', 'eight')
  assert '{7}' in asked and 'eight' in asked and 'solve 1+6' in asked


@pytest.mark.parametrize(
  ('changes', 'told'),
  [
    ({'samples': 1}, 'samples is 1; a pair needs 2'),
    ({'judgments': 3}, 'judgments is 3; it must be even'),
    ({'orders': 'on'}, "orders is 'on'.*nearest is 'one'"),
    ({'ask': 'judges'}, "ask is 'judges'.*nearest is 'judge'"),
    ({'verdicts': 'knwn'}, "verdicts is 'knwn'.*nearest is 'known'"),
    ({'share': 1.5}, r'share is 1.5; it must be in \[0, 1\]'),
    ({'band': 2.0}, 'band is 2.0'),
    ({'examiner': 'every:3'}, 'examiner is .every:3.; it must be frozen or'),
    ({'examiner': 'model:small-wid'}, 'small-wide'),
    ({'overlong': 4}, 'overlong is 4.*method.band'),
    ({'judge_tokens': 0}, 'judge_tokens is 0'),
  ],
)
def test_what_cannot_be_is_said_in_one_line(changes, told):
  keys = {f'method.{k}': v for k, v in changes.items()}
  config = configs.read_config(str(CONFIG), keys.items())
  with pytest.raises(configs.ConfigError, match=told) as error:
    configs.check(config)
  assert '\n' not in str(error.value)


def test_every_arm_of_the_comparison_is_one():
  comparison = configs.read_comparison(str(COMPARE), ())
  for arm in comparison.arms:
    configs.check(comparison.config(arm, 0))


def test_a_task_that_cannot_be_asked_is_found_before_a_model_is_loaded():
  with pytest.raises(ValueError, match="small has no words for 'judge'"):
    check_task(Serl(), SmallTask())
  check_task(Serl(ask='compare'), SmallTask())
  with pytest.raises(ValueError, match="no words for 'compare'"):
    check_task(Serl(ask='compare'), Wordless())


class Wordless(Sums):
  @property
  def wordings(self):
    return {}


FEW = {
  **{'steps': 2, 'eval_every': 2, 'checkpoint_every': 1},
  **{'eval.splits': ('test',), 'eval.problems': 8, 'eval.samples': 2},
  **{'eval.max_tokens': 24, 'batch.length': 96, 'batch.sequences': 8},
  **{'method.problems': 8, 'method.max_tokens': 40},
  'optimizer.warmup': 0,
}


@pytest.fixture
def trained(mesh, tmp_path):
  def train(workdir='run', **keys):
    config = configs.read_config(str(CONFIG), (FEW | keys).items())
    return trained_by(config, tmp_path / workdir)

  return train


def test_it_learns_and_goes_on_where_it_was_cut(trained, tmp_path):
  whole, lines, before = trained()
  assert moved(before, whole.state.params)
  assert whole.run.loaded.model.deltas.roles == ('solver', 'judge')
  # What is of the whole step is said once.
  assert {'train/actor_clipped', 'train/grad_norm'} <= lines[0].keys()
  assert 'train/actor_grad_norm' not in lines[0]
  for line in lines[:2]:
    parts = line['train/actor_loss'] + line['train/judge_loss']
    assert line['train/loss'] == pytest.approx(parts, abs=1e-6)
    assert line['serl/judge_reward'] == pytest.approx(
      np.mean([t['reward'] for t in judgments_of(tmp_path, line['step'])])
    )
  seen = [line['eval/test/win_rate'] for line in (lines[0], lines[-1])]
  assert seen[0] == pytest.approx(0.5, abs=0.25)  # itself
  assert seen[0] != seen[1]
  assert 0 <= lines[0]['eval/test/labelled'] <= 1
  cut(tmp_path / 'run', tmp_path / 'cut')
  again, more, _ = trained('cut')
  assert again.first_step == 1
  assert [*map(promised, more)] == [*map(promised, lines)]
  assert not moved(whole.state.params, again.state.params)


def judgments_of(root, step):
  lines = (root / 'run' / 'rollouts' / f'{step:06d}.jsonl').read_text()
  return [
    t for line in lines.splitlines() for t in json.loads(line)['judgments']
  ]


class Eight(PolicyGradient):
  def loss(self, model, batch):
    return np.full((1, 2), 8.0), {}


def test_a_loss_counts_its_share():
  batch: Any = SimpleNamespace(coefficients={'share': 0.25})
  model: Any = None
  values, _ = Serl(policy=Eight()).loss(model, {}, batch)
  assert values.tolist() == [[2, 2]]

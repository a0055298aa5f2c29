"""Temporal self-rewarding: whose responses are paired, and what is learned."""

import dataclasses
import json
import math
import pathlib

import jax
import numpy as np
import pytest
from scripted import CUT, KEY, TASK, Teacher, collected_by, said, watched, words
from whole_runs import cut, moved, promised, trained_by

from jaxdistill import config as configs
from jaxdistill.config import ConfigError
from jaxdistill.config.keys import filled
from jaxdistill.data.tasks.small import SmallTask
from jaxdistill.methods.temporal_self_reward import TemporalSelfReward
from jaxdistill.rewards import Judged, pair_metrics, preference_pair
from jaxdistill.rollout import Player
from jaxdistill.rollout.judges import SCORERS
from jaxdistill.types import Problem, Prompt

PROBLEMS = [
  Problem('1+6', TASK, '7', address=4),
  Problem('2+3', TASK, '5', address=5),
]
OWN = {'solve 1+6': ['a=7', 'b=8', 'c=9'], 'solve 2+3': ['d=5', 'e=5', 'f=6']}
PAST = {'solve 1+6': ['g=1', 'h=7', 'i=2'], 'solve 2+3': ['j=9', 'k=8', 'l=5']}
FUTURE = {
  'solve 1+6': ['m=7', 'n=7', 'o=8'],
  'solve 2+3': ['p=5', 'q=5', 'r=6'],
}
# P(yes) of each. 1+6: the past's worst and the future's best are beyond all of
# now; 2+3: they only equal them.
SURE = dict(
  **{'a=7': 0.6, 'b=8': 0.3, 'c=9': 0.5, 'd=5': 0.7, 'e=5': 0.4, 'f=6': 0.2},
  **{'g=1': 0.4, 'h=7': 0.8, 'i=2': 0.1, 'j=9': 0.2, 'k=8': 0.3, 'l=5': 0.9},
  **{'m=7': 0.7, 'n=7': 0.9, 'o=8': 0.0, 'p=5': 0.7, 'q=5': 0.1, 'r=6': 0.3},
)


class Policy(Teacher):
  """Judges by `sure`, and says what the `future` has once it has learned."""

  def __init__(self, script=OWN, future=FUTURE, sure=SURE):
    super().__init__(script)
    for name, value in (('future', future), ('sure', sure)):
      object.__setattr__(self, name, value)
    for name in ('learned', 'asked_about'):
      object.__setattr__(self, name, [])

  def choose(self, prompts, choices):
    assert choices == ('Yes', 'No') or not prompts
    said = [p.text.split('An answer to it:\n')[1] for p in prompts]
    said = [text.split('\n\nIs this')[0] for text in said]
    self.asked_about.append(said)
    p = np.clip([self.sure[text] for text in said], 1e-6, 1 - 1e-6)
    return np.log(np.stack([p, 1 - p], -1)).reshape(-1, 2)

  def adapted(self, sets_E, loss, optimizer, steps, **more):
    self.learned.append((sets_E, loss, optimizer, steps, more))
    return [Teacher(self.future)]


def collect(policy=None, problems=PROBLEMS, **changes):
  keys = {'problems': 2, 'samples': 3, 'judge': 'yes'} | changes
  method = filled(TemporalSelfReward, keys)
  players = {'policy': policy or Policy()}
  if method.past:
    players['earlier'] = Teacher(PAST)
  return collected_by(method, players, problems, method.init())


def pairs_of(row_set):
  """`chosen > rejected` of each pair."""
  out = {}
  for row in row_set.rows:
    (sign,) = {*row.fields['sign'].tolist()}
    out.setdefault(row.pair, {})[sign] = words(row)
  return [f'{pair[1.0]} > {pair[-1.0]}' for pair in out.values()]


def learned(collected):
  (update,) = collected.updates
  (row_set,) = update.sets
  return row_set


ARMS = {
  'neither': {'past': '', 'future': False},
  'past': {'future': False},
  'future': {'past': ''},
  'both': {},
}


@pytest.mark.parametrize(
  ('arm', 'first'),
  {
    'neither': 'solve 1+6|a=7 > solve 1+6|b=8',
    'past': 'solve 1+6|a=7 > solve 1+6|i=2',
    'future': 'solve 1+6|n=7 > solve 1+6|b=8',
    'both': 'solve 1+6|n=7 > solve 1+6|i=2',
  }.items(),
)
def test_rejected_of_the_past_and_chosen_of_the_future(arm, first):
  collected = collect(**ARMS[arm])
  # What merely equals one's own is not taken.
  own = 'solve 2+3|d=5 > solve 2+3|f=6'
  assert pairs_of(learned(collected)) == [first, own]
  metrics = collected.metrics
  assert watched('tsr') <= metrics.keys()
  gap = {'neither': 0.3, 'past': 0.5, 'future': 0.6, 'both': 0.8}[arm]
  np.testing.assert_allclose(metrics['tsr/score_gap'], [gap, 0.5], atol=1e-6)
  np.testing.assert_allclose(metrics['tsr/own_gap'], [0.3, 0.5], atol=1e-6)
  past, future = arm in ('past', 'both'), arm in ('future', 'both')
  assert metrics['tsr/past_rejected'] == [float(past), 0]
  assert metrics['tsr/future_chosen'] == [float(future), 0]
  assert metrics['tsr/pairs'] == [1, 1]


def test_rows_by_hand():
  rows = learned(collect(past='', future=False, max_tokens=9)).rows
  chosen, rejected = rows[:2]
  assert (chosen.pair, rejected.pair, rows[2].pair) == (0, 0, 1)
  np.testing.assert_allclose(chosen.weight_R, [1 / 6] * 3)
  assert chosen.total == rejected.total == 0.5
  np.testing.assert_array_equal(chosen.fields['sign'], [1] * 3)
  np.testing.assert_array_equal(rejected.fields['sign'], [-1] * 3)
  # The policy itself is the reference: by the length of the prompt.
  np.testing.assert_allclose(chosen.fields['old_logp'], -0.09, atol=1e-7)


def test_each_half_is_counted_by_its_own_length():
  longer = OWN | {'solve 1+6': ['aaaaa=7', 'b=8', 'b=8']}
  sure = SURE | {'aaaaa=7': 0.6}
  rows = learned(collect(Policy(longer, sure=sure), past='')).rows[:2]
  assert [len(row.response_R) for row in rows] == [3, 3]  # of the future
  rows = learned(
    collect(Policy(longer, sure=sure), past='', future=False)
  ).rows[:2]
  assert [len(row.response_R) for row in rows] == [7, 3]
  assert sum(row.weight_R.sum() for row in rows) == pytest.approx(1)
  for row in rows:
    np.testing.assert_allclose(row.weight_R, 0.1, rtol=1e-6)


def test_the_future_self_learns_the_first_pairs_and_is_judged_by_now():
  policy = Policy()
  collected = collect(policy, future_lr=0.5, future_steps=3, future_rank=2)
  (((first,), loss, optimizer, steps, more),) = policy.learned
  assert pairs_of(first) == [
    'solve 1+6|a=7 > solve 1+6|i=2',
    'solve 2+3|d=5 > solve 2+3|f=6',
  ]
  assert first.paired and first.fields == learned(collected).fields
  assert (optimizer.lr, steps, more['rank']) == (0.5, 3, 2)
  assert loss.__name__ == 'loss'
  now, later = policy.asked_about  # each response once
  assert {*now} == {t for x in (OWN, PAST) for ts in x.values() for t in ts}
  assert {*later} == {t for ts in FUTURE.values() for t in ts}
  (update,) = collected.updates
  assert update.fresh_optimizer and collected.adopt is None


def test_plain_self_rewarding_asks_nobody_else():
  method = filled(TemporalSelfReward, {**ARMS['neither']})
  assert method.anchors == {}
  with_past = filled(TemporalSelfReward, {'past': 'every:3'})
  assert with_past.anchors['earlier'].rule == 'every:3'
  policy = Policy()
  collected = collect(policy, **ARMS['neither'])
  assert not policy.learned and len(policy.asked_about) == 1
  assert collected.tokens == 2 * 3 * 3
  assert collect().tokens == 3 * 2 * 3 * 3


def judged(**scores):
  """By source its scores; each response answers with its place."""
  flat = [(by, score) for by, of in scores.items() for score in of]
  return [
    Judged(by, said(Prompt('solver', 'q'), str(i)), float(score))
    for i, (by, score) in enumerate(flat)
  ]


def test_no_text_is_better_than_itself():
  first, second = judged(own=[0.9, 0.1])
  again = second._replace(rollout=first.rollout)
  assert preference_pair([first, again]) is None
  (worse,) = judged(past=[0.3])
  other = worse._replace(rollout=second.rollout)
  assert preference_pair([first, again, other]) == (first, other)


NAN = math.nan


@pytest.mark.parametrize(
  ('scores', 'pair'),
  [
    # Nothing is learned of what a judge cannot tell apart.
    ({'own': [0.5, 0.5, 0.5]}, None),
    ({'own': [0.5, 0.5], 'past': [0.5], 'future': [0.5]}, None),
    ({'own': [NAN, NAN]}, None),
    ({'own': [0.5, NAN]}, None),
    ({'own': []}, None),
    # The past's is taken if worse, though one's own differ too; else not.
    ({'own': [0.5, 0.4], 'past': [0.3, 0.6]}, (0, 2)),
    ({'own': [0.5, 0.4], 'past': [0.4, 0.6]}, (0, 1)),
    ({'own': [0.5, 0.4], 'past': [0.45, 0.6]}, (0, 1)),
    # One's own are all alike: only the past, or the future, makes a pair.
    ({'own': [0.5, 0.5], 'past': [0.3]}, (0, 2)),
    ({'own': [0.5, 0.5], 'future': [0.3, 0.7]}, (3, 0)),
    # The future is never rejected and the past never chosen.
    ({'own': [0.5, 0.4], 'past': [0.9], 'future': [0.1]}, (0, 1)),
    # None of one's own has a score.
    ({'own': [NAN], 'past': [0.1], 'future': [0.6]}, (2, 1)),
    ({'own': [NAN], 'future': [0.6, 0.1]}, None),
    # Of equal ones the first.
    ({'own': [0.2, 0.9, 0.2, 0.9]}, (1, 0)),
    ({'own': [0, 10]}, (1, 0)),
  ],
)
def test_pairs_by_hand(scores, pair):
  judged_G = judged(**scores)
  found = preference_pair(judged_G)
  if pair is None:
    assert found is None
  else:
    assert found is not None
    assert all(half is judged_G[i] for half, i in zip(found, pair, strict=True))


def test_what_is_cut_has_no_score_and_is_in_no_pair():
  cut = {'solve 1+6': ['a=7', f'z{CUT}', 'c=9'], 'solve 2+3': [f'x{CUT}'] * 3}
  collected = collect(Policy(cut), past='', future=False)
  assert pairs_of(learned(collected)) == ['solve 1+6|a=7 > solve 1+6|c=9']
  assert collected.metrics['tsr/pairs'] == [1, 0]
  told = [*map(json.dumps, collected.transcripts)]  # NaN is no JSON
  assert not any('NaN' in line for line in told)
  scores = collected.transcripts[0]['scores']
  assert scores[1] is None and scores[0] == pytest.approx(0.6)


def test_a_step_without_a_pair_has_a_set_without_rows():
  flat = dict.fromkeys(SURE, 0.5)
  collected = collect(Policy(sure=flat))
  assert learned(collected).rows == []
  assert collected.metrics['tsr/pairs'] == [0, 0]
  assert collected.metrics['tsr/score_gap'] == []


def test_a_host_without_problems_makes_the_same_calls_and_names():
  policy = Policy()
  nothing = collect(policy, problems=[])
  assert len(policy.learned) == 1 and len(policy.asked_about) == 2
  assert len(policy.scored) == 2
  assert nothing.metrics.keys() == collect().metrics.keys()
  assert not any(len(x) for x in nothing.metrics.values())
  assert nothing.transcripts == [] and nothing.tokens == 0


def test_what_is_observed_by_hand():
  metrics = collect(past='', future=False).metrics
  # 1+6: .6 is right, .3 and .5 wrong; 2+3: .7 and .4 are right, .2 wrong.
  assert metrics['tsr/judge_auc'] == [1, 1, 1, 1]
  assert metrics['tsr/chosen_right'] == [1, 1]
  assert metrics['tsr/rejected_right'] == [0, 0]
  assert metrics['tsr/unread'] == []  # nothing was written
  wrong = SURE | {'b=8': 0.9, 'c=9': 0.6}
  metrics = collect(Policy(sure=wrong), past='', future=False).metrics
  assert metrics['tsr/judge_auc'] == [0, 0.5, 1, 1]
  assert metrics['tsr/chosen_right'] == [0, 1]
  unknown = [dataclasses.replace(p, answer=None) for p in PROBLEMS]
  metrics = collect(problems=unknown).metrics
  assert metrics['tsr/judge_auc'] == metrics['tsr/chosen_right'] == []
  assert len(metrics['tsr/score_gap']) == 2


def test_a_judge_that_likes_length_is_paid_and_seen():
  """Nothing here holds it back, as nothing does in the paper."""
  script = {
    'solve 1+6': ['a=7', 'aa=8', 'aaaa=9'],
    'solve 2+3': ['b=5', 'bb=5', 'bbbbb=6'],
  }
  texts = [t for texts in script.values() for t in texts]
  sure = {text: len(text) / 10 for text in texts}
  collected = collect(Policy(script, sure=sure), past='', future=False)
  assert collected.metrics['tsr/chosen_length'] == [6, 7]
  assert collected.metrics['tsr/rejected_length'] == [3, 3]
  assert collected.metrics['tsr/chosen_right'] == [0, 0]
  assert np.mean(collected.metrics['tsr/judge_auc']) == 0


def test_transcripts_tell_who_said_what_and_what_was_taken():
  first, _ = collect().transcripts
  assert first['by'] == ['own'] * 3 + ['past'] * 3 + ['future'] * 3
  taken = {
    name: [
      t
      for t, x in zip(first['texts'], first['paired'], strict=True)
      if x == name
    ]
    for name in ('chosen', 'rejected')
  }
  assert taken == {'chosen': ['n=7'], 'rejected': ['i=2']}


def test_a_vote_is_over_all_selves_both_times():
  collected = collect(judge='vote')
  first, second = collected.transcripts
  # 1+6: 7 8 9, 1 7 2, 7 7 8: three of eight others agree with each 7.
  assert first['scores'][0] == first['scores'][6] == pytest.approx(3 / 8)
  assert first['scores'][1] == pytest.approx(1 / 8)
  assert first['scores'][2] == 0
  assert second['scores'][:3] == pytest.approx([4 / 8, 4 / 8, 1 / 8])
  assert pairs_of(learned(collected)) == [
    'solve 1+6|a=7 > solve 1+6|c=9',
    'solve 2+3|d=5 > solve 2+3|j=9',
  ]
  assert {len(x['by']) for x in collected.transcripts} == {9}


def test_judges_that_no_model_is():
  told = collect(judge='known').transcripts[0]
  assert told['scores'] == [1, 0, 0, 0, 1, 0, 1, 1, 0]
  one, two = (
    collect(judge='random', problems=x).transcripts
    for x in (PROBLEMS, PROBLEMS[::-1])
  )
  assert one[0]['scores'] == two[1]['scores']  # wherever it stands
  assert one[0]['scores'] != one[1]['scores']
  metrics = collect(judge='random').metrics
  assert all(0 < gap < 1 for gap in metrics['tsr/score_gap'])
  policy = Policy()
  collect(policy, judge='random')
  assert policy.asked_about == []


def test_a_random_judge_knows_nothing():
  rollouts_PG = Policy().generate([Prompt.solve(PROBLEMS[0])], None, KEY)
  found = []
  for i in range(300):
    key = jax.random.fold_in(KEY, i)
    (scores,) = SCORERS['random'](
      None, PROBLEMS[:1], rollouts_PG, key, 0
    ).scores_PG
    judged_G = map(Judged, ['own'] * 3, rollouts_PG[0], scores.tolist())
    found += pair_metrics(PROBLEMS[:1], [[*judged_G]])['judge_auc']
  assert len(found) == 600
  assert np.mean(found) == pytest.approx(0.5, abs=0.07)


def test_evaluation_asks_the_policy_alone():
  policy = Policy()
  method = filled(TemporalSelfReward, {'samples': 3, 'judge': 'yes'})
  found = method.evaluate(policy, PROBLEMS, KEY)
  assert found['judge_auc'] == [1, 1, 1, 1]
  np.testing.assert_allclose(found['own_gap'], [0.3, 0.5], atol=1e-6)
  assert not policy.learned and len(policy.asked_about) == 1
  assert method.evaluate(policy, [], KEY) == {'judge_auc': [], 'own_gap': []}


@pytest.mark.parametrize(
  ('keys', 'line'),
  [
    ({'judge': 'scores'}, "method.judge is 'scores'; it must be one of vote"),
    ({'preference': 'dop'}, "the nearest is 'dpo'"),
    ({'beta': 0.0}, 'method.beta is 0.0; it must be above 0'),
    ({'future_steps': 0}, 'method.future_steps is 0; it must be above 0'),
    ({'samples': 1}, 'method.samples is 1; a pair needs 2'),
    ({'problems': 4, 'minibatches': 5}, 'method.minibatches is 5'),
    ({'future': False, 'future_lr': 0.5}, 'method.future_lr is 0.5, which'),
    ({'judge': 'vote', 'judge_tokens': 9}, 'writes nothing; leave it at 256'),
  ],
)
def test_bad_input_is_one_line(keys, line):
  with pytest.raises(ValueError, match=line.replace('(', r'\(')) as e:
    filled(TemporalSelfReward, keys)
  assert '\n' not in str(e.value)


def test_a_task_that_cannot_be_asked_is_found_before_a_model_is_loaded():
  with pytest.raises(ValueError, match="no words for the verifier 'score'"):
    TemporalSelfReward().check(SmallTask())
  for judge in ('yes', 'vote', 'known', 'random', 'tournament'):
    filled(TemporalSelfReward, {'judge': judge}).check(SmallTask())
  config = configs.base_config('temporal_self_reward')
  with pytest.raises(ConfigError, match="no words for the verifier 'score'"):
    configs.prepare(config)


CONFIG = pathlib.Path(__file__).parents[1] / 'configs' / 'learn_small.py'
SMALL = {
  'steps': 2,
  'eval_every': 2,
  'checkpoint_every': 1,
  'method.problems': 8,
  'method.samples': 4,
  'method.max_tokens': 24,
  'method.judge': 'vote',
  'eval.splits': ('test',),
  'eval.problems': 4,
  'eval.samples': 2,
  'eval.max_tokens': 24,
  'guard.every': 0,
  'batch.length': 96,
  'batch.sequences': 8,
  'optimizer.warmup': 0,
  'alarms.cut': 'off',
}


@pytest.fixture
def trained(mesh, tmp_path):
  def train(workdir='run', **keys):
    config = configs.read_config(f'{CONFIG}:tsr', (SMALL | keys).items())
    return trained_by(config, tmp_path / workdir)

  return train


def test_it_learns_to_prefer_and_goes_on_where_it_was_cut(trained, tmp_path):
  whole, lines, before = trained()
  first = lines[0]
  assert 0 < first['tsr/pairs'] <= 1 and first['tsr/score_gap'] > 0
  assert first['train/margin'] > 0  # after the first of its four steps
  assert first['train/loss'] < np.log(2)
  assert 0.4 < first['eval/test/judge_auc'] <= 1  # a vote knows something
  assert int(whole.state.step) == 8
  assert int(whole.state.shared_opt[0].count) == 4  # began anew at step 1
  assert moved(before, whole.state.params)
  told = (tmp_path / 'run/rollouts/000000.jsonl').read_text().splitlines()
  assert {*json.loads(told[0])['by']} == {'own', 'past', 'future'}
  cut(tmp_path / 'run', tmp_path / 'cut')
  again, more, _ = trained('cut')
  assert again.first_step == 1
  assert [*map(promised, more)] == [*map(promised, lines)]
  assert not moved(whole.state.params, again.state.params)


def test_the_future_self_is_thrown_away(trained, monkeypatch):
  adapted, selves = Player.adapted, []

  def noted(self, sets_E, *args, **more):
    (later,) = adapted(self, sets_E, *args, **more)
    selves.append((self, later, sets_E[0]))
    return [later]

  monkeypatch.setattr(Player, 'adapted', noted)
  loop, _, before = trained(
    steps=1,
    **{'method.epochs': 1, 'method.minibatches': 1, 'optimizer.warmup': 1},
    **{'method.future_lr': 1e-2, 'method.judge': 'known'},
  )
  assert not moved(before, loop.state.params)  # the rate begins at 0
  ((now, later, pairs),) = selves
  shown = Prompt.solve(SmallTask().problems('dev')[0])
  rollouts = [
    dataclasses.replace(
      now.written(shown, ''), prompt_T=row.prompt_T, tokens_T=row.response_R
    )
    for row in pairs.rows
  ]
  with jax.set_mesh(loop.run.mesh):
    logps = [player.logprobs(rollouts) for player in (now, later)]
  margin, after = (
    sum(
      row.fields['sign'][0] * (logp - row.fields['old_logp']).sum()
      for row, logp in zip(pairs.rows, of_all, strict=True)
    )
    for of_all in logps
  )
  assert len(pairs.rows) >= 2
  assert margin == pytest.approx(0, abs=1e-3)  # it is its own reference
  assert after > 1  # what it would be has learned them


def test_one_step_ahead_with_adapters_on_adapters(trained):
  lora = {'trainable': 'lora', 'roles': 'shared', 'rank': 4}
  ipo = {'method.preference': 'ipo', 'method.judge': 'yes'}
  loop, lines, before = trained(ahead=True, **lora, **ipo)
  assert moved(before, loop.state.params)
  # The aim is 5. Each step begins at margin 0, step 1 too, though weights have
  # moved since its pairs were drawn.
  for line in lines[:2]:
    assert line['train/loss'] < 25
    assert line['train/margin'] > 0

"""Verifiers: what a model's word on its own answers is worth."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from scripted import CUT, KEY, Scripted, Sums, collected_by, said, words

from jaxdistill import api
from jaxdistill.api.gaps import check_names, check_verifiers
from jaxdistill.cli.main import main
from jaxdistill.config import ConfigError
from jaxdistill.data.tasks import SmallTask, load_task
from jaxdistill.eval import verify as worths
from jaxdistill.methods.rft import Rft
from jaxdistill.rollout.player import Player
from jaxdistill.rollout.verify import VERIFIERS, preferred, verify
from jaxdistill.run.gap import best_verifier, verifiers_as_text
from jaxdistill.types import WORDINGS, Problem, Prompt, Wording


@dataclasses.dataclass(frozen=True)
class Judged(Sums):
  """Asks in few words, so that a script can answer."""

  @property
  def wordings(self):
    return {
      'verify': Wording('verify {text}:{0}', ('yes', 'no')),
      'check': Wording('check {text}:{0}', ('yes', 'no')),
      'score': WORDINGS['score']._replace(text='score {text}:{0}'),
      'compare': Wording('compare {text}:{0}|{1}', ('1', '2')),
    }


TASK = Judged()
PROBLEMS = [
  Problem('1+6', TASK, '7', address=3),
  Problem('2+3', TASK, '5', address=4),
]
SAID = {
  'solve 1+6': ['a=7', 'b=8', 'a=7', f'c=7{CUT}'],
  'solve 2+3': ['a=5', 'b=6', 'c=5', 'd'],
}


class Judge(Player):
  """Says what a script has, and chooses by a function of what is asked."""

  def __init__(self, script=(), odds=lambda text: 0.0):
    for name, value in {
      'odds': odds,
      'scripted': Scripted(dict(script)),
      'shown': [],
    }.items():
      object.__setattr__(self, name, value)

  def generate(self, prompts_P, sampling, key):
    return self.scripted.generate(prompts_P, sampling, key)

  def choose(self, prompts, choices):
    del choices
    self.shown.extend(p.text for p in prompts)
    odds = np.array([self.odds(p.text) for p in prompts])
    return np.stack([odds, np.zeros(len(prompts))], 1)


def rollouts():
  return [
    [said(Prompt.solve(p), text) for text in SAID[f'solve {p.text}']]
    for p in PROBLEMS
  ]


def scores(how, player, **changes):
  found = verify(how, player, PROBLEMS, rollouts(), key=KEY, **changes)
  return np.array(found.scores_PG), found


NONE = np.nan


def test_a_vote_is_the_share_of_siblings_that_agree():
  found, _ = scores('vote', Judge())
  # One was cut, one has no answer: they agree with nobody.
  wanted = [[1 / 3, 0, 1 / 3, NONE], [1 / 3, 0, 1 / 3, NONE]]
  np.testing.assert_allclose(found, wanted)


def test_the_probability_of_yes_is_of_the_two_words():
  judge = Judge(odds=lambda text: np.log(3) if '=7' in text else -np.log(3))
  found, verified = scores('yes', judge)
  wanted = [[0.75, 0.25, 0.75, NONE], [0.25] * 4]
  np.testing.assert_allclose(found, wanted)
  # What is said twice is asked once, and what was cut is not asked.
  assert judge.shown == [
    *('verify 1+6:a=7', 'verify 1+6:b=8'),
    *('verify 2+3:a=5', 'verify 2+3:b=6', 'verify 2+3:c=5', 'verify 2+3:d'),
  ]
  assert verified.scored == 5 * len('a=7') + 1 and verified.tokens == 0


def test_a_written_check_ends_in_its_verdict():
  judge = Judge(
    {
      'check 1+6:a=7': ['No? 1+6 is 7.\n**Yes**'],
      'check 1+6:b=8': ['Yes!\nIt is not 8: no.\n'],
      'check 2+3:a=5': [f'yes{CUT}'],
      'check 2+3:b=6': ['yes, there is no mistake'],
      'check 2+3:c=5': ['YES'],
      'check 2+3:d': ['nobody'],
    }
  )
  found, verified = scores('check', judge, max_tokens=9)
  np.testing.assert_array_equal(found, [[1, 0, 1, NONE], [NONE, NONE, 1, NONE]])
  assert verified.unread == [False, False, True, True, False, True]
  assert judge.scripted.asked[0][1].max_tokens == 9
  assert verified.tokens == sum(
    len(x) for (x,) in judge.scripted.script.values()
  )


def test_a_score_is_by_ten():
  judge = Judge(
    {
      'score 1+6:a=7': ['1+6 is 7\nso 10'],
      'score 1+6:b=8': ['Is it 1?\n2/10.'],
      'score 2+3:a=5': ['surely 8 out of 10'],
      'score 2+3:b=6': ['7.5'],
      'score 2+3:c=5': ['0.5'],
      'score 2+3:d': ['7 of 10, that is 7'],
    }
  )
  found, _ = scores('score', judge)
  np.testing.assert_allclose(
    found, [[1, 0.2, 1, NONE], [0.8, NONE, NONE, 0.7]], atol=1e-9
  )


def best_first(order):
  """A judge that knows an order; `odds` that the first is better."""

  def odds(text):
    first, second = text.partition(':')[2].split('|')
    return float(order.index(second) - order.index(first))

  return Judge(odds=odds)


@pytest.mark.parametrize(
  'order', [*itertools.permutations(['a=5', 'b=6', 'c=5'])]
)
def test_the_best_survives_a_tournament(order):
  task, texts = TASK, ['a=5', 'b=6', 'c=5', f'd=5{CUT}']
  problem = Problem('2+3', task, '5', address=4)
  asked = [[said(Prompt.solve(problem), t) for t in texts]]
  judge = best_first([*order])
  found = verify('tournament', judge, [problem], asked, key=KEY)
  (scores_G,) = found.scores_PG
  assert np.isnan(scores_G[3])
  assert scores_G[texts.index(order[0])] == 1  # of both rounds
  assert all(scores_G[texts.index(x)] < 1 for x in order[1:])
  assert found.scored == 2 * 2 * (3 + 3)  # two pairs, two orders


def test_nobody_is_left_over_twice_running():
  texts = [f'{x}=5' for x in 'abcdef'[:5]]
  problem = Problem('2+3', TASK, '5', address=4)
  judge = best_first(texts)
  asked = [[said(Prompt.solve(problem), t) for t in texts]]
  verify('tournament', judge, [problem], asked, key=KEY)
  pairs = [t.partition(':')[2].split('|') for t in judge.shown[::2]]
  first, second = pairs[:2], pairs[2]
  (left,) = {*texts} - {t for pair in first for t in pair}
  assert left in second and len(pairs) == 4


def test_equal_responses_take_part_once():
  problem = PROBLEMS[1]
  judge = best_first(['a=5', 'b=6'])
  for texts, wanted in (
    (['b=6', 'a=5', 'a=5', f'c{CUT}'], [0, 1, 1, NONE]),
    (['a=5', 'a=5', f'b=6{CUT}'], [NONE] * 3),  # nobody to be held against
  ):
    asked = [[said(Prompt.solve(problem), t) for t in texts]]
    found = verify('tournament', judge, [problem], asked, key=KEY)
    np.testing.assert_array_equal(found.scores_PG[0] > 0.5, np.equal(wanted, 1))
    np.testing.assert_array_equal(
      np.isnan(found.scores_PG[0]), np.isnan(wanted)
    )


@pytest.mark.parametrize(
  ('text', 'said'),
  [('1 is better than 2', None), ('both\n2.', '2'), ('1.', '1'), ('', None)],
)
def test_a_verdict_of_two_is_not_guessed_at(text, said):
  assert WORDINGS['judge'].read(text) == said


def test_a_judge_that_goes_by_the_place_prefers_nothing():
  pairs = [('a=7', 'b=8'), ('b=8', 'a=7')]
  place = Judge(odds=lambda text: 2.0)  # the first, whatever it says
  odds = preferred(place, [PROBLEMS[0]] * 2, pairs)
  np.testing.assert_array_equal(odds, [[2, -2], [2, -2]])
  np.testing.assert_array_equal(odds.mean(1), 0)
  knows = preferred(best_first(['a=7', 'b=8']), [PROBLEMS[0]] * 2, pairs)
  np.testing.assert_array_equal(knows, [[1, 1], [-1, -1]])


def test_a_host_without_problems_asks_as_often():
  for how in VERIFIERS:
    judge = Judge()
    found = verify(how, judge, [], [], key=KEY)
    assert found.scores_PG == [] and found.tokens == found.scored == 0


def test_gaps_by_hand():
  right = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]])
  kept = np.array(
    [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 1, 0]], bool
  )
  gap, relative = worths.gaps_at(kept, right.astype(float))
  # Half of what is kept of the first is right; of the second nothing is kept.
  np.testing.assert_allclose(gap, [0.25, 0, 0, -0.5])
  np.testing.assert_allclose(relative, [0.25 / 0.75, 0, 0, -1])


def test_auc_is_the_chance_of_the_right_order():
  draw = np.random.default_rng(0)
  found, right = draw.integers(0, 5, (9, 7)) / 4, draw.integers(0, 2, (9, 7))
  pairs = [
    (a > b) + (a == b) / 2 for a in found[right == 1] for b in found[right == 0]
  ]
  assert worths.auc(found, right) == pytest.approx(np.mean(pairs))
  assert np.isnan(worths.auc(found, np.ones_like(right)))
  found[0, 0] = NONE
  assert not np.isnan(worths.auc(found, right))


def test_a_verifier_by_chance_is_worth_nothing():
  draw = np.random.default_rng(1)
  right = (draw.random((600, 8)) < 0.5).astype(float)
  chance = worths.worth([draw.random((600, 8))], right)
  assert abs(chance['gap']) < 3 * chance['error']
  assert chance['accuracy'] == right.mean()
  knows = worths.worth([right], right)
  some = right.any(1)
  assert knows['gap'] == pytest.approx((some - right.mean(1)).mean())
  assert knows['relative'] == pytest.approx((some & ~right.all(1)).mean())
  assert knows['thresholds'] == [1]
  assert knows['kept'] == pytest.approx(right.mean())


def test_two_verifiers_that_err_apart_are_worth_more_than_one():
  draw = np.random.default_rng(2)
  right = (draw.random((400, 8)) < 0.5).astype(float)
  noisy = [right + draw.normal(0, 0.8, right.shape) for _ in range(2)]
  scored = dict(zip('ab', noisy, strict=True))
  found = worths.weigh(scored, right, ['a', 'b', 'a+b'])
  assert found['a+b']['gap'] > max(found['a']['gap'], found['b']['gap'])
  assert 'auc' in found['a'] and 'auc' not in found['a+b']
  said = best_verifier(found, 8)
  best = max('ab', key=lambda name: found[name]['gap'])
  assert 'a+b is worth most' in said and f'By {best}: a config of' in said
  at = found['a']['thresholds'][0]
  said = best_verifier({'a': found['a']}, 8)
  *_, name, keep, least, samples = said.split()
  keys = '--config.method.'
  assert (name, keep) == (f'{keys}name=rft', f'{keys}keep=a')
  assert samples == f'{keys}samples=8'
  assert at - 1e-4 < float(least.removeprefix(f'{keys}threshold=')) <= at
  both = best_verifier({'a+b': found['a+b']}, 8)
  assert both.endswith('No method keeps what two keep.')


@pytest.mark.parametrize('share', [7 / 16, 7 / 8, 2 / 3, 0.0])
def test_a_threshold_that_is_said_keeps_what_it_was_found_to(share):
  seen = dict(gap=0.3, error=0.01, kept_accuracy=0.9, accuracy=0.6)
  said = best_verifier({'vote': seen | {'thresholds': [share]}}, 4)
  at = float(said.partition('threshold=')[2].split()[0])
  assert 0 < at <= max(share, 1e-4)


def test_a_verifier_that_adds_nothing_to_another_is_named():
  draw = np.random.default_rng(0)
  right = (draw.random((40, 8)) < 0.5).astype(float)
  scored = {'knows': right, 'blind': np.ones_like(right)}
  found = worths.weigh(scored, right, ['knows', 'blind', 'knows+blind'])
  said = verifiers_as_text(found, 8)
  assert 'knows+blind is not seen to be worth more than one of the' in said
  assert 'not seen' not in verifiers_as_text({'knows': found['knows']}, 8)


def test_a_verifier_that_says_nothing_changes_nothing():
  right = np.eye(6)
  nothing = worths.worth([np.full((6, 6), NONE)], right)
  assert nothing['gap'] == 0 and nothing['kept'] == 0
  assert 'No verifier' in best_verifier({'yes': nothing}, 6)


def kept_by(**changes):
  judge = Judge(SAID, odds=lambda text: 1.0 if '=7' in text else -1.0)
  method = Rft(problems=2, samples=4, **changes)
  found = collected_by(method, {'policy': judge}, PROBLEMS, {})
  (update,) = found.updates
  return sorted(words(r) for r in update.sets[0].rows), found


def test_what_a_verifier_keeps_is_learned():
  texts, found = kept_by(keep='yes')
  assert texts == ['solve 1+6|a=7']  # said twice: one row
  assert found.updates[0].sets[0].rows[0].total == 2 * len('a=7')
  assert list(found.metrics['train/kept']) == [1, 1, 0, 0, 0, 0, 0, 0]
  assert found.metrics['train/right'] == [1, 0, 1, 0, 1, 0, 1, 0]
  assert found.metrics['train/gap'] == [0.5, 0]
  sure = 1 / (1 + np.exp(-1))
  assert found.transcripts[0]['scores'] == pytest.approx(
    [sure, 1 - sure, sure, None], abs=1e-3
  )
  assert found.scored > 0
  everything, _ = kept_by(keep='yes', threshold=0.2)
  assert len(everything) == 6  # two are alike, one was cut
  assert kept_by(keep='yes', threshold=0.8)[0] == []


def test_a_vote_may_have_a_threshold():
  by_majority, _ = kept_by(keep='vote')
  by_share, _ = kept_by(keep='vote', threshold=1 / 3)
  assert by_majority == by_share
  assert kept_by(keep='vote', threshold=0.5)[0] == []


def test_another_may_verify():
  policy = Scripted(SAID)
  other = Judge(odds=lambda text: 1.0 if '=5' in text else -1.0)
  method = Rft(problems=2, samples=4, keep='yes', verifier='frozen')
  assert method.anchors['verifier'].rule == 'frozen'
  players = {'policy': policy, 'verifier': other}
  found = collected_by(method, players, PROBLEMS, {})
  rows = found.updates[0].sets[0].rows
  assert sorted(map(words, rows)) == ['solve 2+3|a=5', 'solve 2+3|c=5']


@pytest.mark.parametrize(
  ('keys', 'line'),
  [
    ({'threshold': 1.5}, 'method.threshold is 1.5; a score is from 0 to 1'),
    ({'keep': 'known', 'threshold': 0.5}, 'threshold is 0.5, which nothing'),
    ({'keep': 'all', 'verifier': 'frozen'}, 'method.verifier is'),
    ({'keep': 'vote', 'verifier': 'frozen'}, "method.keep is 'vote'"),
    ({'keep': 'yes', 'check_tokens': 9}, 'method.check_tokens is 9'),
    ({'keep': 'tournament', 'samples': 1}, 'a tournament needs 2'),
    ({'keep': 'yess'}, "the nearest is 'yes'"),
  ],
)
def test_settings_that_do_not_fit(keys, line):
  with pytest.raises(ValueError, match=line):
    Rft(**keys)


def test_a_task_without_the_words_is_named():
  task = load_task('small')
  Rft(keep='yes').check(task)
  line = "verifier 'score'; it has them for vote, yes, tournament$"
  with pytest.raises(ValueError, match=line):
    Rft(keep='score').check(task)
  with pytest.raises(
    ConfigError, match="verifier 'check'; it has them for vot"
  ):
    check_verifiers(['vote+check'], task, [])
  with pytest.raises(ConfigError, match=r"no verifier 'yez'.*nearest is 'yes'"):
    check_names(['vote+yez'])
  open_ = [Problem('1+6', SmallTask())]
  with pytest.raises(ConfigError, match="none for '1\\+6'"):
    check_verifiers(['vote'], task, open_)


def test_words_of_a_task_in_words():
  task = load_task('arithmetic:add:2,2')
  problem = task.problems('test')[0]
  for what in ('verify', 'check', 'score'):
    asked = task.asking(what, problem, 'It is {7}.')
    assert 'It is {7}.' in asked and task.solver_prompt(problem) in asked
  asked = task.asking('compare', problem, 'first', 'second')
  assert asked.index('first') < asked.index('second')


def test_the_command_says_which_verifier_is_worth_most(capsys, monkeypatch):
  command = ['gap', '--model', 'small-early']
  command += ['--problems', '12', '--samples', '3']
  main([*command, '--verifier', 'vote,yes,vote+yes', '--json'])
  found = json.loads(capsys.readouterr().out)['verifiers']
  assert list(found) == ['vote', 'yes', 'vote+yes']
  assert found['yes']['auc'] <= 1 and found['yes']['tokens'] == 0
  monkeypatch.setattr(api.model, 'load_base', None)  # none is loaded
  assert main([*command, '--verifier', 'vots']) == 2
  assert "nearest is 'vote'" in capsys.readouterr().err
  assert main([*command, '--verifier', 'vote,,yes']) == 2
  assert 'empty name' in capsys.readouterr().err

"""What methods make of a step, with players whose every word is scripted."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from jaxdistill.methods.grpo import Grpo
from jaxdistill.methods.sqlm import Sqlm
from jaxdistill.rollout.player import Player
from jaxdistill.types import Problem, Rollout

KEY = jax.random.key(0)
EPS = 1e-4  # of the group's standard deviation
CUT = '<cut>'  # at the end of a scripted response: the length limit cut it


@dataclasses.dataclass(frozen=True)
class Sums:
  name: str = 'sums'

  def problems(self, split):
    raise AssertionError(f'no method reads a split, {split} neither')

  def solver_prompt(self, problem):
    return f'solve {problem.text}'

  def proposer_prompt(self, topic):
    return f'propose {topic.topic}'

  def parse_problem(self, text):
    found = re.fullmatch(r'(\d+)\+(\d+)', text)
    if not found:
      return None
    return Problem(text, self, answer=str(int(found[1]) + int(found[2])))

  def held_out(self, problem):
    return problem.text.startswith('9')

  def parse_answer(self, text):
    return text.partition('=')[2] or None


class Scripted:
  """Says what the script has for a prompt, and notes what it was asked."""

  def __init__(self, script):
    self.script, self.asked = script, []

  def generate(self, prompts_P, sampling, key):
    del key
    self.asked.append((prompts_P, sampling))
    return [
      [said(prompt, text) for text in self.script[prompt.text]]
      for prompt in prompts_P
    ]


class Anchor(Player):
  """Scores by the number of the token in the response."""

  def __init__(self):
    object.__setattr__(self, 'temperatures', [])

  def logprobs(self, rollouts, temperature=1.0):
    self.temperatures.append(temperature)
    return [-0.1 * np.arange(len(r.tokens_T)) for r in rollouts]


def ids(text):
  return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


def said(prompt, text):
  finish = 'length' if text.endswith(CUT) else 'stop'
  tokens = ids(text)
  logp = np.full(len(tokens), -0.5, np.float32)
  return Rollout(
    *(prompt, ids(prompt.text), tokens, logp, 0 * logp, finish, text)
  )


def by_text(rows):
  """Rows by `prompt|response`."""
  out = {}
  for row in rows:
    trained = row.weight_T != 0
    text = ''.join(map(chr, row.tokens_T))
    n = int(np.argmax(trained))
    assert trained[n:].all() and not trained[:n].any()
    out[f'{text[:n]}|{text[n:]}'] = row
  assert len(out) == len(rows)
  return out


def normalised(*rewards):
  r = np.array(rewards, float)
  return (r - r.mean()) / (r.std() + EPS)


TASK = Sums()
TOPICS = [
  Problem('', TASK, topic='small', row=4),
  Problem('', TASK, topic='large', row=5),
]
SCRIPT = {
  # Worth asking; unanimous; malformed.
  'propose small': ['1+6', '2+3', 'what?'],
  # A tie; cut, so malformed; worth asking.
  'propose large': ['50+51', f'60+61{CUT}', '3+4'],
  'solve 1+6': ['a=7', 'a=7', 'b=07', 'a=8'],
  'solve 2+3': ['a=6', 'a=6', 'a=6', 'a=6'],
  'solve 50+51': ['a=101', 'a=101', 'a=102', 'a=102'],
  'solve 3+4': ['a=7', 'b=7', f'a=8{CUT}', 'a'],
}


def collect(step=4, **changes):
  method = Sqlm(**{'problems': 2, 'proposals': 3, 'samples': 4} | changes)
  policy, anchor = Scripted(SCRIPT), Anchor()
  players = {'policy': policy, 'base': anchor}
  return method.collect(players, TOPICS, {}, step, KEY), policy, anchor


def test_sqlm_asks_what_was_proposed_well():
  collected, policy, anchor = collect(temperature=0.7)
  (topics, first), (problems, second) = policy.asked
  assert [(p.role, p.text) for p in topics] == [
    ('proposer', 'propose small'),
    ('proposer', 'propose large'),
  ]
  assert [(p.role, p.text, p.row) for p in problems] == [
    ('solver', 'solve 1+6', 12),  # third row of five, three proposals each
    ('solver', 'solve 2+3', 13),
    ('solver', 'solve 50+51', 15),
    ('solver', 'solve 3+4', 17),
  ]
  assert (first.samples, second.samples) == (3, 4)
  temperatures = {first.temperature, second.temperature, *anchor.temperatures}
  assert temperatures == {0.7}
  words = [*SCRIPT['propose small'], *SCRIPT['propose large']]
  for p in problems:
    words += SCRIPT[p.text]
  assert collected.tokens == sum(map(len, words))


def test_sqlm_pays_the_solver_for_agreeing():
  collected, _, _ = collect()
  ((solver,), _) = [u.sets for u in collected.updates]
  assert solver.role == 'solver'
  rows = by_text(solver.rows)
  paid = normalised(1, 1, 1, 0)
  half = normalised(1, 1, 0, 0)
  wanted = {
    'solve 1+6|a=7': (paid[0], 2),  # said twice, trained once
    'solve 1+6|b=07': (paid[0], 1),  # the same number
    'solve 1+6|a=8': (paid[3], 1),
    'solve 2+3|a=6': (0, 4),  # all agree, on a wrong answer
    'solve 50+51|a=101': (0, 2),  # a tie pays nobody
    'solve 50+51|a=102': (0, 2),
    'solve 3+4|a=7': (half[0], 1),
    'solve 3+4|b=7': (half[0], 1),
    f'solve 3+4|a=8{CUT}': (half[2], 1),  # no vote, and no pay
    'solve 3+4|a': (half[2], 1),
  }
  assert rows.keys() == wanted.keys()
  for text, (advantage, said_n_times) in wanted.items():
    row, n = rows[text], len(text.partition('|')[2])
    np.testing.assert_allclose(row.fields['advantage'][-n:], advantage, 1e-6)
    np.testing.assert_allclose(row.weight_T[-n:], said_n_times / n)
    np.testing.assert_allclose(row.fields['old_logp'][-n:], -0.5)
    np.testing.assert_allclose(
      row.fields['anchor_logp'][-n:], -0.1 * np.arange(n), 1e-6
    )
    assert row.total == said_n_times


def test_sqlm_pays_the_proposer_for_what_is_worth_asking():
  collected, _, _ = collect()
  _, (proposer,) = [u.sets for u in collected.updates]
  assert proposer.role == 'proposer'
  small, large = normalised(1, 0, 0), normalised(0, 0, 1)
  found = {
    text: row.fields['advantage'][-1]
    for text, row in by_text(proposer.rows).items()
  }
  # Malformed ones are in their group's mean, and have no row.
  assert found == pytest.approx(
    {
      'propose small|1+6': small[0],
      'propose small|2+3': small[1],
      'propose large|50+51': large[0],
      'propose large|3+4': large[2],
    }
  )


def test_sqlm_moves_the_proposer_at_every_kth_step():
  def roles(step, k):
    updates = collect(step, propose_every=k)[0].updates
    return [u.sets[0].role for u in updates]

  both = ['solver', 'proposer']
  assert [roles(s, 3) == both for s in range(6)] == [False, False, True] * 2
  assert roles(0, 1) == both
  assert all(roles(s, 0) == ['solver'] for s in range(3))


def test_sqlm_reports_what_happened():
  collected, _, _ = collect()
  assert {k: list(v) for k, v in collected.metrics.items()} == {
    'selfplay/valid': [1, 1, 0, 1, 0, 1],
    'selfplay/distinct': [1, 1, 1, 1],
    'selfplay/agreement': [0.75, 1, 0.5, 0.5],
    'selfplay/majority': [1, 1, 0, 1],
    'selfplay/vote_accuracy': [1, 0, 0, 1],
    'selfplay/proposer_reward': [1, 0, 0, 0, 0, 1],
    'selfplay/solver_reward': [1, 1, 1, 0] + [1] * 4 + [0] * 4 + [1, 1, 0, 0],
    'rollout/length': [3, 3, 4, 3] + [3] * 4 + [5] * 4 + [3, 3, 8, 1],
    'rollout/cut': [0] * 14 + [1, 0],
  }
  first, _, third, tie, *_ = collected.transcripts
  assert first == {
    'topic': 'propose small',
    'proposal': '1+6',
    'known': '7',
    'vote': '7',
    'answers': ['7', '7', '07', '8'],
    'rewards': [1, 1, 1, 0],
    'texts': ['a=7', 'a=7', 'b=07', 'a=8'],
    'proposer_reward': 1,
  }
  assert third == {
    'topic': 'propose small',
    'proposal': 'what?',
    'rejected': 'malformed',
    'proposer_reward': 0,
  }
  assert tie['vote'] is None and tie['rewards'] == [0, 0, 0, 0]


def test_sqlm_without_any_valid_proposal_asks_nothing():
  script = {'propose small': ['?'] * 3, 'propose large': ['?', '9+1', '9+2']}
  policy = Scripted(script)
  method = Sqlm(problems=2, proposals=3, samples=4, propose_every=1)
  players = {'policy': policy, 'base': Anchor()}
  collected = method.collect(players, TOPICS, {}, 0, KEY)
  assert [len(u.sets[0].rows) for u in collected.updates] == [0, 0]
  assert [prompts for prompts, _ in policy.asked][1] == []
  assert [t['rejected'] for t in collected.transcripts] == (
    ['malformed'] * 4 + ['held out'] * 2
  )
  # The same names as ever: other hosts may have observations.
  assert collected.metrics.keys() == collect()[0].metrics.keys()


def test_grpo_pays_for_the_known_answer():
  problems = [TASK.parse_problem('1+6'), TASK.parse_problem('2+3')]
  method = Grpo(problems=2, samples=4)
  players = {'policy': Scripted(SCRIPT), 'base': Anchor()}
  collected = method.collect(players, problems, {}, 0, KEY)
  (update,) = collected.updates
  (row_set,) = update.sets
  found = {
    text: row.fields['advantage'][-1]
    for text, row in by_text(row_set.rows).items()
  }
  paid = normalised(1, 1, 1, 0)
  assert found == pytest.approx(
    {
      'solve 1+6|a=7': paid[0],
      'solve 1+6|b=07': paid[0],
      'solve 1+6|a=8': paid[3],
      'solve 2+3|a=6': 0,  # all wrong: nothing to learn
    }
  )
  assert list(collected.metrics['train/reward']) == [1, 1, 1, 0, 0, 0, 0, 0]
  assert list(collected.metrics['train/learnable']) == [1, 0]


@pytest.mark.parametrize('method', [Sqlm, Grpo])
def test_what_cannot_be_sampled_is_refused(method):
  for wrong in ({'samples': 0}, {'temperature': -1.0}, {'top_p': 0.0}):
    with pytest.raises(ValueError):
      method(**wrong)

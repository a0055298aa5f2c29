"""A task and players whose every word is scripted."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from jaxdistill.config.keys import filled
from jaxdistill.data.tasks import right
from jaxdistill.eval import alarms
from jaxdistill.methods.sqlm import Sqlm
from jaxdistill.rollout.player import Player
from jaxdistill.types import Problem, Rollout, Task

KEY = jax.random.key(0)
EPS = 1e-4  # of the group's standard deviation
CUT = '<cut>'  # at the end of a scripted response: the length limit cut it


@dataclasses.dataclass(frozen=True)
class Sums(Task):
  @property
  def name(self):
    return 'sums'

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

  def reward(self, problem, answers_G):
    return right(problem, answers_G)


class Scripted:
  """Says what the script has for a prompt, and notes what it was asked."""

  def __init__(self, script):
    self.script, self.asked = script, []

  def generate(self, prompts_P, sampling, key, expected=0):
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


class Teacher(Player):
  """Writes what the script has, and scores by the text that it reads.

  Its log-prob of each token is minus a hundredth of the length of its prompt,
  and so is, but for the sign, what it is unsure of.
  """

  def __init__(self, script=()):
    object.__setattr__(self, 'scripted', Scripted(dict(script)))
    object.__setattr__(self, 'scored', [])

  def encode(self, prompt):
    return ids(prompt.text)

  def generate(self, prompts_P, sampling, key, expected=0):
    return self.scripted.generate(prompts_P, sampling, key)

  def logprobs(self, rollouts, temperature=1.0):
    self.scored.append((list(rollouts), temperature))
    return [
      np.full(len(r.tokens_T), -0.01 * len(r.prompt_T), np.float32)
      for r in rollouts
    ]

  def entropies(self, rollouts, temperature=1.0):
    return [-logp_T for logp_T in self.logprobs(rollouts, temperature)]


def ids(text):
  return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


def said(prompt, text):
  finish = 'length' if text.endswith(CUT) else 'stop'
  tokens = ids(text)
  logp = np.full(len(tokens), -0.5, np.float32)
  return Rollout(
    *(prompt, ids(prompt.text), tokens, logp, 0 * logp, finish, text)
  )


def words(row):
  """`prompt|response`."""
  return '|'.join(
    ''.join(map(chr, ids)) for ids in (row.prompt_T, row.response_R)
  )


def by_text(rows):
  """Rows by `prompt|response`."""
  out = {}
  for row in rows:
    assert row.weight_R.all()  # every token of a response is trained
    out[words(row)] = row
  assert len(out) == len(rows)
  return out


def normalised(*rewards):
  r = np.array(rewards, float)
  return (r - r.mean()) / (r.std() + EPS)


TASK = Sums()
TOPICS = [
  Problem('', TASK, topic='small', address=4),
  Problem('', TASK, topic='large', address=5),
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


def collect(step=4, state=None, topics=TOPICS, script=SCRIPT, **changes):
  method = filled(Sqlm, {'problems': 2, 'proposals': 3, 'samples': 4} | changes)
  policy, anchor = Scripted(script), Anchor()
  players = {'policy': policy, 'base': anchor}
  state = method.init() if state is None else state
  collected = collected_by(method, players, topics, state, step)
  return collected, policy, anchor


def collected_by(method, players, problems, state, step=0):
  """What a method collects, as a run has it do so: drawn, then judged."""
  begun = method.collect(players, problems, state, step, KEY)
  assert next(begun) is None
  del players['policy']  # as a run does
  with pytest.raises(StopIteration) as end:
    next(begun)
  return end.value.value


def solver_rows(**changes):
  (solver, *_) = collect(**changes)[0].updates
  return by_text(solver.sets[0].rows)


def proposer_rewards(**changes):
  collected = collect(**changes)[0]
  return list(collected.metrics['selfplay/proposer_reward'])


def watched(prefix):
  """The metrics of a method that default alarms look at."""
  every = [alarms.parse_alarm(text).metric for text in alarms.DEFAULTS.values()]
  found = {metric for metric in every if metric.startswith(f'{prefix}/')}
  assert found
  return found

"""Alarms: what a run watches, and what it does when it sees it.

An alarm is a line of text:

  METRIC < VALUE: ACTION            its level, a mean over a few steps
  METRIC > VALUE: ACTION
  METRIC < VALUE x first: ACTION    against the first few steps
  METRIC > VALUE x first: ACTION
  METRIC < VALUE x N steps ago: ACTION
  METRIC > VALUE x N steps ago: ACTION
  METRIC falls VALUE: ACTION        of the probe: below the best version's

A level that is younger than N steps is compared with what it began with: such
an alarm says how much a level may change within N steps. `falls` compares the
same problems under the same draws, so that a handful of lost problems is told
from noise. Actions: `warn`; `rollback` to the best version so far; `stop`; an
alarm set to `off` is none.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdistill.spelling import nearest

ACTIONS = ('warn', 'rollback', 'stop')
# What is watched by default.
DEFAULTS = {
  # `results/guard` has what these thresholds did.
  'greedy': 'probe/accuracy_greedy falls 0.03: rollback',
  'sampled': 'probe/accuracy_sampled falls 0.03: rollback',
  'vote': 'probe/vote_accuracy falls 0.05: rollback',
  'wrong_votes': 'selfplay/vote_accuracy < 0.5: warn',
  'overconfident': 'probe/overconfidence > 0.15: warn',
  'herd': 'selfplay/agreement > 2 x first: warn',
  'distinct': 'selfplay/distinct < 0.5 x first: rollback',
  'valid': 'selfplay/valid < 0.5 x first: rollback',
  'no_majority': 'selfplay/agreement < 0.5 x first: rollback',
  'short': 'rollout/length < 0.5 x first: warn',
  'long': 'rollout/length > 2 x first: warn',
  'cut': 'rollout/cut > 0.3: warn',
  'certain': 'rollout/entropy < 0.02 x first: warn',
  'uncertain': 'rollout/entropy > 3 x first: warn',
  'markers': 'rollout/markers < 0.2 x first: warn',
  'canary_length': 'rollout/length < 0.7 x 20 steps ago: warn',
  'canary_markers': 'rollout/markers < 0.5 x 20 steps ago: warn',
  'drift': 'train/kl_base > 0.5: warn',
  # Of single methods; elsewhere nobody logs what they watch. Set by eye, on the
  # runs of the comparisons in `configs/`.
  'no_gap': 'train/gap < 0.01: warn',
  'spoilt': 'score/spoilt > 0.3: warn',
  'turned': 'serl/judge_flips > 0.5: warn',
  'longer': 'serl/judge_longer > 0.85: warn',
  'shorter': 'serl/judge_longer < 0.15: warn',
  'unread': 'serl/judge_unread > 0.3: warn',
  'no_edit': 'seal/kept < 0.1: warn',
  'void_edits': 'seal/void > 0.3: warn',
  'forgotten': 'edits/forgotten > 0.15: warn',
  'misjudged': 'tsr/judge_auc < 0.5: warn',
  'no_pair': 'tsr/pairs < 0.6 x first: warn',
  'alike': 'tsr/own_gap < 0.6 x first: warn',
  'filtered': 'reflection/learned < 0.1: warn',
  'malformed': 'cot_self_instruct/malformed > 0.5: warn',
  'repeated': 'cot_self_instruct/repeated > 0.5: warn',
}
_WHY = {  # of a metric, or of a metric on one side, or that changes fast
  'probe/accuracy_greedy': 'the model is losing what it knew',
  'probe/accuracy_sampled': 'the model is losing what it knew',
  'probe/vote_accuracy': 'what the samples agree on is less often right',
  'probe/overconfidence': (
    'the samples agree more often than what they agree on is right'
  ),
  'selfplay/vote_accuracy': 'most of what it learns from is wrong',
  'selfplay/distinct': 'the proposer writes the same problems again',
  'selfplay/valid': 'the proposer no longer writes what can be asked',
  'rollout/cut': 'answers are cut before they end, and cast no vote',
  'rollout/markers': 'the model has stopped doubting and turning back',
  # Of self-distillation: arXiv 2603.24472.
  ('rollout/length', 'ago'): (
    'answers shorten fast, which may cost accuracy on other problems later'
  ),
  ('rollout/markers', 'ago'): (
    'the model doubts much less, which may cost accuracy on other problems '
    'later'
  ),
  'train/kl_base': 'the policy is far from its anchor',
  'train/gap': 'what is kept is no more often right than all answers',
  'score/spoilt': 'second attempts spoil what was right',
  'serl/judge_flips': (
    'verdicts turn with the order: the judge goes by the place, or sees no '
    'difference'
  ),
  ('serl/judge_longer', '>'): 'the judge prefers what is longer',
  ('serl/judge_longer', '<'): 'the judge prefers what is shorter',
  'serl/judge_unread': "the judge's verdicts cannot be read",
  'seal/kept': 'hardly any edit is kept: none teaches enough',
  'seal/void': 'many edits are empty, cut or absurd, and teach nothing',
  'edits/forgotten': 'what earlier edits taught is being forgotten',
  'tsr/judge_auc': 'its judge scores wrong answers above right ones',
  'tsr/pairs': 'fewer problems have a pair: responses are scored alike',
  'tsr/own_gap': 'its best and worst responses become alike',
  'reflection/learned': 'hardly anything that was refined is learned',
  'cot_self_instruct/malformed': 'much of what it writes cannot be asked',
  'cot_self_instruct/repeated': 'it writes the same problems again',
  ('selfplay/agreement', '<'): (
    'the answers fall apart: there is no majority to learn from'
  ),
  ('selfplay/agreement', '>'): (
    'the samples have come to agree sooner than they can have learned'
  ),
}
_NUMBER = r'(\d+(?:\.\d*)?|\.\d+)'
_FORM = re.compile(
  rf'(\w+(?:/\w+)+) (?:(<|>) {_NUMBER}'
  r'( x first)?(?: x ([1-9]\d{0,3}) steps? ago)?'
  rf'|falls {_NUMBER}): (\w+)'
)
_VOTES = 'selfplay/vote_accuracy'  # tells whose fault a fall is
PROBED = ('accuracy_greedy', 'accuracy_sampled', 'vote_accuracy')


@dataclasses.dataclass(frozen=True)
class GuardConfig:
  """How a run is watched, and how it goes back.

  Attributes:
    split: Whose problems are the probe, with known answers; where the task has
      none, there is no probe.
    problems: Most problems of it.
    samples: Answers to each beside the greedy one.
    every: Steps from one look at the probe to the next; 0 is no probe.
    window: Steps that a level is the mean of.
    errors: Standard errors that a fall must be larger than, besides its value.
    lr_scale: What a rollback multiplies the learning rate with.
    rollbacks: After so many the next one ends the run, too.
    act: Whether alarms do anything but warn.
  """

  split: str = 'dev'
  problems: int = 200
  samples: int = 4
  every: int = 5
  window: int = 3
  errors: float = 1.5
  lr_scale: float = 0.5
  rollbacks: int = 3
  act: bool = True


@dataclasses.dataclass(frozen=True)
class Alarm:
  """One alarm, read by `parse_alarm`.

  Attributes:
    metric: What it looks at.
    sign: `<`, `>` or `falls`.
    value: The threshold.
    of_first: Whether that is a share of the first steps' mean.
    ago: Or of the level so many steps ago; 0: it is not.
    action: One of `ACTIONS`.
  """

  metric: str
  sign: str
  value: float
  of_first: bool
  ago: int
  action: str


@dataclasses.dataclass(frozen=True)
class Fired:
  """An alarm that went off.

  Attributes:
    alarm: Its name.
    metric: What it looked at.
    seen: What that was.
    limit: What it may be.
    action: What is asked for.
    said: What was seen and why it matters, in a sentence.
  """

  alarm: str
  metric: str
  seen: float
  limit: float
  action: str
  said: str


def parse_alarm(text: str) -> Alarm | None:
  """Reads an alarm; None if it is off.

  Raises:
    ValueError: It is none; says what it must look like.
  """
  if text == 'off':
    return None
  match = _FORM.fullmatch(text)
  if not match or match[7] not in ACTIONS or (match[4] and match[5]):
    raise ValueError(
      f'alarm {text!r} is not understood; it must be off, or like '
      "'selfplay/distinct < 0.5: warn', 'rollout/length > 2 x first: warn', "
      "'rollout/length < 0.7 x 20 steps ago: warn' or "
      "'probe/accuracy_greedy falls 0.03: rollback' (warn, rollback or stop)"
    )
  metric, sign, level, of_first, ago, fall, action = match.groups()
  if fall and metric not in [f'probe/{name}' for name in PROBED]:
    raise ValueError(
      f'alarm {text!r}: only what is seen on the probe falls: '
      + ', '.join(f'probe/{name}' for name in PROBED)
    )
  if metric.startswith('time/') or metric.endswith('_per_s'):
    raise ValueError(f'alarm {text!r}: every process has its own {metric}')
  if ago and metric.startswith(('probe/', 'eval/')):
    raise ValueError(f'alarm {text!r}: {metric} is not seen at every step')
  value, back = float(level or fall), int(ago or 0)
  return Alarm(metric, sign or 'falls', value, bool(of_first), back, action)


class Alarms:
  """The alarms of a run, and what they remember.

  Args:
    rules: Name -> alarm.
    window: Steps that a level is the mean of.
    errors: Standard errors that a fall must be larger than.
  """

  def __init__(self, rules: Mapping[str, Alarm], window: int, errors: float):
    self._rules, self._window, self._errors = rules, window, errors
    self._watched = {rule.metric for rule in rules.values()} | {_VOTES}
    self._back: dict[str, int] = {}  # how long a level is remembered
    for rule in rules.values():
      longest = max(rule.ago, self._back.get(rule.metric, 0))
      self._back[rule.metric] = longest
    self._first: dict[str, list[float]] = {}  # of each level, then its last
    self._last: dict[str, list[float]] = {}
    self._on: list[str] = []  # have gone off, and what they saw still holds
    self.best: dict[str, list[float]] = {}  # what a fall is from, by problem
    self._score: float | None = None  # the best version's

  def unseen(self, logged: Iterable[str]) -> list[str]:
    """A line for each of the user's own alarms on what is not logged."""
    logged = [*logged]
    return [
      f'alarm {name}: the first step has not logged {rule.metric}, and the '
      f'alarm is silent until one does; the nearest is '
      f'{nearest(rule.metric, logged)!r}'
      for name, rule in self._rules.items()
      if name not in DEFAULTS and rule.metric not in logged
    ]

  def state(self) -> dict[str, Any]:
    """What `resume` needs: JSON."""
    return {
      'first': {k: list(v) for k, v in self._first.items()},
      'last': {k: list(v) for k, v in self._last.items()},
      'on': list(self._on),
      'best': self.best,
      'score': self._score,
    }

  def resume(self, state: Mapping[str, Any]) -> None:
    """Takes up what `state` returned."""
    self._first = {k: list(v) for k, v in state['first'].items()}
    self._last = {k: list(v) for k, v in state['last'].items()}
    self._on, self.best = list(state['on']), dict(state['best'])
    self._score = state['score']

  def look(
    self,
    levels: Mapping[str, float],
    probed: Mapping[str, Sequence[float]],
  ) -> list[Fired]:
    """Which alarms go off now.

    One that has gone off is silent until what it saw has passed.

    Args:
      levels: New metrics.
      probed: Values by problem of the probe, the same problems every time;
        empty if the probe was not looked at.
    """
    for name, value in levels.items():
      if name in self._watched and math.isfinite(value):
        first = self._first.setdefault(name, [])
        if len(first) < self._span(name):
          first.append(value)
        recent = [*self._last.get(name, ()), value]
        kept = self._span(name) + self._back.get(name, 0)
        self._last[name] = recent[-kept:]
    fired, on = [], []
    for name, rule in self._rules.items():
      if rule.sign == 'falls':
        fresh = bool(probed)
        found = fresh and self._fallen(name, rule, probed)
      else:
        fresh = rule.metric in levels and rule.metric in self._last
        found = fresh and self._beyond(name, rule)
      if found:
        if name not in self._on or rule.sign == 'falls':
          fired.append(found)
        on.append(name)
      elif not fresh and name in self._on:
        on.append(name)
    self._on = on
    return fired

  def better(self, probed: Mapping[str, Sequence[float]]) -> bool:
    """Whether no version so far has more right answers, of both kinds."""
    return self._score is None or _score(probed) >= self._score

  def improved(self, probed: Mapping[str, Sequence[float]]) -> bool:
    """Whether this is the best version so far; if so it is remembered.

    Asked of versions that no alarm sends back. The best has the most right
    answers, greedy and sampled together; the newest of equals. Of greedy
    answers the most right ones of any best version are remembered, so that
    small losses do not add up unseen.
    """
    if not self.better(probed):
      return False
    self._score, peak = _score(probed), self.best.get('accuracy_greedy')
    self.best = {name: list(values) for name, values in probed.items()}
    if peak and np.mean(peak) > np.mean(probed['accuracy_greedy']):
      self.best['accuracy_greedy'] = peak
    return True

  def went_back(self) -> None:
    """Forgets what the version that was left has shown."""
    self._last, self._on = {}, []

  def _span(self, metric: str) -> int:
    # A look at the probe or at held-out problems is a mean already.
    return self._window if not metric.startswith(('probe/', 'eval/')) else 1

  def _fallen(self, name, rule, probed) -> Fired | None:
    metric = rule.metric.removeprefix('probe/')
    if metric not in self.best:
      return None
    fall, error = _paired(self.best[metric], probed[metric])
    most = max(rule.value, self._errors * error)
    if fall <= most:
      return None
    n = len(probed[metric])
    now, before = (
      float(np.mean(probed[metric])),
      float(np.mean(self.best[metric])),
    )
    said = (
      f'{_words(rule.metric)} on {n} held-out problems is {now:.3f}, '
      f'{fall:.3f} below the best ({_times(fall, error)}): '
      f'{_WHY[rule.metric]}{self._blame()}'
    )
    return Fired(name, rule.metric, now, before - most, rule.action, said)

  def _blame(self) -> str:
    """Whether a fall is the vote's fault or the step's, where that is known."""
    recent = self._last.get(_VOTES)
    if not recent:
      return ''
    now = float(np.mean(recent[-self._window :]))
    began = float(np.mean(self._first[_VOTES]))
    if now < 0.5 or now < began - 0.1:
      return (
        f'; votes on its own problems were right in {began:.2f} of them, now '
        f'in {now:.2f}: the vote is to blame'
      )
    return (
      f'; votes on its own problems are as right as at first ({now:.2f}): the '
      'step is too large'
    )

  def _beyond(self, name, rule) -> Fired | None:
    span = self._span(rule.metric)
    recent, first = self._last[rule.metric], self._first[rule.metric]
    if len(recent) < span or len(first) < span:
      return None
    now, was, when = float(np.mean(recent[-span:])), 1.0, ''
    if rule.of_first:
      was, when = float(np.mean(first)), 'began with'
    elif rule.ago:
      back = min(rule.ago, len(recent) - span)
      was = float(np.mean(recent[-span - back :][:span]))
      when = f'was {back} steps ago'
    limit = rule.value * was
    beyond = now < limit if rule.sign == '<' else now > limit
    if not beyond or not was:  # a share of nothing is no limit
      return None
    said = f'{_words(rule.metric)} is {now:.3g}, '
    said += f'{"below" if rule.sign == "<" else "above"} {rule.value:g}'
    said += f' x what it {when} ({was:.3g})' if when else ''
    side = 'ago' if rule.ago else rule.sign
    if why := _WHY.get((rule.metric, side), _WHY.get(rule.metric)):
      said += f': {why}'
    return Fired(name, rule.metric, now, limit, rule.action, said)


def _score(probed: Mapping[str, Sequence[float]]) -> float:
  """Right answers of a version, greedy and sampled together."""
  kinds = 'accuracy_greedy', 'accuracy_sampled'
  return sum(float(np.mean(probed[kind])) for kind in kinds)


def _paired(before, now) -> tuple[float, float]:
  """The mean fall from one version to another, and its standard error."""
  lost = np.array(before) - np.array(now)
  if len(lost) < 2:
    return float(lost.mean()), 0.0
  return float(lost.mean()), float(lost.std(ddof=1) / math.sqrt(len(lost)))


def _words(metric: str) -> str:
  group, _, name = metric.partition('/')
  named = name.replace('_', ' ').replace('/', ' ')
  return named if group in ('probe', 'rollout') else f'{group} {named}'


def _times(fall: float, error: float) -> str:
  return f'{fall / error:.1f} standard errors' if error else 'all alike'

"""What `jaxdistill gap` does: asks a model, and says whether to train it."""

import dataclasses
import json
import math
import time
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import jax
import numpy as np

from jaxdistill import dist
from jaxdistill.eval import gap as gaps
from jaxdistill.eval.verify import weigh
from jaxdistill.rollout.player import Player
from jaxdistill.rollout.verify import verify
from jaxdistill.run.ask import of_this_host
from jaxdistill.run.run import Run
from jaxdistill.types import Problem, Task

TOPICS, PROPOSALS = 16, 4  # how many problems it is asked to write


def problems_of(task: Task, split: str | None, most: int) -> list[Problem]:
  """The problems that a model is asked.

  Args:
    task: Whose they are.
    split: Which; None is dev, or train where there is no dev split.
    most: How many at most.

  Raises:
    ValueError: There is no such split.
  """
  try:
    found = task.problems(split or 'dev')
  except ValueError:
    if split:
      raise
    found = task.problems('train')
  n = min(len(found), most)
  return [dataclasses.replace(found[i], address=i) for i in range(n)]


def gap(
  run: Run,
  player: Player,
  task: Task,
  problems: Sequence[Problem],
  samples: int,
  max_tokens: int,
  names: Sequence[str] = (),
  check_tokens: int = 256,
) -> dict[str, Any]:
  """The figures, the verdict and the seconds that they took.

  All processes call it alike; each asks its part of the problems.

  Args:
    run: Whose seed it is, and which method's proposals.
    player: Who is asked.
    task: Whose problems they are; if it has a proposer's prompt the model is
      asked to write some, too.
    problems: What is asked, each at its place as its address.
    samples: Answers to each.
    max_tokens: Longest answer.
    names: Of verifiers that are weighed as well, see `verifiers`.
    check_tokens: Longest written check.
  """
  begin = time.perf_counter()
  key = jax.random.key(run.seed)
  mine = of_this_host(problems.__getitem__, len(problems))
  answers = gaps.ask(
    player, mine, samples=samples, max_tokens=max_tokens, key=key
  )
  found = gaps.weigh(gaps.of_all(answers))
  topics: Any = task.problems('train')
  n = min(len(topics), TOPICS)
  if proposes(task, [topics[i] for i in range(n)]):
    found['proposals'] = gaps.propose(
      player,
      of_this_host(topics.__getitem__, n),
      proposals=PROPOSALS,
      max_tokens=getattr(run.method, 'max_problem_tokens', 16),
      key=jax.random.fold_in(key, 1),
    )
  if names:
    found['verifiers'] = verifiers(
      run, player, mine, answers, names, check_tokens
    )
  seconds = time.perf_counter() - begin
  return gaps.verdict(found) | found | {'seconds': round(seconds, 1)}


def verifiers(
  run: Run,
  player: Player,
  problems: Sequence[Problem],
  answers: Sequence[gaps.Answers],
  names: Sequence[str],
  check_tokens: int,
) -> dict[str, dict[str, Any]]:
  """What a model's verifiers are worth on its own answers.

  Args:
    run: Whose seed it is.
    player: Who answered, and verifies.
    problems: With their known answers; this host's.
    answers: To each, from `eval.gap.ask`.
    names: Of `rollout.verify.VERIFIERS`; `one+other` is what both keep.
    check_tokens: Longest written check.

  Returns:
    By name what `eval.verify.weigh` finds, and of single ones `seconds`,
    `tokens` generated to verify, and the share of written checks that were
    `unread`.
  """
  rollouts_PG = [a.rollouts_G for a in answers]
  right_PG = np.array([a.right_G for a in gaps.of_all(answers)])
  scores, costs = {}, {}
  key = jax.random.fold_in(jax.random.key(run.seed), 2)
  single = dict.fromkeys(one for n in names for one in n.split('+'))
  for i, name in enumerate(single):  # each with draws of its own
    begin = time.perf_counter()
    found = verify(
      name,
      *(player, problems, rollouts_PG),
      key=jax.random.fold_in(key, i),
      max_tokens=check_tokens,
    )
    told = [json.dumps(scores_G.tolist()) for scores_G in found.scores_PG]
    scores[name] = np.array([*map(json.loads, dist.gather_texts(told))])
    counts = found.tokens, sum(found.unread), len(found.unread)
    tokens, unread, checks = dist.sum_over_hosts(np.array(counts))
    costs[name] = {
      'tokens': int(tokens),
      'unread': float(unread / checks) if checks else 0.0,
      'seconds': round(time.perf_counter() - begin, 1),
    }
  found = weigh(scores, right_PG, names)
  return {name: found[name] | costs.get(name, {}) for name in names}


def proposes(task: Task, topics: Sequence[Problem]) -> bool:
  """Whether a task has a prompt for proposers, and topics to propose on."""
  try:
    return all(bool(p.topic) for p in topics) and bool(
      [task.proposer_prompt(p) for p in topics]
    )
  except ValueError:
    return False


def as_text(found: Mapping[str, Any]) -> str:
  """The figures and the verdict, for people."""
  lines = []
  sizes = list(found['majority'])

  def row(name, values):
    cells = (f'{values[k]:8.3f}' if k in values else ' ' * 8 for k in sizes)
    lines.append(f'{name:34}' + ''.join(cells))

  lines.append(
    f'{"by number of samples":34}' + ''.join(f'{k:8}' for k in sizes)
  )
  row('there is a majority', found['majority'])
  if 'vote' in found:
    row('the majority is right: all problems', found['vote'])
    row('  of those that have a majority', found['right_majority'])
    row('any sample is right (pass@k)', found['pass_at'])
    lines.append(f'{"greedy answer is right":34}{found["greedy"]:8.3f}')
  lines.append(f'{"samples that agree":34}{found["agreement"]:8.3f}')
  guessed = 'right majorities, guessed'
  lines.append(f'{guessed:34}{found["guess"]:8.3f}')
  if 'proposals' in found:
    written = found['proposals']
    lines.append(
      f'{"its own problems: can be asked":34}{written["valid"]:8.3f}'
    )
    lines.append(f'{"its own problems: distinct":34}{written["distinct"]:8.3f}')
  lines += [
    '',
    f'Self-play {found["verdict"]}: {found["why"]}.'
    if found['verdict'] != 'risky'
    else f'Self-play is risky: {found["why"]}.',
    f'What to do by self-play: {found["instead"]}.',
    f'({found["seconds"]:.0f} s)',
  ]
  if 'verifiers' in found:
    lines += ['', verifiers_as_text(found['verifiers'], found['samples'])]
  return '\n'.join(lines)


def verifiers_as_text(
  found: Mapping[str, Mapping[str, Any]], samples: int
) -> str:
  """What verifiers are worth that have weighed so many samples, for people."""
  head = ('verifier', 'gap', 'relative', 'kept', 'AUC', 'mean score')
  lines = [f'{head[0]:20}' + ''.join(f'{h:>18}' for h in head[1:])]
  for name, v in found.items():
    gap = f'{v["gap"]:+.3f} ± {1.96 * v["error"]:.3f}'
    cells = [gap, f'{v["relative"]:+.3f}', f'{v["kept"]:.0%}']
    told = (v.get('auc'), v.get('confidence'))
    cells += ['' if x is None else f'{x:.3f}' for x in told]
    lines.append(f'{name:20}' + ''.join(f'{c:>18}' for c in cells))
  legend = """\
gap: by how much more often what is kept is right than all answers, with its
95%; relative: the same by problem, as a share of the answers that are wrong (1
if nothing wrong is kept); kept: of all answers; AUC: how often a right answer
scores above a wrong one; mean score: of all answers, right or wrong."""
  said = [
    f'{name} is not seen to be worth more than one of the two alone.'
    for name in found
    if '+' in name and _adds_nothing(name, found)
  ]
  return '\n'.join([*lines, legend, '', *said, best_verifier(found, samples)])


def _adds_nothing(name: str, found: Mapping[str, Mapping[str, Any]]) -> bool:
  """Whether one of two verifiers, weighed too, makes as much as both."""
  single = [found[n]['gap'] for n in name.split('+') if n in found]
  return max(single, default=-1.0) >= found[name]['gap']


def _threshold(score: float) -> str:
  """A threshold in four digits that keeps what it keeps; 0 is a default."""
  return f'{max(math.floor(score * 1e4) / 1e4, 1e-4):g}'


def best_verifier(found: Mapping[str, Mapping[str, Any]], samples: int) -> str:
  """Which verifier is worth most, and what a round can gain by it.

  The best of several is clear only beyond the interval that so many need
  together (Bonferroni).
  """
  name, best = max(found.items(), key=lambda item: item[1]['gap'])
  half = best['error'] * NormalDist().inv_cdf(1 - 0.025 / len(found))
  if best['gap'] <= half:
    return (
      f'No verifier is worth anything here: the best, {name}, makes '
      f'{best["gap"]:+.3f} ± {half:.3f} of a sampled accuracy of '
      f'{best["accuracy"]:.3f}. Learning what they keep cannot help.'
    )
  at = ' and '.join(map(_threshold, best['thresholds']))
  single = {n: v['gap'] for n, v in found.items() if '+' not in n}
  one = (
    name if name in single else max(single, key=single.__getitem__, default='')
  )
  how = 'No method keeps what two keep.'
  if one:
    (least,) = map(_threshold, found[one]['thresholds'])
    keys = {'name': 'rft', 'keep': one, 'threshold': least, 'samples': samples}
    said = ' '.join(f'--config.method.{k}={v}' for k, v in keys.items())
    with_them = f'a config of this model with {said}'
    how = (
      f'To learn it: {with_them}'
      if one == name
      else f'{how} By {one}: {with_them}'
    )
  return (
    f'{name} is worth most: what it keeps (a score of {at} or more) is right '
    f'in {best["kept_accuracy"]:.3f}, a sample in {best["accuracy"]:.3f}. One '
    f'round of learning what is kept can be expected to gain about '
    f'{best["gap"]:+.3f}. {how}'
  )

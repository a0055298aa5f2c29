"""Will self-play help this model? What its votes know that its samples do not.

Self-play by a vote moves a model towards what its samples agree on. So it can
gain at most what the vote is better by than a sample, and it unlearns where
the vote is wrong: the generation-verification gap (arXiv 2412.02674) with the
vote as the verifier.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxdistill import rewards
from jaxdistill.dist.hosts import gather_texts
from jaxdistill.eval.accuracy import pass_at
from jaxdistill.rollout.player import Player
from jaxdistill.rollout.samplers import Sampling
from jaxdistill.types import Problem, Prompt, Rollout

VOTERS = 8  # of a vote in self-play, where no other number is asked for
DRAWS = 16  # of so many samples, from which a smaller vote is estimated
# log-odds that a majority of eight is right, by the share that agrees with it:
# fitted by `launch/reproduce/gap.py` to the pairs in `results/gap`.
INTERCEPT, SLOPE = -3.26, 7.93
# Between where greedy accuracy was lost (.48 right) and where it was won first
# and lost later (.7): `results/guard`.
WRONG = 0.6


@dataclasses.dataclass(frozen=True)
class Answers:
  """What a model answers to one problem.

  Attributes:
    greedy: Its greedy answer; None if there is none.
    sampled_G: Its sampled answers.
    known: The known answer, or None.
    cut: Share of the samples that the length limit cut.
    rollouts_G: The samples.
  """

  greedy: str | None
  sampled_G: tuple[str | None, ...]
  known: str | None
  cut: float
  rollouts_G: Sequence[Rollout] = ()

  @property
  def right_G(self) -> list[float]:
    """1 for each sample that is known to be right."""
    return [float(rewards.is_right(a, self.known)) for a in self.sampled_G]


def ask(
  player: Player,
  problems: Sequence[Problem],
  *,
  samples: int,
  max_tokens: int,
  key: jax.Array,
) -> list[Answers]:
  """A model's answers to problems, known or not.

  Args:
    player: Who answers, in the solver's role, at temperature 1.
    problems: This host's.
    samples: Sampled answers to each.
    max_tokens: Longest response; one that is cut has no answer.
    key: The same key gives the same draws.
  """
  prompts = [Prompt.solve(p) for p in problems]
  sampling = Sampling(1 + samples, max_tokens, greedy=1)
  out = []
  for problem, (first, *sampled) in zip(
    problems, player.generate(prompts, sampling, key), strict=True
  ):
    (greedy,) = rewards.answers(problem.task, [first])
    answers = tuple(rewards.answers(problem.task, sampled))
    cut = np.mean([r.finish == 'length' for r in sampled])
    out.append(
      Answers(greedy, answers, problem.answer, float(cut), tuple(sampled))
    )
  return out


def of_all(answers: Sequence[Answers]) -> list[Answers]:
  """The answers of all hosts, in their order, without the samples."""
  told = [json.dumps([a.greedy, a.sampled_G, a.known, a.cut]) for a in answers]
  found = map(json.loads, gather_texts(told))
  return [
    Answers(greedy, tuple(sampled), known, cut)
    for greedy, sampled, known, cut in found
  ]


def propose(
  player: Player,
  topics: Sequence[Problem],
  *,
  proposals: int,
  max_tokens: int,
  key: jax.Array,
) -> dict[str, float]:
  """Whether a model can write problems: shares that are valid and distinct.

  Args:
    player: Who writes, in the proposer's role.
    topics: What for; this host's.
    proposals: Written on each topic.
    max_tokens: Longest proposal.
    key: The same key gives the same draws.
  """
  prompts = [Prompt.propose(t) for t in topics]
  written = player.generate(prompts, Sampling(proposals, max_tokens), key)
  found = [
    topic.task.parse_problem(r.text) if r.finish == 'stop' else None
    for topic, written_G in zip(topics, written, strict=True)
    for r in written_G
  ]
  texts = gather_texts([p.text for p in found if p and not p.task.held_out(p)])
  total = len(gather_texts([''] * len(found)))
  return {
    'valid': len(texts) / max(total, 1),
    'distinct': len({*texts}) / max(len(texts), 1),
  }


def weigh(answers_P: Sequence[Answers]) -> dict[str, Any]:
  """The figures of a model on problems.

  Args:
    answers_P: From `ask`, of all hosts.

  Returns:
    `problems`, `samples`, `agreement` (share of the samples that give the most
    frequent answer), `majority` (share of the problems in which an answer
    leads), `guess` (of `right_majority`, from agreement alone) and `cut`; where
    answers are known also `by_agreement` (how often so many of eight agree, and
    are then right), `greedy`, `sampled`, and by number of samples `vote`
    (the majority is right), `pass_at` (any is right) and `right_majority` (it
    is right where there is one). `errors` has standard errors.
  """
  samples = len(answers_P[0].sampled_G)
  voters = min(VOTERS, samples)
  votes = [rewards.majority(a.sampled_G) for a in answers_P]
  known = [i for i, a in enumerate(answers_P) if a.known is not None]
  known_P = [answers_P[i] for i in known]
  by_size = {k: _votes(answers_P, k) for k in _sizes(samples)}
  shares = by_size[voters]['share']
  out: dict[str, Any] = {
    'problems': len(answers_P),
    'samples': samples,
    'agreement': float(np.mean([v.count / samples for v in votes])),
    'majority': {k: float(np.mean(v['won'])) for k, v in by_size.items()},
    'guess': guess(shares),
    'cut': float(np.mean([a.cut for a in answers_P])),
  }
  if not known:
    return out
  by_size = {
    k: {name: values[known] for name, values in votes.items()}
    for k, votes in by_size.items()
  }
  greedy = [float(rewards.is_right(a.greedy, a.known)) for a in known_P]
  right_PG = np.array([a.right_G for a in known_P])
  sampled_P, vote_P = right_PG.mean(1), np.mean(by_size[voters]['right'], 1)
  return out | {
    'known': len(known),
    'greedy': float(np.mean(greedy)),
    'sampled': float(sampled_P.mean()),
    'vote': {k: float(np.mean(v['right'])) for k, v in by_size.items()},
    'pass_at': {
      k: float(np.mean([pass_at(k, samples, int(c)) for c in right_PG.sum(1)]))
      for k in by_size
    },
    'by_agreement': _by_agreement(by_size[voters], voters),
    'right_majority': {
      k: float(np.sum(v['right']) / max(np.sum(v['won']), 1))
      for k, v in by_size.items()
    },
    'errors': {
      'greedy': _error(greedy),
      'vote_minus_sampled': _error(vote_P - sampled_P),
      'vote_minus_greedy': _error(vote_P - np.array(greedy)),
    },
  }


def _by_agreement(votes, voters: int) -> dict[int, dict[str, float]]:
  """Number that agree -> share of the problems, and of these right ones."""
  agree = np.rint(votes['share'] * voters).astype(int)
  return {
    n: {
      'problems': float(np.mean(agree == n)),
      'right': float(votes['right'][agree == n].mean()),
    }
    for n in range(2, voters + 1)
    if np.any(agree == n)
  }


def guess(shares: Sequence[float] | np.ndarray) -> float:
  """How often a majority is right, from how many agree with it.

  Args:
    shares: Of the votes of eight samples, 0 where there is no majority.
  """
  shares = np.ravel(shares)
  shares = shares[shares > 0]
  if not len(shares):
    return 0.0
  return float(np.mean(1 / (1 + np.exp(-INTERCEPT - SLOPE * shares))))


def _sizes(samples: int) -> list[int]:
  """1, 2, 4 ... and the number of samples itself."""
  doubles = [2**i for i in range(samples.bit_length()) if 2**i < samples]
  return [*doubles, samples]


def _votes(answers_P: Sequence[Answers], k: int) -> dict[str, np.ndarray]:
  """Votes of k of the samples: what `rewards.majority` finds, float[P, D].

  A single sample is its own majority.

  Returns:
    `won` (an answer leads), `right` (and it is the known one) and `share` (of
    the k that agree with it).
  """
  n, rng = len(answers_P[0].sampled_G), np.random.default_rng(k)
  if k == 1:  # each of them
    draws = np.arange(n)[None, :, None].repeat(len(answers_P), 0)
  else:
    once = [1 if k == n else DRAWS, n]
    draws = np.broadcast_to(np.arange(n), (len(answers_P), *once))
    draws = rng.permuted(draws, axis=-1)[..., :k]
  out = np.zeros((3, len(answers_P), draws.shape[1]))
  for p, a in enumerate(answers_P):
    for d, chosen in enumerate(draws[p]):
      drawn = [a.sampled_G[i] for i in chosen]
      if k == 1:
        leader, share = drawn[0], float(drawn[0] is not None)
      else:
        vote = rewards.majority(drawn)
        leader, share = vote.answer, vote.share
      right = rewards.is_right(leader, a.known)
      out[:, p, d] = leader is not None, right, share
  return dict(zip(('won', 'right', 'share'), out, strict=True))


def _error(values) -> float:
  if len(values) < 2:
    return 0.0
  return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def verdict(found: Mapping[str, Any]) -> dict[str, str]:
  """Whether self-play by a vote will help, in words.

  Args:
    found: From `weigh`; with the `proposals` of `propose`, if there are any.

  Returns:
    `verdict` (`helps`, `risky` or `does not help`), `why` and `instead`.
  """
  written = found.get('proposals', {}).get('valid', 1.0)
  voters = min(VOTERS, found['samples'])
  measured = 'right_majority' in found
  right = found['right_majority'][voters] if measured else found['guess']
  guessed = '' if measured else ' (guessed from the agreement)'
  often = f'a majority of {voters} is right in {right:.0%} of its problems'
  often += guessed
  if found['cut'] > 0.5:
    return _said(
      'does not help',
      f'{found["cut"]:.0%} of the answers are cut and cast no vote',
      'ask again with a longer --max_tokens',
    )
  if found['majority'][voters] < 0.1:
    return _said(
      'does not help',
      f'there is a majority in only {found["majority"][voters]:.0%} of the '
      'problems',
      'an easier task, or supervised training (method sft) first',
    )
  if right < WRONG:
    return _said(
      'does not help',
      f'{often}: too much of what it would learn is wrong',
      'learn from known answers (method grpo) or responses (sft), or begin '
      'with an easier task',
    )
  if written < 0.2:
    return _said(
      'does not help',
      f'only {written:.0%} of the problems that it writes can be asked, so '
      'there is nothing to train on',
      'known answers of given problems (method grpo), or show it how in the '
      'prompt (task examples:4:TASK)',
    )
  if measured:
    gain = found['vote'][voters] - found['sampled']
    if gain < max(0.02, 2 * found['errors']['vote_minus_sampled']):
      return _said(
        'does not help',
        f'the vote is right in {found["vote"][voters]:.0%} of the problems, a '
        f'single sample in {found["sampled"]:.0%}: the vote has nothing to '
        'teach',
        'a harder task',
      )
  elif found['agreement'] > 0.97:
    return _said(
      'does not help',
      f'the samples agree already ({found["agreement"]:.0%}): the vote has '
      'nothing to teach',
      'a harder task',
    )
  # Without a proposer the vote is on the task's own problems.
  own = 'proposals' in found
  given = '' if own else ' (method.given=True and method.propose_every=0)'
  gap = found['vote'][voters] - found['greedy'] if measured else 0.0
  behind = measured and gap < -max(
    0.02, 2 * found['errors']['vote_minus_greedy']
  )
  if right >= 0.9 and not behind:
    gains = ''
    if measured:
      gains = (
        f', and better than one sample ({found["sampled"]:.0%}): sampled '
        f'accuracy can rise towards {found["vote"][voters]:.0%}'
      )
    return _said('helps', f'{often}{gains}', f'train as it is{given}')
  if behind:
    why = (
      f'the vote is right in {found["vote"][voters]:.0%} of the problems, the '
      f'greedy answer in {found["greedy"]:.0%}: samples will gain, and greedy '
      'answers may be lost'
    )
  else:
    why = f'{often}: gains come first, what the others teach later'
  return _said(
    'risky',
    why,
    f'keep the guard on, train in small steps and stop early{given}; learn '
    'only where most agree (method.band=(0.6,0.99)), or '
    + (
      'mix in known answers (method.known=0.01)'
      if own
      else 'from known answers (method grpo)'
    ),
  )


def _said(verdict: str, why: str, instead: str) -> dict[str, str]:
  return {'verdict': verdict, 'why': why, 'instead': instead}

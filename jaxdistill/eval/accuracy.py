"""How often a player is right, by itself, by vote or within k, and knows it."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxdistill import rewards
from jaxdistill.dist.hosts import sum_over_hosts
from jaxdistill.rollout.markers import doubts
from jaxdistill.rollout.player import Player
from jaxdistill.rollout.samplers import Sampling
from jaxdistill.types import Problem, Prompt

# Of a name with `accuracy` in it more is better: `best:` anchors, comparisons
# and the verdict go by that.
METRICS = (
  *('accuracy_greedy', 'accuracy_sampled', 'vote_accuracy'),
  *(
    'agreement',
    'vote_share',
    'calibration_error',
    'brier',
    'brier_sampled',
    'length',
    'cut',
  ),
  *('markers', 'markers_words', 'markers_per_1k', 'markers_words_per_1k'),
)
OF_SEVERAL = ('vote_accuracy', 'agreement', 'vote_share', 'brier_sampled')
BINS = 10  # of a vote's confidence


def accuracy(
  player: Player,
  problems: Sequence[Problem],
  *,
  samples: int,
  max_tokens: int,
  key: jax.Array,
  pass_k: Sequence[int] = (),
) -> Mapping[str, Sequence[float] | np.ndarray]:
  """Observations on this host's share of held-out problems.

  Args:
    player: Who answers, in the solver's role, at temperature 1.
    problems: Those without a known answer count in no accuracy.
    samples: Responses per problem for the sampled accuracy and the vote.
    max_tokens: Longest response; a cut one counts as wrong.
    key: The same key gives the same draws, whatever the number of hosts.
    pass_k: Which `pass_at/K` to estimate; each at most `samples`.

  Returns:
    Observations per metric: `accuracy_greedy`, `accuracy_sampled`,
    `vote_accuracy` (a tie or a singleton is wrong), `agreement` (share of the
    samples that give the most frequent answer), `vote_share` (the same, 0 where
    no answer has a majority), `calibration_error` and `brier` (of the votes
    that have one, where the answer is known: see `calibration_error`),
    `brier_sampled` (of every sample, whose confidence is the share of the other
    samples that agree with it),
    `length` (tokens), `cut`, `markers` and its kin (see `doubts`) of the
    samples, and `pass_at/K` for every K (whether any of K samples is right).
    There are none of `OF_SEVERAL` where `samples` is 1.
  """
  prompts = [Prompt.solve(p) for p in problems]
  # Prompts are read once for both: the first response is the greedy one.
  sampling = Sampling(1 + samples, max_tokens, greedy=1)
  responses_PG = player.generate(prompts, sampling, key)
  names = (*METRICS, *(f'pass_at/{k}' for k in pass_k))
  out: dict[str, list[float]] = {name: [] for name in names}
  counts, rights = [], []  # of the votes whose calibration is measured
  for problem, (first, *sampled_G) in zip(problems, responses_PG, strict=True):
    (greedy,) = rewards.answers(problem.task, [first])
    sampled = rewards.answers(problem.task, sampled_G)
    vote = rewards.majority(sampled)
    first_right, vote_right, *right_G = (
      float(rewards.is_right(answer, problem.answer))
      for answer in (greedy, vote.answer, *sampled)
    )
    if problem.answer is not None:
      out['accuracy_greedy'].append(first_right)
      out['accuracy_sampled'] += right_G
      sure_G = rewards.confidences(sampled)
      pairs = zip(sure_G, right_G, strict=True)
      out['brier_sampled'] += [(sure - right) ** 2 for sure, right in pairs]
      out['vote_accuracy'].append(vote_right)
      if vote.answer is not None:
        counts.append(vote.count)
        rights.append(vote_right)
        out['brier'].append((vote.share - vote_right) ** 2)
      for k in pass_k:
        name = f'pass_at/{k}'
        out[name].append(pass_at(k, samples, int(sum(right_G))))
    out['agreement'].append(vote.count / samples)
    out['vote_share'].append(vote.share)
    out['length'] += [len(r.tokens_T) for r in sampled_G]
    out['cut'] += [float(r.finish == 'length') for r in sampled_G]
  if samples == 1:
    out |= {name: [] for name in OF_SEVERAL}
  out['calibration_error'] = calibration_error(counts, rights, samples)
  return out | doubts([r for _, *rest in responses_PG for r in rest])


def calibration_error(
  counts: Sequence[int], rights: Sequence[float], samples: int
) -> list[float]:
  """How far votes are from being right as often as their samples agree.

  The expected calibration error (arXiv 1706.04599): the mean over bins,
  each by its number of votes, of the distance between how often they are right
  and their mean confidence, the share of the samples that agree with the
  majority. The `BINS` are equally wide, (0, .1] to (.9, 1]. Shares are
  fractions of a few samples, put there exactly: with up to ten samples each
  share has a bin of its own, and the bins hide nothing. The error is never
  negative, so well calibrated votes show their noise in it: about
  sqrt(bins in use / votes) / 3.

  All processes call it together.

  Args:
    counts: Of this host's votes: how many samples agree with the majority.
    rights: 1 or 0: whether it is right.
    samples: Of each vote.

  Returns:
    The error over all hosts, as one observation; none without any vote.
  """
  gaps, n = np.zeros(BINS), len(counts)
  for count, right in zip(counts, rights, strict=True):
    gaps[-(-BINS * count // samples) - 1] += right - count / samples
  *gaps, n = sum_over_hosts(np.array([*gaps, n]))
  return [float(np.abs(gaps).sum() / n)] if n else []


def pass_at(k: int, samples: int, right: int) -> float:
  """The chance that any of k samples is right (arXiv 2107.03374, eq. 1).

  `1 - C(n - c, k) / C(n, k)`: unbiased, from n samples of which c are right.

  Args:
    k: At most `samples`.
    samples: n.
    right: c.

  Raises:
    ValueError: There are fewer than k samples.
  """
  if k > samples:
    raise ValueError(f'pass@{k} needs {k} samples; there are {samples}')
  wrong = samples - right
  if wrong < k:
    return 1.0
  # Factors of the quotient, each at most 1: no large binomials.
  i = np.arange(wrong + 1, samples + 1)
  return float(1 - np.prod(1 - k / i))

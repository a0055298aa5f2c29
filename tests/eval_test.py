"""How often a player is right, by hand."""

import fractions
import importlib
import itertools
import math

import jax
import numpy as np
import pytest

from jaxdistill.data.tasks import SmallTask
from jaxdistill.eval import METRICS, accuracy, calibration_error, pass_at
from jaxdistill.rollout.player import Player
from jaxdistill.rollout.samplers import Sampling
from jaxdistill.types import Problem, Rollout

CUT = '...'


class Scripted(Player):
  """Says what it is told to: one greedy response, the rest by sampling."""

  def __init__(self, words):
    self.words, self.asked = words, []

  def generate(self, prompts_P, sampling, key):
    self.asked.append(sampling)
    return [
      [self.response(p, w) for w in self.pick(p, sampling)] for p in prompts_P
    ]

  def pick(self, prompt, sampling):
    assert sampling.greedy == 1  # the first of what is said
    assert len(self.words[prompt.text]) == sampling.samples
    return self.words[prompt.text]

  def response(self, prompt, text):
    tokens = np.zeros(len(text), np.int32)
    zeros = np.zeros(len(text), np.float32)
    finish = 'length' if text.endswith(CUT) else 'stop'
    text = text.removesuffix(CUT)
    return Rollout(prompt, tokens, tokens, zeros, zeros, finish, text)


WORDS = {
  'solve 1+1:': [';2', ';2', ';2', ';02', ';2'],
  'solve 1+2:': [';4', ';3', ';4', ';4', ';5'],
  'solve 1+3:': [';4', ';5', ';6', 'what', f';4{CUT}'],
  'solve 1+4:': [f';5{CUT}', ';5', ';5', ';6', ';6'],
}
PROBLEMS = [Problem(f'1+{i}', SmallTask(), str(1 + i)) for i in range(1, 5)]


def measure(pass_k=(), samples=4):
  words = {asked: said[: 1 + samples] for asked, said in WORDS.items()}
  found = accuracy(
    Scripted(words),
    PROBLEMS,
    samples=samples,
    max_tokens=8,
    key=jax.random.key(0),
    pass_k=pass_k,
  )
  return {name: list(values) for name, values in found.items()}


def test_what_is_measured_by_hand():
  found = measure()
  assert found.keys() == set(METRICS)
  assert found['accuracy_greedy'] == [1, 0, 1, 0]
  assert found['accuracy_sampled'] == [
    *(1, 1, 1, 1),
    *(1, 0, 0, 0),
    *(0, 0, 0, 0),
    *(1, 1, 0, 0),
  ]
  assert found['vote_accuracy'] == [1, 0, 0, 0]
  assert found['agreement'] == [1, 0.5, 0.25, 0.5]
  # Of four votes two have a majority: all say 2, and half of them say 4.
  assert found['brier'] == [0, 0.25]
  assert found['calibration_error'] == [(0 + 0.5) / 2]
  # Of each sample: all agree and are right; one is right and alone, two agree
  # and are wrong; nobody agrees; two agree and are right, two and are wrong.
  by_problem = np.reshape(found['brier_sampled'], (4, 4))
  np.testing.assert_allclose(
    np.sort(by_problem),
    np.array([[0] * 4, [0, 1, 1, 9], [0] * 4, [1, 1, 4, 4]]) / 9,
  )
  assert found['cut'] == [0] * 11 + [1] + [0] * 4
  assert found['length'] == [2, 2, 3, 2, 2, 2, 2, 2, 2, 2, 4, 5, 2, 2, 2, 2]


def test_one_sample_has_nobody_to_agree_with():
  found = measure(samples=1)
  empty = {name for name, values in found.items() if not len(values)}
  assert empty == {
    *('vote_accuracy', 'agreement', 'vote_share'),
    *('brier', 'brier_sampled', 'calibration_error'),
  }
  assert found['accuracy_sampled'] == [1, 1, 0, 1]


def test_within_k_by_hand():
  found = measure(pass_k=(1, 2, 4))
  names = {'pass_at/1', 'pass_at/2', 'pass_at/4'}
  assert found.keys() == {*METRICS, *names}
  np.testing.assert_allclose(found['pass_at/1'], [1, 1 / 4, 0, 1 / 2])
  np.testing.assert_allclose(found['pass_at/2'], [1, 1 / 2, 0, 5 / 6])
  np.testing.assert_allclose(found['pass_at/4'], [1, 1, 0, 1])
  assert {k: v for k, v in found.items() if k not in names} == measure()


def test_within_one_is_the_sampled_accuracy():
  found = measure(pass_k=(1, 2))
  one, sampled = found['pass_at/1'], found['accuracy_sampled']
  assert np.mean(one) == pytest.approx(np.mean(sampled))
  assert 0 < np.mean(sampled) < np.mean(found['pass_at/2'])


def test_one_greedy_response_and_samples_at_temperature_1():
  player = Scripted(WORDS)
  accuracy(player, PROBLEMS, samples=4, max_tokens=8, key=jax.random.key(0))
  # In one call, so that prompts are read once.
  assert player.asked == [Sampling(5, 8, temperature=1.0, greedy=1)]


@pytest.mark.parametrize('right', range(7))
def test_within_k_is_the_share_of_subsets_with_a_right_one(right):
  samples = [i < right for i in range(6)]
  for k in range(1, 7):
    subsets = [any(s) for s in itertools.combinations(samples, k)]
    share = sum(subsets) / len(subsets)
    assert pass_at(k, 6, right) == pytest.approx(share, abs=1e-12)


def test_within_k_of_many_samples():
  for right in range(65):
    for k in range(1, 65):
      wanted = 1 - math.comb(64 - right, k) / math.comb(64, k)
      assert pass_at(k, 64, right) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize('n', [1, 2, 7, 1000])
def test_within_k_at_its_ends(n):
  for k in {1, (n + 1) // 2, n}:
    assert pass_at(k, n, 0) == 0
    assert pass_at(k, n, n) == 1
  for right in range(1, n + 1):
    assert pass_at(n, n, right) == 1
    assert pass_at(1, n, right) == pytest.approx(right / n)


@pytest.mark.parametrize(
  ('counts', 'rights', 'samples', 'error'),
  [
    ([4, 4, 2, 2], [1, 1, 1, 0], 4, 0.0),  # as often right as they say
    ([4, 4, 2, 2], [1, 0, 0, 0], 4, (2 * 0.5 + 2 * 0.5) / 4),
    ([3, 3, 3, 3], [1, 1, 1, 1], 4, 0.25),  # less sure than they are right
    # Two shares of one bin, (.6, .7]: what one lacks the other has.
    ([13, 14], [1, 0], 20, abs(0.35 - 0.7) / 2),
    ([2, 3], [1, 0], 10, (0.8 + 0.3) / 2),  # .2 and .3, on edges: two bins
    ([5], [1], 5, 0.0),
  ],
)
def test_calibration_error_by_hand(counts, rights, samples, error):
  (found,) = calibration_error(counts, rights, samples)
  assert found == pytest.approx(error, abs=1e-12)


@pytest.mark.parametrize('samples', [4, 7, 10, 16, 33])
def test_calibration_error_by_the_textbook(samples):
  rng = np.random.default_rng(samples)
  counts = rng.integers(2, samples + 1, 200)
  rights = rng.random(200) < (counts / samples) ** 2
  error = 0.0
  for b in range(10):
    edges = fractions.Fraction(b, 10), fractions.Fraction(b + 1, 10)
    inside = [
      edges[0] < fractions.Fraction(int(c), samples) <= edges[1] for c in counts
    ]
    if any(inside):
      apart = rights[inside].mean() - (counts[inside] / samples).mean()
      error += np.mean(inside) * abs(apart)
  (found,) = calibration_error(counts.tolist(), rights.tolist(), samples)
  assert found == pytest.approx(error, abs=1e-12) and found > 0.05


def test_calibration_error_is_of_the_votes_of_all_hosts(monkeypatch):
  rng = np.random.default_rng(0)
  counts, rights = rng.integers(2, 9, 50).tolist(), rng.integers(0, 2, 50)
  (whole,) = calibration_error(counts, rights.tolist(), 8)
  parts = [slice(0, 20), slice(20, 50), slice(50, 50)]  # one has no problems

  def by_host():
    return [calibration_error(counts[p], rights[p].tolist(), 8) for p in parts]

  sent = []
  module = importlib.import_module('jaxdistill.eval.accuracy')
  monkeypatch.setattr(module, 'sum_over_hosts', lambda x: sent.append(x) or x)
  assert by_host()[2] == []
  monkeypatch.setattr(module, 'sum_over_hosts', lambda x: sum(sent))
  assert by_host() == [[pytest.approx(whole)]] * 3

"""Which edits are kept, and what they say of their own learning."""

import math

import numpy as np
import pytest

from jaxdistill import rewards
from jaxdistill.rewards.edits import ORDERS


@pytest.mark.parametrize(
  ('keep', 'least', 'found'),
  [(1, -np.inf, [1]), (3, -np.inf, [1, 0, 3]), (3, 0.4, [1, 0]), (2, 1, [])],
)
def test_the_best_come_first_and_ties_by_place(keep, least, found):
  scores, valid = np.array([0.5, 1, 2, 0.2]), np.array([1, 1, 0, 1], bool)
  rng = np.random.default_rng(0)
  kept = rewards.chosen(scores, valid, least, keep, ORDERS['best'], rng)
  assert kept == found
  ties = rewards.chosen(np.ones(3), np.ones(3, bool), 0, 2, ORDERS['best'], rng)
  assert ties == [0, 1]


def test_spreads_by_hand():
  between, within = rewards.spreads(np.array([[0.0, 1.0], [1.0, 1.0]]))
  assert between == pytest.approx(math.sqrt(0.125), abs=1e-6)
  assert within == pytest.approx(0.5, abs=1e-6)  # sqrt((.5 + 0) / 2)
  assert all(map(math.isnan, rewards.spreads(np.ones((1, 1)))))


@pytest.mark.parametrize(
  ('text', 'left', 'settings', 'absurd'),
  [
    ('a\nb', 'a\nb', (None, None), False),
    ('{"epochs": 3}\na', 'a', (None, 3), False),
    ('a\n{"lr_scale": 0.5, "epochs": 30}', 'a', (0.5, 30), False),
    ('{"epochs": 3}\n{"epochs": 4}\na', 'a', (None, 4), False),
    ('{"epochs": 31}\na', 'a', (None, 31), True),
    ('{"epochs": 2.5}\na', 'a', (None, 2.5), True),
    ('{"epochs": 0}\na', 'a', (None, 0), True),
    ('{"lr_scale": 11}\na', 'a', (11, None), True),
    ('{"lr_scale": 0.01}\na', 'a', (0.01, None), True),
    ('{"lr_scale": -1}\na', 'a', (-1, None), True),
    ('{"lr_scale": "high"}\na', 'a', (math.nan, None), True),
    ('{"epochs": true}\na', 'a', (None, math.nan), True),
    ('{"epochs": 1e999}\na', 'a', (None, math.nan), True),
    ('{"other": 3}\na', '{"other": 3}\na', (None, None), False),
    ('[1]\n{"epochs"', '[1]\n{"epochs"', (None, None), False),
  ],
)
def test_settings_of_an_edit(text, left, settings, absurd):
  found, said_ = rewards.read_settings(text)
  assert found == left
  np.testing.assert_equal(tuple(said_), settings)
  assert said_.absurd(10.0, 30) == absurd

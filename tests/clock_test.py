"""Anchors that count steps of the optimizer, and anchors of other models."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import config as configs
from jaxdistill.anchors import Anchors, Bank, External, parse_rule
from jaxdistill.methods.method import Method, anchors_of
from jaxdistill.types import Anchor


@pytest.fixture
def bank(tmp_path):
  bank = Bank(tmp_path / 'anchors')
  yield bank
  bank.wait()


def policy(value):
  return {'x': jnp.array([float(value), 1.0])}


def anchors_by_update(bank, rule):
  anchors = Anchors(bank, {'a': parse_rule(rule)}, ('a',), 0, ('a',))
  anchors.refresh(0, policy(4), {}, 0)
  return anchors


def held(anchors):
  return float(anchors.params['a']['x'][0])


def test_an_average_moves_at_each_update_and_not_at_the_run_s_steps(bank):
  anchors = anchors_by_update(bank, 'ema:0.75')
  for step, (now, wanted) in enumerate([(8, 5.0), (1, 4.0), (4, 4.0)], 1):
    anchors.after_update(step, policy(now), {})
    assert held(anchors) == wanted
  anchors.refresh(1, policy(100), {}, 0)
  assert held(anchors) == 4.0


def test_every_k_counts_updates(bank):
  anchors = anchors_by_update(bank, 'every:2')
  seen = []
  for step in range(1, 6):
    anchors.after_update(step, policy(10 * step), {})
    seen.append(held(anchors))
  assert seen == [4, 20, 20, 40, 40]
  bank.wait()
  assert bank.steps('a') == [0]  # updates leave no snapshots


def test_trust_reads_the_update_s_divergence(bank):
  anchors = anchors_by_update(bank, 'trust:0.5')
  anchors.after_update(1, policy(7), {'train/kl_a': 0.4})
  assert held(anchors) == 4
  anchors.after_update(2, policy(8), {'train/kl_a': 0.6})
  assert held(anchors) == 8


@pytest.mark.parametrize('rule', ['ema:0.5', 'every:2', 'trust:0.5'])
def test_it_is_taken_up_where_the_run_was_saved(tmp_path, rule):
  def train(anchors, first, last):
    for step in range(first, last):
      anchors.refresh(step, policy(step), {}, 0)
      for update in (1, 2, 3):
        seen = {'train/kl_a': step / 4}
        now = policy(10 * step + update)
        anchors.after_update(3 * step + update, now, seen)
    return anchors

  whole, first, again = (
    Anchors(Bank(tmp_path / w), {'a': parse_rule(rule)}, ('a',), 0, ('a',))
    for w in ('whole', 'cut', 'cut')
  )
  train(whole, 0, 6)
  record = train(first, 0, 3).save(3)
  again.resume(3, record, policy(0))
  assert held(again) == held(first)
  train(again, 3, 6)
  np.testing.assert_array_equal(again.params['a']['x'], whole.params['a']['x'])
  for anchors in (whole, first, again):
    anchors.bank.wait()


def test_it_goes_back_with_the_policy(bank):
  anchors = anchors_by_update(bank, 'every:2')
  anchors.after_update(2, policy(9), {})
  anchors.went_back(1, 0, policy(4))
  assert held(anchors) == 4


@pytest.mark.parametrize(
  ('text', 'rule'),
  [
    ('model:small-late', External('small-late')),
    ('model:hf:a/b@main', External('hf:a/b@main')),
    ('model:/a/b?dtype=bfloat16', External('/a/b', 'bfloat16')),
    ('model:x?cache_gib=1.5&dtype=float32', External('x', 'float32', 1.5)),
  ],
)
def test_other_models_are_rules(text, rule):
  assert parse_rule(text) == rule


@pytest.mark.parametrize(
  'text', ['model:x?dtype=int8', 'model:x?size=2', 'model:x?cache_gib=-1']
)
def test_what_may_be_asked_of_another_model(text):
  with pytest.raises(ValueError, match='dtype=float32 or bfloat16'):
    parse_rule(text)


def test_anchors_of_a_method():
  class Mine(Method):
    problems = 1
    anchors = {'a': 'every:2', 'b': Anchor('ema:0.9', True, 'optimizer')}  # noqa: RUF012

    def collect(self, players, problems, state, step, key): ...

    def loss(self, model, anchors, batch): ...

  assert anchors_of(Mine()) == {
    'a': Anchor('every:2'),
    'b': Anchor('ema:0.9', in_loss=True, clock='optimizer'),
  }


MINE = """
import dataclasses
from jaxdistill.methods.method import Method
from jaxdistill.types import Anchor

@dataclasses.dataclass(frozen=True)
class Mine(Method):
  problems: int = 8
  rule: str = 'frozen'
  clock: str = 'run'
  @property
  def anchors(self):
    return {'teacher': Anchor(self.rule, clock=self.clock)}
  def collect(self, players, problems, state, step, key): ...
  def loss(self, model, anchors, batch): ...
"""


@pytest.mark.parametrize(
  ('keys', 'said'),
  [
    ({'method.rule': 'model:small-latest'}, "no model 'small-latest'.*nearest"),
    ({'method.rule': 'model:small-late?x=1'}, 'after [?] there may be'),
    ({'anchors.mine': 'model:small-late'}, 'nothing asks it'),
    (
      {'method.rule': 'league:5', 'method.clock': 'optimizer'},
      'goes by steps of the run',
    ),
    ({'method.rule': 'model:small-late'}, None),
    ({'method.rule': 'ema:0.5', 'method.clock': 'optimizer'}, None),
  ],
)
def test_what_cannot_be_is_said_before_anything_is_loaded(tmp_path, keys, said):
  (tmp_path / 'mine.py').write_text(MINE)
  config = configs.base_config(str(tmp_path / 'mine.py'))
  configs.override(config, keys.items())
  if said is None:
    configs.check(config)
  else:
    with pytest.raises(configs.ConfigError, match=said):
      configs.check(config)

"""Settings of self-play after its other systems: turns, guides, dropout."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from scripted import SCRIPT, Anchor, Scripted, Sums, collect, collected_by
from whole_runs import trained_by

from jaxdistill import config as configs
from jaxdistill.config.keys import filled
from jaxdistill.data.tasks import SmallTask
from jaxdistill.methods.sqlm import Sqlm
from jaxdistill.rollout.player import Player
from jaxdistill.types import Problem, Wording

SMALL = pathlib.Path(__file__).parents[1] / 'configs' / 'sqlm_small.py'


@dataclasses.dataclass(frozen=True)
class Guided(Sums):
  @property
  def wordings(self):
    return {'suit': Wording('{topic}?{text}', ('yes', 'no'))}

  def parse_problem(self, text):
    found = super().parse_problem(text)
    return found and dataclasses.replace(found, task=self)


TOPICS = [
  Problem('', Guided(), topic='small', address=4),
  Problem('', Guided(), topic='large', address=5),
]
SUITED = {
  **{'small?1+6': 0.5, 'small?2+3': 0.25},
  **{'large?50+51': 0.125, 'large?3+4': 0.75},
}


class Guide(Player):
  """Says yes with the probability that is written down."""

  def __init__(self):
    object.__setattr__(self, 'scripted', Scripted(SCRIPT))
    object.__setattr__(self, 'asked', [])

  def generate(self, prompts_P, sampling, key):
    return self.scripted.generate(prompts_P, sampling, key)

  def choose(self, prompts, choices):
    assert list(choices) == ['yes', 'no'] or not prompts
    self.asked.append(prompts)
    yes = np.array([SUITED[p.text] for p in prompts])
    return np.log(np.stack([yes, 1 - yes], 1)) - 3.0  # and other words


def guided(players, topics=TOPICS, **keys):
  few = {'problems': 2, 'proposals': 3, 'samples': 4}
  method = filled(Sqlm, few | {'guide': 'frozen'} | keys)
  found = {'policy': Scripted(SCRIPT), 'base': Anchor()} | players
  return collected_by(method, found, topics, method.init(), 4)


def test_a_guide_weighs_what_proposals_earn():
  guide = Guide()
  collected = guided({'guide': guide})
  # Worth asking are the first and the last; the others earn nothing anyway.
  earned = collected.metrics['selfplay/proposer_reward']
  assert earned == pytest.approx([0.5, 0, 0, 0, 0, 0.75])
  suited = collected.metrics['selfplay/suited']
  assert suited == pytest.approx([0.5, 0.25, 0.125, 0.75])
  (prompts,) = guide.asked
  assert [p.text for p in prompts] == [*SUITED]
  assert {p.role for p in prompts} == {'solver'}
  # What it read is counted: 1+6, 2+3, 50+51 and 3+4.
  alone, _, _ = collect()
  assert collected.scored - alone.scored == 3 + 3 + 5 + 3
  assert Sqlm(guide='frozen').anchors['guide'] == 'frozen'
  assert 'guide' not in Sqlm(guide='policy').anchors


def test_the_policy_may_be_its_own_guide():
  policy = Guide()
  collected = guided({'policy': policy}, guide='policy')
  assert collected.metrics['selfplay/suited'] == pytest.approx(
    [0.5, 0.25, 0.125, 0.75]
  )


def test_a_host_without_topics_asks_the_guide_as_often():
  guide = Guide()
  collected = guided({'guide': guide}, topics=[])
  assert guide.asked == [[]]
  assert collected.metrics['selfplay/suited'] == []


def test_a_task_without_the_words_is_named():
  with pytest.raises(ValueError, match="small has no words for 'suit'"):
    Sqlm(guide='policy').check(SmallTask())


def test_proposer_and_solver_take_turns():
  def roles(step):
    updates = collect(step, turns=(2, 3), propose_every=1)[0].updates
    return [u.sets[0].role for u in updates]

  found = [roles(step) for step in range(7)]
  first, then = ['proposer'], ['solver']
  assert found == [first, first, then, then, then, first, first]


def test_dropout_is_the_proposer_s():
  _, policy, _ = collect(dropout=0.25)
  (_, writing), (_, solving) = policy.asked
  assert (writing.dropout, solving.dropout) == (0.25, 0.0)


@pytest.mark.parametrize(
  ('keys', 'said'),
  [
    ({'turns': (2,)}, r'turns is \(2,\); it must be \(steps of the prop'),
    ({'turns': (0, 3)}, 'steps of the solver'),
    ({'turns': (2, 3)}, 'propose_every is 5; with method.turns'),
    ({'dropout': 1.0}, 'dropout is 1.0'),
    ({'given': True, 'propose_every': 0, 'guide': 'policy'}, 'guide is'),
    ({'given': True, 'propose_every': 0, 'dropout': 0.1}, 'dropout is 0.1'),
  ],
)
def test_what_cannot_be_is_said(keys, said):
  with pytest.raises(ValueError, match=said):
    filled(Sqlm, keys)


FEW = {
  **{'steps': 3, 'eval_every': 3, 'checkpoint_every': 3},
  **{'eval.splits': ('test',), 'eval.problems': 4, 'eval.samples': 2},
  **{'eval.max_tokens': 24, 'method.problems': 4, 'method.max_tokens': 24},
  **{'batch.length': 96, 'batch.sequences': 8, 'optimizer.warmup': 0},
  **{'guard.every': 0, 'optimizer.lr': 1e-2},
}


@pytest.fixture
def trained(mesh, tmp_path):
  def train(**keys):
    config = configs.read_config(str(SMALL), (FEW | keys).items())
    return trained_by(config, tmp_path / 'run')

  return train


def test_roles_of_their_own_share_nothing_that_moves(trained):
  """Two sets of weights in turns: who stands still answers as before."""
  weights = {'trainable': 'roles', 'roles': 'adapter'}
  turns = {'method.turns': (1, 2), 'method.propose_every': 1}
  loop, lines, before = trained(
    **weights, **turns, **{'method.proposer_reward': 'valid'}
  )
  assert not jax.tree.leaves(loop.state.params.shared)
  solver, proposer = loop.run.loaded.model.deltas.roles
  assert (solver, proposer) == ('solver', 'proposer')
  moved = [
    np.abs(np.asarray(b) - a).reshape(2, -1).max(1)
    for a, b in zip(
      *map(jax.tree.leaves, (before.roles, loop.state.params.roles)),
      strict=True,
    )
  ]
  assert all(of_solver > 0 for of_solver, _ in moved)
  learned = [{'train/loss', 'train/proposer_loss'} & {*x} for x in lines[:3]]
  assert learned == [{'train/proposer_loss'}, {'train/loss'}, {'train/loss'}]


def test_no_weights_at_all_are_refused():
  keys = {'trainable': 'roles', 'roles': 'shared'}
  config = configs.read_config(str(SMALL), keys.items())
  with pytest.raises(configs.ConfigError, match='no role has weights of its'):
    configs.check(config)

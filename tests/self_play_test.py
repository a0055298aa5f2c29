"""Settings of self-play after its other systems: turns, guides, dropout."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from flax import nnx
from players import PROMPTS, flat, make_player
from scripted import (
  KEY,
  SCRIPT,
  Anchor,
  Scripted,
  Sums,
  collect,
  collected_by,
)
from scripted import TOPICS as PLAIN
from whole_runs import trained_by

from jaxdistill import config as configs
from jaxdistill.batch import Shapes, make_batch
from jaxdistill.batch.arrays import Reading
from jaxdistill.config.keys import filled
from jaxdistill.data.tasks import SmallTask
from jaxdistill.methods.method import check_task
from jaxdistill.methods.sqlm import Sqlm
from jaxdistill.rollout import Sampling
from jaxdistill.rollout.player import Player
from jaxdistill.types import Problem, RowSet, Wording, response_row

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

  def generate(self, prompts_P, sampling, key, expected=0):
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
  assert Sqlm(guide='frozen').anchors['guide'].rule == 'frozen'
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
  with pytest.raises(ValueError, match=r"no words for 'suit'.* of the guide"):
    check_task(Sqlm(guide='policy'), SmallTask())


def test_proposer_and_solver_take_turns():
  def roles(step):
    updates = collect(step, alternate=(2, 3), propose_every=1)[0].updates
    return [u.sets[0].role for u in updates]

  found = [roles(step) for step in range(7)]
  first, then = ['proposer'], ['solver']
  assert found == [first, first, then, then, then, first, first]


class Bare(Anchor):
  """Says what the script has, without some words."""

  def __init__(self):
    super().__init__()
    self.__dict__.update(scripted=Scripted(SCRIPT), held=[])

  def generate(self, prompts_P, sampling, key, expected=0):
    said = self.scripted.generate(prompts_P, sampling, key)
    kept = -0.125 * (sampling.dropout > 0)
    return [
      [dataclasses.replace(r, kept_T=r.kept_T + kept) for r in said_G]
      for said_G in said
    ]

  def withheld(self, share, key):
    self.held.append((share, jax.random.key_data(key).tolist()))
    return np.array([False, True, False])


def test_a_proposer_without_some_words_learns_without_them():
  policy = Bare()
  method = filled(
    Sqlm,
    {'problems': 2, 'proposals': 3, 'samples': 4, 'dropout': 0.25, 'kl': 0.5},
  )
  players = {'policy': policy, 'base': Anchor()}
  collected = collected_by(method, players, PLAIN, method.init(), 4)
  (_, writing), (_, solving) = policy.scripted.asked
  assert (writing.dropout, solving.dropout) == (0.25, 0.0)
  # By the key that proposals are drawn by.
  place = jax.random.key_data(jax.random.fold_in(KEY, 0)).tolist()
  assert policy.held == [(0.25, place)]
  solver, proposer = (u.sets[0] for u in collected.updates)
  assert 'withheld' not in solver.coefficients
  assert solver.coefficients['kl'] == 0.5 and 'anchor_logp' in solver.fields
  assert proposer.coefficients['withheld'].tolist() == [False, True, False]
  # Scripted log-probs are -0.5, of which -0.125 was kept.
  for row in proposer.rows:
    np.testing.assert_allclose(row.fields['old_logp'], -0.375)
    assert 'anchor_logp' not in row.fields


def test_log_probs_of_what_was_drawn_without_some_words(one_device):
  """The loss finds the very probabilities that tokens were drawn by."""
  player = make_player(one_device)
  sampling = Sampling(samples=4, max_tokens=10, dropout=0.4)
  rollouts = flat(player.generate(PROMPTS[:4], sampling, KEY))
  drawn = [r.logp_T - r.kept_T for r in rollouts]
  rows = [
    response_row(r, 1.0, 1.0, advantage=0.75, old_logp=x)
    for r, x in zip(rollouts, drawn, strict=True)
  ]
  coefficients = {
    **{'clip_low': 0.2, 'clip_high': 0.2, 'kl': 0.0, 'importance_cap': 2.0},
    'withheld': player.withheld(0.4, KEY),
  }
  fields = 'advantage', 'old_logp'
  row_set = RowSet('proposer', rows, fields, coefficients, 'proposer')
  batch, _ = make_batch(row_set, 1, one_device, Shapes(256, 1))
  read = batch.reading
  first = dataclasses.replace(
    batch,
    reading=Reading(
      read.tokens[0], read.positions[0], read.until[0], read.sources[0]
    ),
    fields={name: x[0] for name, x in batch.fields.items()},
    **{n: getattr(batch, n)[0] for n in ('targets', 'segments', 'weight')},
  )

  @jax.jit
  def loss(params, batch):
    return Sqlm().loss(nnx.merge(player.graphdef, *params), {}, batch)

  values, metrics = loss(player.params, first)
  trained = np.asarray(first.weight) != 0
  assert trained.sum() == sum(map(len, drawn))
  # The ratio is one, and an advantage of .75 is to be had at every token.
  np.testing.assert_allclose(np.asarray(values)[trained], -0.75, rtol=2e-4)
  assert np.isfinite(values).all() and not np.asarray(metrics['clipped']).any()


@pytest.mark.parametrize(
  ('keys', 'said'),
  [
    (
      {'alternate': (2,), 'propose_every': 1},
      r'alternate is \(2,\); it must be',
    ),
    ({'alternate': (0, 3), 'propose_every': 1}, 'of the solver'),
    ({'alternate': (2, 3)}, 'with method.propose_every 1'),
    ({'dropout': 0.1, 'top_k': 5}, 'with method.top_k 0'),
    ({'guide': 'frozen', 'propose_every': 0}, 'nobody is paid'),
    ({'dropout': 1.0}, 'method.dropout is 1.0'),
    ({'given': True, 'propose_every': 0, 'guide': 'policy'}, 'nobody is paid'),
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


@pytest.mark.parametrize('turns', [(1, 2), (3, 1)])
def test_roles_of_their_own_share_nothing_that_moves(trained, turns):
  """Two sets of weights in turns: who does not learn stays as it was."""
  loop, lines, before = trained(
    **{'steps': turns[0], 'eval_every': 3, 'checkpoint_every': 3},
    **{'trainable': 'roles', 'roles': 'adapter', 'method.alternate': turns},
    **{'method.propose_every': 1, 'method.proposer_reward': 'varied'},
  )
  assert all('train/proposer_loss' in x for x in lines[: turns[0]])
  assert not any('train/loss' in x for x in lines)
  assert not jax.tree.leaves(loop.state.params.shared)
  assert loop.run.loaded.model.deltas.roles == ('solver', 'proposer')
  pairs = zip(
    *map(jax.tree.leaves, (before.roles, loop.state.params.roles)),
    strict=True,
  )
  moved = [np.abs(np.asarray(b) - a).reshape(2, -1).max(1) for a, b in pairs]
  solver, proposer = np.array(moved).T
  assert not solver.any() and proposer.any()


def test_no_weights_at_all_are_refused():
  keys = {'trainable': 'roles', 'roles': 'shared'}
  config = configs.read_config(str(SMALL), keys.items())
  with pytest.raises(configs.ConfigError, match='no role has weights of its'):
    configs.check(config)

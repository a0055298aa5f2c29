"""One step ahead: what is drawn when, and that nothing of it is lost."""

import json

import jax
import numpy as np
import pytest
from etils import epath
from loop_test import lines, same, small, start
from survive_test import brief, ended_alike
from whole_runs import dies_after

from jaxdistill.batch import make_batch
from jaxdistill.checkpoint import RefusedError
from jaxdistill.run import pending, updating
from jaxdistill.run.pending import Pending
from jaxdistill.types import (
  Collected,
  Field,
  Prompt,
  Records,
  Row,
  RowSet,
  Update,
)


def quick(**changes):
  """A run that draws, with few programs to compile."""
  config = small('grpo', ahead=True, **changes)
  config.method.samples = 4
  config.eval.splits, config.eval.problems = ('test',), 2
  config.optimizer.lr = 1e-3
  return config


def noted(loop, collect, events):
  """Has a run note what it does with what `collect` gives."""
  update = loop.update

  def noting(what, stale=False):
    events.append(('update', int(loop.state.step), stale))
    return update(what, stale)

  loop.update = noting
  object.__setattr__(loop.run.method, 'collect', collect)
  return loop


def split(events, adopt=()):
  """A method that draws, and then judges; it reads no model."""

  def collect(players, problems, state, step, key):
    events.append(('draw', step))
    policy = players['policy']
    yield
    assert 'policy' not in players
    events.append(('judge', step))
    rollouts = [
      policy.written(Prompt('solver', p.demonstration[0]), '1')
      for p in problems
    ]
    rows = [
      Row(r.prompt_T, r.tokens_T, np.ones(len(r.tokens_T)), len(r.tokens_T))
      for r in rollouts
    ]
    update = Update((RowSet('solver', rows),))
    told = [{'step': step}]
    return Collected(
      [update], {'steps': step}, {}, told, 10, 1 if step in adopt else None
    )

  return collect


def test_what_comes_after_what(mesh, tmp_path):
  events = []
  loop = start(brief(ahead=True, steps=3, tokens=0), tmp_path)
  noted(loop, split(events), events).train()
  assert events == [
    *(('draw', 0), ('judge', 0), ('draw', 1), ('update', 0, False)),
    *(('judge', 1), ('draw', 2), ('update', 1, True)),
    *(('judge', 2), ('update', 2, True)),
  ]
  assert loop.tokens == 30 and loop.method_state == {'steps': 2}
  left = sorted(p.name for p in (tmp_path / 'pending').iterdir())
  assert left == ['1', '1.json', '2', '2.json']  # a checkpoint at 3 has none


def test_what_is_off_is_drawn_when_it_is_needed(mesh, tmp_path):
  events = []
  loop = start(brief(steps=2), tmp_path)
  noted(loop, split(events), events).train()
  assert events == [
    *(('draw', 0), ('judge', 0), ('update', 0, False)),
    *(('draw', 1), ('judge', 1), ('update', 1, False)),
  ]
  assert not (tmp_path / 'pending').exists()


def test_nothing_is_drawn_beyond_the_budget(mesh, tmp_path):
  events = []
  loop = start(brief(ahead=True, steps=9, tokens=20), tmp_path)
  noted(loop, split(events), events).train()
  assert [e for e in events if e[0] == 'draw'] == [('draw', 0), ('draw', 1)]
  assert loop.tokens == 20 and len(lines(tmp_path)) == 3
  names = sorted(p.name for p in (tmp_path / 'rollouts').iterdir())
  assert names == ['000000.jsonl', '000001.jsonl']


def test_who_draws_no_more_is_a_function_and_yields_once(mesh, tmp_path):
  def twice(*args):
    yield
    yield

  def never(*args):
    return Collected([], {}, {})
    yield

  args = {}, [], {}, 0, jax.random.key(0)
  for collect in (never, lambda *args: Collected([], {}, {})):
    loop = noted(start(brief(), tmp_path), collect, [])
    assert pending.drawn(loop.run.method, *args)() == Collected([], {}, {})
    loop.workdir.close()
  loop = noted(start(brief(), tmp_path), twice, [])
  with pytest.raises(ValueError, match='yields more than once'):
    pending.drawn(loop.run.method, *args)()


def test_given_responses_are_learned_as_ever(mesh, tmp_path):
  """A plain function; and nothing that it learns from depends on weights."""
  loops = []
  for name, ahead in (('off', False), ('on', True)):
    loops.append(start(brief(ahead=ahead), tmp_path / name))
    loops[-1].train()
  assert same(loops[0].state, loops[1].state)
  assert lines(tmp_path / 'off') == lines(tmp_path / 'on')


def test_drawn_by_the_weights_of_before_the_update(mesh, tmp_path):
  config = quick(steps=3)
  config.method.epochs = 2
  loop = start(config, tmp_path)
  update, step, before, learned, started = loop.update, loop._step, [], [], []

  def noting(what, stale):
    before.append(jax.tree.map(np.array, loop.state.params))
    learned.append(what.sets[0])
    return update(what, stale)

  def stepping(state, frozen, anchors, batches):
    (batch,) = batches
    if int(state.step) % 2 == 0:
      started.append(np.array(batch.fields['start_logp']))
    assert np.array_equal(started[-1], batch.fields['start_logp'])
    return step(state, frozen, anchors, batches)

  loop.update, loop._step = noting, stepping
  loop.train()

  def under(params, row_set):
    loop.state = loop.state._replace(
      params=jax.device_put(params, jax.tree.map(lambda x: x.sharding, like))
    )
    role = loop.run.loaded.model.role_index(row_set.role)
    batch, _ = make_batch(row_set, role, loop.run.mesh, loop.run.shapes)
    logp = np.array(loop._score(batch, 1.0))
    trained = np.array(batch.weight) != 0
    return trained, logp, np.array(batch.fields['old_logp'])

  like = loop.state.params
  for k, (drawn_by, begun_with) in enumerate([(0, 0), (0, 1), (1, 2)]):
    trained, logp, old = under(before[drawn_by], learned[k])
    np.testing.assert_allclose(logp[trained], old[trained], atol=2e-5)
    _, logp, _ = under(before[begun_with], learned[k])
    np.testing.assert_allclose(
      started[k][trained], logp[trained], atol=2e-5 * (k == 0)
    )
    if k:  # it has moved since
      assert np.abs(started[k] - old)[trained].max() > 1e-3
  logged = lines(tmp_path)
  assert logged[0]['train/capped'] == 0


def test_one_step_scores_nothing_and_is_the_same(mesh, tmp_path, monkeypatch):
  loops = []
  for name in ('scored', 'not'):
    loops.append(start(quick(steps=3), tmp_path / name))
    with monkeypatch.context() as patch:
      if name == 'scored':
        patch.setattr(updating, 'itself', loops[0]._score)
      else:
        loops[1]._score = lambda *args: pytest.fail('a pass is spent')
      loops[-1].train()
  scored, found = lines(tmp_path / 'scored'), lines(tmp_path / 'not')
  for left, right in zip(scored, found, strict=True):
    assert left == pytest.approx(right, rel=1e-3, abs=1e-5)
  assert found[2]['train/loss'] != 0


def test_the_first_step_is_as_ever(mesh, tmp_path):
  found = {}
  for ahead in (False, True):
    config = quick(steps=2)
    config.ahead = ahead
    loop = start(config, tmp_path / str(ahead))
    loop.train()
    found[ahead] = lines(tmp_path / str(ahead))
  first, ahead = found[False][0], found[True][0]
  assert ahead.keys() - first.keys() == {'train/capped'}
  assert ahead == pytest.approx(first | {'train/capped': 0.0}, rel=1e-6)
  assert found[True][1]['train/clipped'] == 0  # one step: the ratio is 1
  texts = [
    (tmp_path / f'{ahead}/rollouts/000000.jsonl').read_text()
    for ahead in (False, True)
  ]
  assert texts[0] == texts[1]


@pytest.mark.parametrize('damaged', [False, True])
def test_resumed_equals_uninterrupted(mesh, tmp_path, damaged):
  def config():
    config = small('sqlm', ahead=True, checkpoint_every=1)
    config.steps = 4
    config.method.samples, config.method.archive = 4, 40
    config.method.repeat_penalty, config.method.propose_every = 0.5, 2
    config.method.reference = 'every:2'
    return config

  whole = start(config(), tmp_path / 'whole')
  whole.train()
  cut = start(config(), tmp_path / 'cut')
  dies_after(cut, 2)
  assert json.loads((tmp_path / 'cut/manifests/2.json').read_text())[
    'pending/2'
  ]
  if damaged:
    path = tmp_path / 'cut/pending/2/0.json'
    path.write_text(path.read_text().replace('dtype', 'dtipe', 1))
  again = start(config(), tmp_path / 'cut')
  assert again.first_step == 2 - damaged
  again.train()
  assert (tmp_path / 'cut/damaged/pending/2/0.json').exists() == damaged
  assert (tmp_path / 'cut/damaged/pending/2.json').exists() == damaged
  ended_alike(whole, again, tmp_path / 'whole', tmp_path / 'cut')


def test_a_run_that_is_left_early_goes_on_as_ever(mesh, tmp_path):
  def config():
    return quick(steps=3, checkpoint_every=9)

  whole = start(config(), tmp_path / 'whole')
  whole.train()
  steps = start(config(), tmp_path / 'cut').steps()
  next(steps)
  steps.close()
  again = start(config(), tmp_path / 'cut')
  assert again.first_step == 1 and again._pending
  again.train()
  ended_alike(whole, again, tmp_path / 'whole', tmp_path / 'cut')


def test_a_rollback_draws_anew(mesh, tmp_path):
  config = brief(ahead=True, steps=4)
  config.guard.every, config.guard.window, config.guard.rollbacks = 9, 1, 1
  config.guard.problems, config.guard.samples, config.guard.act = 2, 2, True
  config.alarms = {'x': 'train/loss > 0.001: rollback'}
  events = []
  loop = start(config, tmp_path)
  noted(loop, split(events), events).train()
  assert events == [
    *(('draw', 0), ('judge', 0), ('draw', 1), ('update', 0, False)),
    ('judge', 1),  # and then the policy goes back
    *(('draw', 1), ('judge', 1), ('draw', 2), ('update', 1, False)),
    ('judge', 2),  # and again, which ends the run
  ]
  assert loop.guard.stopped and loop.checkpoints.newest() == 2
  assert loop._pending is None and loop.method_state == {'steps': 1}
  assert start(config, tmp_path).finished()
  assert not (tmp_path / 'pending/2').exists()


@pytest.mark.parametrize('step', [0, 1])
def test_a_player_that_is_adopted_is_not_drawn_ahead(mesh, tmp_path, step):
  loop = start(brief(ahead=True), tmp_path)
  noted(loop, split([], adopt=(step,)), [])
  with pytest.raises(RefusedError, match=r'set config\.ahead=False'):
    loop.train()
  assert int(loop.state.step) == step


def kept():
  """What all that is kept may be made of."""
  draw = np.random.default_rng(0)
  row = Row(
    prompt_T=np.arange(3, dtype=np.int32),
    response_R=np.arange(4, dtype=np.int32),
    weight_R=draw.normal(size=4).astype(np.float32),
    total=0.1,
    fields={
      'old_logp': draw.normal(size=4).astype(np.float32),
      'ids': draw.integers(0, 9, (4, 2)).astype(np.int32),
    },
    pair=3,
    teacher_prompt_T=np.arange(2, dtype=np.int32),
  )
  sets = (
    RowSet(
      *('solver', [row], ('old_logp', Field('ids', (2,), 'int32'))),
      *({'kl': 0.3}, 'judge', True, True),
      start_temperature=0.7,
    ),
    RowSet('judge', []),
  )
  return Pending(
    Collected(
      [Update(sets, 2, 3, fresh_optimizer=True), Update(sets[1:])],
      {'built': Records([{'x': np.arange(3)}]), 'n': np.arange(2)},
      {'a': [0.1, np.float32(0.1)], 'b': np.zeros(0), 'c': [True, 1]},
      [{'text': 'é', 'known': None, 'worth': [0.1, 1]}],
      tokens=7,
    ),
    seconds=0.1,
  )


def test_what_is_kept_comes_back(tmp_path):
  root, given = epath.Path(tmp_path), kept()
  folder = pending.save(root, 1, given)
  found = pending.load(root, 1, 1)
  assert found
  again = pending.save(root, 2, found)
  assert (folder / '0.json').read_bytes() == (again / '0.json').read_bytes()
  (update, other), state, metrics, told, tokens, adopt, *_ = found.collected
  assert (found.seconds, tokens, adopt) == (0.1, 7, None)
  assert (update.epochs, update.minibatches, update.fresh_optimizer) == (
    2,
    3,
    1,
  )
  assert told == given.collected.transcripts and len(other.sets) == 1
  assert isinstance(state['built'], Records)
  row_set, row = update.sets[0], update.sets[0].rows[0]
  wanted = given.collected.updates[0].sets[0]
  assert row_set.specs == wanted.specs
  for name in ('role', 'kind', 'paired', 'taught', 'start_temperature'):
    assert getattr(row_set, name) == getattr(wanted, name)
  for name, values in row.fields.items():
    assert values.dtype == wanted.rows[0].fields[name].dtype
    np.testing.assert_array_equal(values, wanted.rows[0].fields[name])
  assert row.total == 0.1 and row.pair == 3
  for name, values in given.collected.metrics.items():
    assert np.sum(metrics[name]) == np.sum(values)
    assert len(metrics[name]) == len(values)
  pending.forget(root, 2, 5)
  left = sorted(p.name for p in (tmp_path / 'pending').iterdir())
  assert left == ['2', '2.json']


def test_other_hosts_draw_anew(tmp_path, capsys):
  root = epath.Path(tmp_path)
  pending.save(root, 1, kept())
  assert pending.load(root, 1, 2) is None
  (line,) = capsys.readouterr().err.splitlines()
  assert line.endswith(
    'saved by 2 processes: what step 1 trains on is drawn anew'
  )

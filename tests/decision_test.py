"""What a run does about its alarms, from plain numbers."""

import dataclasses

import pytest

from jaxdistill.eval import Decision, Fired, GuardConfig, decide


def went_off(alarm, action):
  return Fired(alarm, 'a/b', 0.4, 0.5, action, 'a b is 0.4, below 0.5')


BACK, STOP = went_off('far', 'rollback'), went_off('low', 'stop')
WARN = went_off('long', 'warn')
CONFIG = GuardConfig(rollbacks=3, lr_scale=0.5)


def decided(*fired, config=CONFIG, **changes):
  facts = {
    'best': 20,
    'better': False,
    'rollbacks': 0,
    'scale': 1.0,
    'last': False,
  }
  return decide(fired, config, **(facts | changes))


def taken(decision):
  """By alarm: the action, and what was done in words."""
  return {f.alarm: (f.action, decision.did[f.action]) for f in decision.fired}


def test_nothing_seen_is_nothing_done():
  found = decided()
  assert found == Decision(
    fired=(),
    did=found.did,
    is_best=False,
    rollback=False,
    rollbacks=0,
    stopped='',
    kept=False,
  )
  assert not found.becomes_best
  assert decided(rollbacks=2).rollbacks == 2


def test_a_warning_changes_nothing():
  found = decided(WARN)
  assert taken(found) == {'long': ('warn', 'a warning')}
  assert dataclasses.replace(found, fired=()) == decided()


def test_a_rollback():
  found = decided(BACK, rollbacks=1, scale=0.5)
  did = (
    'went back to the version of step 20, learning rate x 0.25, other draws '
    'from here'
  )
  assert taken(found) == {'far': ('rollback', did)}
  assert found.rollback and found.becomes_best and found.rollbacks == 2
  assert not found.stopped and not found.kept


def test_a_version_that_is_sent_back_is_not_the_best():
  """It may have the most right answers and lack the votes."""
  assert decided(better=True).is_best
  found = decided(BACK, better=True)
  assert not found.is_best and found.becomes_best


@pytest.mark.parametrize(
  ('rollbacks', 'stopped'), [(0, ''), (2, ''), (3, '4 rollbacks')]
)
def test_more_rollbacks_than_allowed_end_the_run(rollbacks, stopped):
  found = decided(BACK, rollbacks=rollbacks)
  assert found.stopped == stopped
  assert found.rollback and found.rollbacks == rollbacks + 1
  assert found.kept == bool(stopped)
  if stopped:
    assert found.did['rollback'] == (
      'went back to the version of step 20, and the run ends: it has gone '
      'back 4 times'
    )


def test_stop_ends_the_run_on_its_best_version():
  other = went_off('short', 'stop')
  found = decided(STOP, WARN, other)
  assert found.stopped == 'low, short'
  assert taken(found)['low'] == ('stop', 'the run ends')
  assert taken(found)['long'] == ('warn', 'a warning')
  assert found.kept and found.becomes_best and not found.rollback
  # Unless this is the best one.
  now = decided(STOP, better=True)
  assert now.is_best and now.kept and not now.becomes_best


def test_a_rollback_and_a_stop_at_once():
  found = decided(BACK, STOP)
  assert found.rollback and found.rollbacks == 1
  assert found.stopped == 'low' and found.kept


@pytest.mark.parametrize('better', [False, True])
def test_the_last_step_ends_on_the_best_version(better):
  found = decided(last=True, better=better)
  assert found.kept and not found.stopped and not found.rollback
  assert (found.is_best, found.becomes_best) == (better, not better)


def test_a_rollback_at_the_last_step_has_nothing_to_go_on_with():
  found = decided(BACK, rollbacks=3, last=True)  # one too many, and no matter
  assert found.did['rollback'] == 'went back to the version of step 20'
  assert found.rollbacks == 4 and not found.stopped
  assert found.kept and found.becomes_best


def test_without_a_probe_a_rollback_is_a_warning_and_a_stop_a_stop():
  why = 'a warning: there is no probe to tell the best version by'
  found = decided(BACK, STOP, WARN, best=None, last=True)
  assert taken(found) == {
    'far': ('warn', why),
    'low': ('stop', 'the run ends'),
    'long': ('warn', why),
  }
  assert found.stopped == 'low'
  assert not found.rollback and not found.rollbacks
  assert not found.kept and not found.becomes_best  # there is none to keep


@pytest.mark.parametrize('best', [None, 20])
def test_alarms_that_may_not_act_warn(best):
  off = dataclasses.replace(CONFIG, act=False)
  found = decided(BACK, STOP, WARN, config=off, best=best, last=True)
  why = 'a warning: guard.act is off'
  assert taken(found) == dict.fromkeys(('far', 'low', 'long'), ('warn', why))
  assert not found.rollback and not found.stopped
  assert not found.kept and not found.becomes_best
  assert BACK.action == 'rollback'  # what was seen stays what it was

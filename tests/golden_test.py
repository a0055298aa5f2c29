"""Losses of distillation: by hand from logits, over devices, and as recorded.

`python tests/golden_test.py` records the trajectories anew.
"""

import functools
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import conftest  # noqa: F401  devices are set before JAX is imported
import jax
import numpy as np
import pytest
from flax import nnx
from scipy.special import log_softmax
from steps import HEADS, MESHES, ONE_BATCH, OPTIMIZER, make_model, make_rows
from tiny import TINY

from jaxdistill import dist
from jaxdistill.batch import make_batch
from jaxdistill.config import SYSTEMS
from jaxdistill.config.keys import filled
from jaxdistill.methods.minillm import Minillm
from jaxdistill.methods.self_distill import SelfDistill
from jaxdistill.methods.teacher_distill import TeacherDistill
from jaxdistill.run.step import init_state, make_step, split_params
from jaxdistill.types import RowSet

RECORDED = pathlib.Path(__file__).with_name('golden') / 'distillation.json'
STEPS = 20
FEW = {'method.support_k': 5}


def method_of(kind, name, **changes):
  keys = FEW | SYSTEMS[name] | {f'method.{k}': v for k, v in changes.items()}
  return filled(kind, {k.removeprefix('method.'): v for k, v in keys.items()})


METHODS = {
  'sdpo': method_of(SelfDistill, 'sdpo', temperature=0.8),
  'opsd': method_of(SelfDistill, 'opsd'),
  'sdft': method_of(SelfDistill, 'sdft'),
  'trust': method_of(SelfDistill, 'sdpo', trust=0.4, rescaled=True),
  'word_kd': method_of(TeacherDistill, 'word_kd', support='teacher'),
  'gkd': method_of(TeacherDistill, 'gkd'),
  'on_policy_kd': method_of(TeacherDistill, 'on_policy_kd'),
  'minillm': method_of(Minillm, 'minillm'),
}
CAP = {'importance_cap': 2.0}
CLIPS = {'clip_low': 0.2, 'clip_high': 0.2, 'kl': 0.0} | CAP


def row_set(name, seed):
  """Rows whose teacher reads one token less of the prompt, where it may."""
  taught = isinstance(METHODS[name], SelfDistill)
  rows = []
  for row in make_rows(seed):
    short = row.prompt_T[1:] if taught else None
    object.__setattr__(row, 'teacher_prompt_T', short)
    rows.append(row)
  if name == 'minillm':
    return RowSet('', rows, ('advantage', 'old_logp'), CLIPS)
  return RowSet('', rows, ('old_logp',), CAP, taught=taught)


def teacher(**changes):
  return make_model(HEADS, sharpness=1.6, **changes)


@functools.cache
def trajectory(name, layout='one device', steps=STEPS):
  mesh = dist.make_mesh(**MESHES[layout])
  with jax.set_mesh(mesh):
    graphdef, params, _ = split_params(make_model(HEADS), 'full')
    theirs, frozen = nnx.split(teacher())
    step = make_step(
      graphdef, METHODS[name].loss, OPTIMIZER, {'teacher': theirs}
    )
    state, losses = init_state(params, OPTIMIZER, mesh), []
    for i in range(steps):
      batch, _ = make_batch(row_set(name, i % 4), i % 2, mesh, ONE_BATCH)
      anchors = {'teacher': (frozen,)}
      state, metrics = step(state, nnx.State({}), anchors, (batch,))
      losses.append(float(metrics['loss']))
  return losses


def logits_of(model, prompt_T, response_R):
  """Those of the vocabulary that all models have."""
  n = len(prompt_T) + len(response_R)
  tokens = np.zeros((1, 32), np.int32)  # of one length, read by one program
  tokens[0, :n] = np.concatenate([prompt_T, response_R])
  logits = np.float64(_read(model, tokens)[0])
  return logits[len(prompt_T) - 1 : n - 1, : TINY.vocab_size]


@nnx.jit
def _read(model, tokens):
  return model(tokens, role=0)


def by_hand(name, row, model, anchor):
  """The value of each token of a row, in float64."""
  method, tokens = METHODS[name], row.response_R
  read = row.prompt_T if row.teacher_prompt_T is None else row.teacher_prompt_T
  s = logits_of(model, row.prompt_T, tokens)
  t = logits_of(anchor, read, tokens)
  at = np.arange(len(tokens)), tokens
  if name == 'trust':
    t = 0.6 * t + 0.4 * logits_of(model, read, tokens)
  s, t = (log_softmax(x / method.policy.temperature, -1) for x in (s, t))
  ratio = np.exp(s[at] - row.fields['old_logp'])
  kl = lambda a, b: np.exp(a) * (a - b)  # noqa: E731
  if name == 'minillm':
    advantage = row.fields['advantage']
    clipped = np.clip(ratio, 0.8, 1.2)
    return kl(s, t).sum(-1) - np.minimum(ratio * advantage, clipped * advantage)
  how = method.distillation
  if how.support == 'sampled':
    return -(t[at] - s[at]) * s[at] * np.minimum(ratio, 2)
  if how.support != 'all':
    ids = np.argsort(-(s if how.support == 'student' else t), -1)[:, :5]
    few = [np.take_along_axis(x, ids, -1) for x in (s, t)]
    rest = [np.log1p(-np.exp(x).sum(-1, keepdims=True)) for x in few]
    s, t = (np.concatenate(x, -1) for x in zip(few, rest, strict=True))
  if how.alpha == 0:
    terms = kl(t, s)
  else:
    m = np.log((np.exp(s) + np.exp(t)) / 2)
    terms = (kl(t, m) + kl(s, m)) / 2 * (4 if how.rescaled else 1)
  if how.entry_clip:
    terms = np.minimum(terms, how.entry_clip)
  return terms.sum(-1) * np.minimum(ratio, 2)


def first_loss_by_hand(name):
  rows, models = row_set(name, 0).rows, (make_model(HEADS), teacher())
  values = [row.weight_R @ by_hand(name, row, *models) for row in rows]
  wanted = sum(values) / sum(row.total for row in rows)
  return pytest.approx(wanted, rel=2e-5, abs=1e-6)


@pytest.mark.parametrize('name', METHODS)
def test_the_first_loss_is_that_of_the_logits(name):
  assert trajectory(name)[0] == first_loss_by_hand(name)


@pytest.mark.parametrize('name', ['trust', 'gkd', 'minillm'])
def test_a_teacher_may_have_room_for_more_tokens(monkeypatch, name):
  wide = functools.partial(teacher, vocab_size=TINY.vocab_size + 7)
  monkeypatch.setitem(globals(), 'teacher', wide)
  (found,) = trajectory.__wrapped__(name, steps=1)
  assert found == first_loss_by_hand(name)


@pytest.mark.parametrize('name', METHODS)
def test_twenty_losses_are_as_recorded(name):
  recorded, losses = json.loads(RECORDED.read_text())[name], trajectory(name)
  assert len(recorded) == STEPS
  if name != 'on_policy_kd':  # whose value is no distance
    assert losses[-4] < losses[0]  # of the same rows: it learns
  np.testing.assert_allclose(losses, recorded, rtol=1e-3, atol=1e-5)


def test_devices_do_not_matter():
  for name in ('trust', 'gkd'):
    many = trajectory(name, 'data=2,fsdp=2,tensor=2', 3)
    np.testing.assert_allclose(trajectory(name)[:3], many, rtol=1e-5)


if __name__ == '__main__':
  RECORDED.parent.mkdir(exist_ok=True)
  found = {name: trajectory(name) for name in METHODS}
  RECORDED.write_text(json.dumps(found, indent=1) + '\n')

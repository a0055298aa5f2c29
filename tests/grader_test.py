"""Models that read both ways and give a grade, packed and one at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference_decoder import reference_logits
from tiny import TINY

from jaxdistill.batch import Shapes, make_batch, take_rows
from jaxdistill.models import Decoder, chunked
from jaxdistill.rollout.score import Grade, score
from jaxdistill.types import Row, RowSet

GRADER = dataclasses.replace(TINY, causal=False, grades=True)
SHAPES = Shapes(32, 2)


@pytest.fixture(scope='module')
def model():
  return Decoder(GRADER, rngs=nnx.Rngs(0))


def rows_of(draw, lengths, alike=2):
  """Texts that begin alike, each with a last token in the response's place."""
  begin = draw.integers(1, 20, alike)
  return [
    Row(
      np.concatenate([begin, draw.integers(1, 20, n)]).astype(np.int32),
      np.array([7], np.int32),
      np.ones(1, np.float32),
      1.0,
    )
    for n in lengths
  ]


def grades(model, rows, mesh, apart=True):
  batch, places = make_batch(RowSet('', rows, apart=apart), 0, mesh, SHAPES)
  graphdef, state = nnx.split(model)
  values = score(
    *((state,), batch, np.float32(1)), graphdef=graphdef, what=Grade()
  )
  found = take_rows(values, places, rows)
  return np.array([v[0] for v in found]), batch


def test_grades_are_those_of_each_text_by_itself(model, one_device):
  rows = rows_of(np.random.default_rng(0), (3, 6, 1, 9, 4, 2))
  found, batch = grades(model, rows, one_device)
  assert batch.weight.shape[0] * batch.weight.shape[1] < len(rows)  # packed
  for row, grade in zip(rows, found, strict=True):
    text = np.concatenate([row.prompt_T, row.response_R])
    wanted = reference_logits(model, text)[-2, 0]  # where the prompt ends
    assert grade == pytest.approx(wanted, abs=1e-5)


def test_a_text_does_not_see_its_neighbours(model, one_device):
  draw = np.random.default_rng(1)
  rows = rows_of(draw, (3, 4, 5))
  first, _ = grades(model, rows, one_device)
  tokens = (rows[1].prompt_T + 1) % 20
  changed = [rows[0], dataclasses.replace(rows[1], prompt_T=tokens), rows[2]]
  second, _ = grades(model, changed, one_device)
  assert first[0] == second[0] and first[2] == second[2]
  assert abs(first[1] - second[1]) > 1e-3


def test_a_token_sees_what_comes_later(model, one_device):
  (row,) = rows_of(np.random.default_rng(2), (4,))
  (grade,), _ = grades(model, [row], one_device)
  other = dataclasses.replace(row, response_R=np.array([8], np.int32))
  (changed,), _ = grades(model, [other], one_device)
  assert abs(grade - changed) > 1e-4  # read behind the place of the grade
  forwards = Decoder(dataclasses.replace(GRADER, causal=True), rngs=nnx.Rngs(0))
  (grade,), _ = grades(forwards, [row], one_device)
  assert grades(forwards, [other], one_device)[0][0] == grade


def test_what_is_apart_shares_nothing(one_device):
  rows = rows_of(np.random.default_rng(3), (3, 4), alike=6)
  for apart, tokens in ((False, 10 + 5), (True, 10 + 11)):
    batch, _ = make_batch(RowSet('', rows, apart=apart), 0, one_device, SHAPES)
    assert int((batch.reading.until > 0).sum()) == tokens


def test_by_blocks_it_is_the_same(monkeypatch):
  forward, backward = chunked.forward, chunked.backward
  used = []
  monkeypatch.setattr(
    chunked, 'forward', lambda *a: used.append(1) or forward(*a, block=4)
  )
  monkeypatch.setattr(chunked, 'backward', lambda *a: backward(*a, block=4))
  tokens = jnp.array([[3, 4, 5, 6, 7, 8, 9, 1, 2, 2, 3, 0, 0, 0]])
  positions = jnp.array([[0, 1, 2, 0, 1, 2, 3, 4, 5, 0, 1, 0, 0, 0]])
  until = jnp.array([[3, 3, 3, 9, 9, 9, 9, 9, 9, 11, 11, 0, 0, 0]])
  sources = jnp.array([[1, 6, 9]])

  def loss(model):
    read = model.read(tokens, positions, until, sources)
    return (read.over(lambda x: x[..., 0]) ** 2).sum()

  found = []
  for attention in ('dense', 'chunked'):
    config = dataclasses.replace(GRADER, attention=attention)
    model = Decoder(config, rngs=nnx.Rngs(0))
    found.append(nnx.jit(nnx.value_and_grad(loss))(model))
    assert bool(used) == (attention == 'chunked')
  for x, y in zip(*map(jax.tree.leaves, found), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_what_cannot_read_both_ways_says_so():
  with pytest.raises(ValueError, match='attention is pallas'):
    dataclasses.replace(GRADER, attention='pallas')
  with pytest.raises(ValueError, match='sliding windows'):
    dataclasses.replace(GRADER, window=4, sliding=(True, False))

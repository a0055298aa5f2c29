"""What layouts are chosen, and how few."""

import collections
import dataclasses

import jax
import numpy as np
import pytest
from packed_rows import make_row, row_set
from steps import HEADS, NOTHING, batch_of, compiled, fresh_state

from jaxdistill import dist
from jaxdistill.batch import Shapes, lay_out, make_batch
from jaxdistill.batch.layout import power
from jaxdistill.types import RowSet


def answers(draw, problems, samples, longest, prompts=(8, 40)):
  """Rows as of a step: some problems are left out, answers differ in length."""
  rows = []
  for _ in range(problems):
    prompt = draw.integers(1, 100, draw.integers(*prompts))
    if draw.random() < 0.2:
      continue
    for n in draw.normal(0.7 * longest, 0.25 * longest, samples):
      n = int(np.clip(n, 1, longest))
      rows.append(make_row(draw, prompt, draw.integers(1, 100, n)))
  return rows


def layout_of(rows, mesh, shapes):
  return lay_out([RowSet('', rows)], mesh, shapes)[0][0]


@pytest.mark.parametrize(
  ('problems', 'samples', 'longest', 'most'),
  [(4, 4, 64, 6), (32, 8, 64, 2), (40, 4, 24, 1), (16, 4, 400, 2)],
)
def test_few_layouts_in_many_steps(
  one_device, problems, samples, longest, most
):
  draw, tokens, needed = np.random.default_rng(0), 0, 0
  found = collections.Counter()
  for _ in range(200):
    rows = answers(draw, problems, samples, longest)
    layout = layout_of(rows, one_device, Shapes())
    found[layout._replace(used=0)] += 1
    tokens += layout.used * layout.sequences * layout.length
    needed += sum(len(row.response_R) for row in rows)
  assert len(found) <= most
  assert tokens < 1.9 * needed


def test_steps_of_mixed_lengths_compile_nothing_anew(one_device):
  draw, programs = np.random.default_rng(1), []

  def listen(event, seconds, **_):
    del seconds
    if event == '/jax/core/compile/backend_compile_duration':
      programs.append(event)

  step, state = compiled('sft', HEADS), fresh_state(one_device, HEADS)
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    for i in range(30):
      if i == 1:
        assert programs
        programs.clear()
      rows = [
        dataclasses.replace(row, prompt_T=row.prompt_T % 20)
        for row in answers(draw, 40, 4, 24)
      ]
      batch = batch_of('sft', rows, 0, one_device, Shapes())
      state, _ = step(state, NOTHING, {}, (batch,))
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  assert not programs


def test_a_few_rows_compute_few_sequences(one_device):
  draw = np.random.default_rng(0)
  rows = [make_row(draw, [1, 2], [3] * 90) for _ in range(3)]
  layout = layout_of(rows, one_device, Shapes())
  assert layout.used * layout.sequences * layout.length <= 512
  # Sixty times as many are in large microbatches, at most a fifth of it empty.
  draw = np.random.default_rng(0)
  rows = [make_row(draw, [i], [3] * 127) for i in range(180)]
  layout = layout_of(rows, one_device, Shapes())
  assert (layout.length, layout.sequences, layout.used) == (128, 32, 6)


@pytest.mark.parametrize('seed', range(5))
def test_a_microbatch_keeps_to_its_tokens(one_device, seed):
  draw = np.random.default_rng(seed)
  for tokens in (256, 1024, 4096):
    rows = answers(draw, int(draw.integers(1, 60)), 6, 90)
    layout = layout_of(rows, one_device, Shapes(tokens=tokens))
    assert layout.sequences * layout.length <= tokens
    assert layout.used <= layout.room
  # One row may be longer than all that.
  row = make_row(draw, [1], [2] * 600)
  assert layout_of([row], one_device, Shapes(tokens=256))[:1] == (1024,)


def test_longer_sequences_where_prompts_are_shared(one_device):
  draw = np.random.default_rng(0)
  apart = [make_row(draw, [i] * 100, [1] * 20) for i in range(1, 9)]
  shared = [make_row(draw, [1] * 100, [i] * 20) for i in range(1, 9)]
  assert layout_of(apart, one_device, Shapes()).length == 128
  # Eight answers to one prompt: 100 + 7 x 20 tokens are in one sequence.
  assert layout_of(shared, one_device, Shapes()).length == 256


def test_sets_of_one_call_share_their_sizes(one_device):
  sets = [row_set([8] * n) for n in (3, 150, 0)]
  laid = lay_out(sets, one_device, Shapes(8, 4))
  assert [layout.used for layout, _ in laid] == [1, 38, 1]
  assert len({layout._replace(used=0) for layout, _ in laid}) == 1
  assert [len(places) for _, places in laid] == [3, 150, 0]


def test_sequences_are_whole_on_every_shard():
  mesh = dist.make_mesh(data=4, fsdp=2)
  draw = np.random.default_rng(0)
  batch, _ = make_batch(
    RowSet('', answers(draw, 20, 4, 60), ('advantage',)), 0, mesh, Shapes()
  )
  sizes = batch.weight.shape
  assert sizes[1] % 8 == 0
  assert batch.weight.sharding.shard_shape(sizes)[1] == sizes[1] // 8
  tokens = batch.reading.tokens.shape
  assert tokens[1] // 8 * tokens[2] <= 4096


def test_one_microbatch_is_not_added_to_anything(one_device):
  def adds(sequences):
    batch, _ = make_batch(row_set([8] * 4), 0, one_device, Shapes(8, sequences))
    jaxpr = jax.make_jaxpr(lambda b: b.summed(lambda m: m.weight.sum()))(batch)
    return batch.weight.shape[0], 'while' in str(jaxpr)

  assert adds(4) == (1, False)
  assert adds(2) == (32, True)


def test_sizes_by_hand():
  assert [power(n, 128) for n in (1, 128, 129, 600)] == [128, 128, 256, 1024]
  assert [power(n, 32, 8) for n in (2, 32, 33)] == [32, 32, 256]


@pytest.mark.parametrize('length', [0, 100])
def test_tokens_and_scored_ones_are_split_evenly(length):
  """Over devices that hold as much as one would of a sequence of its own."""
  draw = np.random.default_rng(4)
  rows = [
    make_row(draw, draw.integers(1, 100, 20), np.ones(n)) for n in (5, 70)
  ]
  shapes = Shapes(length, tokens=128)
  one, split = (
    layout_of(rows, dist.make_mesh(data=data, context=8 // data), shapes)
    for data in (8, 1)
  )
  assert (one.length, split.length) == ((100, 112) if length else (128, 128))
  assert split.length % 16 == split.scored % 8 == 0
  assert one.sequences == 8 and split.sequences == 1

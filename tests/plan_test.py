"""What a plan says, against sums by hand and against programs that ran."""

import dataclasses
import json
import math

import checkpoints
import jax
import jax.numpy as jnp
import jaxtyping
import pytest
from config_files import ROOT
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jaxdistill import config as configs
from jaxdistill import dist
from jaxdistill.cli import main as command
from jaxdistill.dist.chips import Chip
from jaxdistill.models import Decoder, store
from jaxdistill.plan import (
  changes,
  estimate,
  hlo,
  measured,
  published,
  slices,
)
from jaxdistill.plan.estimate import plan
from jaxdistill.plan.groups import groups
from jaxdistill.run.step import Step

SMALL = str(ROOT / 'configs' / 'grpo_small.py')
LESS = {
  'steps': 2,
  'method.problems': 4,
  'method.samples': 4,
  'method.max_tokens': 32,
  'method.kl': 0.1,
  'eval.problems': 4,
}
AXES = {'slice': 1, 'data': 2, 'fsdp': 2, 'tensor': 2}


@pytest.fixture(scope='module')
def eight():
  return dist.make_mesh(data=2, fsdp=2, tensor=2)


def compiled(fn, mesh, *shapes):
  """Of arrays `(shape, axes)`, float32."""
  given = [
    jax.ShapeDtypeStruct(
      shape, 'float32', sharding=NamedSharding(mesh, PartitionSpec(*axes))
    )
    for shape, axes in shapes
  ]
  return jax.jit(fn).lower(*given).compile()


def test_a_loop_counts_as_often_as_it_runs(eight):
  def fn(x, w):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

  program = compiled(fn, eight, ((64, 32), ()), ((5, 32, 32), ()))
  found = hlo.cost(program.as_text(), AXES)
  assert found.flops == 5 * 2 * 64 * 32 * 32
  assert found.sent == ()
  # Of the stack a layer is read at a time.
  once = 4 * (2 * 64 * 32 + 32 * 32)
  assert 5 * once <= found.bytes < 5 * 5 * once


def test_a_loop_of_unknown_length_counts_once(eight):
  def fn(x, n):
    n = n.astype(jnp.int32)
    return jax.lax.fori_loop(0, n, lambda i, x: jnp.tanh(x @ x), x)

  program = compiled(fn, eight, ((32, 32), ()), ((), ()))
  found = hlo.cost(program.as_text(), AXES)
  assert found.flops == 2 * 32**3
  assert found.rounds(5).flops == 5 * found.flops


@pytest.mark.parametrize(
  ('x', 'to', 'kind', 'axes', 'sent'),
  [
    ((('fsdp',),), (), 'all-gather', 'fsdp', 64 * 64 * 4 / 2),
    ((('data', 'fsdp'),), (), 'all-gather', 'data+fsdp', 64 * 64 * 4 * 3 / 4),
    ((None, 'tensor'), (None, None), 'all-gather', 'tensor', 64 * 64 * 4 / 2),
  ],
)
def test_what_is_gathered(eight, x, to, kind, axes, sent):
  def fn(x):
    where = NamedSharding(eight, PartitionSpec(*to))
    return jax.lax.with_sharding_constraint(x, where)

  program = compiled(fn, eight, ((64, 64), x))
  (found,) = hlo.cost(program.as_text(), AXES).sent
  assert (found.kind, found.axes, found.bytes) == (kind, axes, sent)


def test_what_is_summed_in_a_loop():
  """An eighth of the inner axis each: a sum at every round."""
  mesh = dist.make_mesh(tensor=8)

  def fn(x, w):
    def one(x, _):
      y = jnp.tanh(x @ w)
      where = NamedSharding(mesh, PartitionSpec(None, 'tensor'))
      return jax.lax.with_sharding_constraint(y, where), None

    return jax.lax.scan(one, x, None, length=7)[0]

  program = compiled(
    fn, mesh, ((16, 64), (None, 'tensor')), ((64, 64), ('tensor', None))
  )
  found = hlo.cost(program.as_text(), dict(mesh.shape))
  assert found.flops == 7 * 2 * 16 * 64 * 64 / 8
  sums = [s for s in found.sent if s.kind in ('all-reduce', 'reduce-scatter')]
  assert {(s.axes, s.times) for s in sums} == {('tensor', 7)}
  # By a ring, 7 parts of 8 of the sum: once scattered, or once more gathered.
  once = 16 * 64 * 4 * 7 / 8
  assert found.traffic()['tensor'] in (7 * once, 7 * 2 * once)


def test_work_is_what_xla_counts_where_nothing_loops(eight):
  def fn(x, w):
    return jnp.sum(jnp.tanh(x @ w) @ w.T)

  program = compiled(
    jax.grad(fn, (0, 1)), eight, ((32, 64), ()), ((64, 96), ())
  )
  found = hlo.cost(program.as_text(), AXES)
  said = program.cost_analysis()
  assert found.flops == pytest.approx(said['flops'], rel=0.01)
  assert found.bytes == pytest.approx(said['bytes accessed'], rel=0.2)


@pytest.mark.parametrize(
  ('written', 'found'),
  [
    ('replica_groups={{0,1},{2,3}}, x', [[0, 1], [2, 3]]),
    ('replica_groups=[2,2]<=[4], x', [[0, 1], [2, 3]]),
    ('replica_groups=[2,2]<=[2,2]T(1,0), x', [[0, 2], [1, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2] {'a'}, x", [[0, 2], [1, 3]]),
    (
      "replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}",
      [[0, 1], [2, 3]],
    ),
    ('source_target_pairs={{0,1},{1,0},{2,2}}', [[0, 1], [1, 0]]),
    ('replica_groups={}, x', [[0, 1, 2, 3]]),
  ],
)
def test_who_takes_part(written, found):
  assert groups(written, 4) == found


def test_a_batch_of_products_written_as_a_convolution():
  """As a TPU's compiler writes 16 products of 8 x 4 and 4 x 2."""
  text = """HloModule m

ENTRY %main (a: f32[8,4,16], b: f32[16,4,2]) -> f32[8,2,16] {
  %a = f32[8,4,16]{1,0,2} parameter(0)
  %b = f32[16,4,2]{2,1,0} parameter(1)
  ROOT %c = f32[8,2,16]{1,0,2:T(8,128)} convolution(%a, %b), \
window={size=16 stride=15 pad=0_0 lhs_dilate=16}, dim_labels=bf0_0io->bf0
}
"""
  assert hlo.cost(text, AXES).flops == 16 * 2 * 8 * 4 * 2


@pytest.fixture(scope='module')
def undescribed():
  """Arrays that are only described are none where shapes are checked."""
  jaxtyping.config.update('jaxtyping_disable', True)
  yield
  jaxtyping.config.update('jaxtyping_disable', False)


@pytest.fixture(scope='module')
def planned(undescribed):
  """A plan of a small run for eight devices, and the mesh."""
  config = configs.read_config(SMALL, LESS.items())
  configs.override(config, {'mesh.data': 2, 'mesh.fsdp': 4}.items())
  return config, plan(config, jax.devices(), 'here')


def test_a_plan_holds_what_a_run_places(planned, monkeypatch, tmp_path):
  """Parameters to the byte; the step that ran within a tenth of its plan."""
  from jaxdistill.run.loop import Loop

  config, found = planned
  seen, call = {}, Step.__call__

  def noted(self, *args):
    if not seen:
      memory = self.lower(*args).compile().memory_analysis()
      seen['held'] = memory.argument_size_in_bytes
      seen['needs'] = memory.temp_size_in_bytes + memory.output_size_in_bytes
      seen['needs'] -= memory.alias_size_in_bytes
      state = args[0]
      seen['parameters'] = sum(
        x.addressable_shards[0].data.nbytes
        for x in jax.tree.leaves(state.params)
      )
    return call(self, *args)

  monkeypatch.setattr(Step, '__call__', noted)
  run = configs.build(config)
  with jax.set_mesh(run.mesh):
    steps = Loop(run, tmp_path / 'run', config.to_dict()).steps()
    next(steps)
    steps.close()
  assert found.held.parameters == seen['parameters']
  assert found.held.moments == pytest.approx(2 * seen['parameters'], rel=1e-3)
  train = found.programs[0]
  assert train.name == 'train'
  ran = seen['held'] + seen['needs']
  assert train.peak - found.held.anchors == pytest.approx(ran, rel=0.1)


CHIP = Chip('toy', 0.0, 1e12, 1e9, 1e8, 1e7, 'nowhere')


@pytest.fixture
def toys(planned, monkeypatch):
  """Plans as they would be on chips with room for a quarter of the moments."""
  found = planned[1]
  train, *rest = found.programs
  room = 100.0 * 2**30

  def toy(config, devices, name, tell=None):
    shards = config.mesh.fsdp * config.mesh.tensor
    needs = 4.5 * room / shards * (1 if config.remat == 'none' else 0.9)
    programs = (dataclasses.replace(train, held=0.0, needs=needs), *rest)
    return dataclasses.replace(
      found,
      name=name,
      mesh={'slice': 1, **config.mesh},
      chip=dataclasses.replace(CHIP, memory=room),
      programs=programs,
      phases={'draw': 1.0, 'score': 0.5, 'train': 8.0 / config.mesh.data},
    )

  for where in ('changes', 'estimate'):
    monkeypatch.setattr(f'jaxdistill.plan.{where}.plan', toy)
  monkeypatch.setattr('jaxdistill.api.planning.plan', toy)
  return [
    *('plan', '--config', SMALL),
    *('--config.mesh.data=4', '--config.mesh.fsdp=2'),
  ]


def test_a_misfit_is_said_with_a_change_that_fits(toys, capsys):
  assert command.main(toys) == 1
  *_, last = capsys.readouterr().out.splitlines()
  assert last == (
    'It does not fit: train takes 225.00 GiB of 100.00, most of it results and '
    'what is between (225.00). This does, at 56.25 GiB: --config.mesh.data=1 '
    '--config.mesh.fsdp=8 --config.mesh.tensor=1'
  )
  assert command.main([*toys, '--json']) == 1
  told = json.loads(capsys.readouterr().out)
  assert told['nearest'] == {'mesh.data': 1, 'mesh.fsdp': 8, 'mesh.tensor': 1}
  assert not told['fits'] and told['programs'][0]['peak_bytes'] == 225 * 2**30


def test_a_search_ends_with_the_fastest_that_fits(toys, capsys):
  assert command.main([*toys, '--search']) == 0
  *lines, last = capsys.readouterr().out.splitlines()
  # 8 shards with and without remat, on four meshes; 4 with it would not do.
  assert last.startswith('8 of 20 fit') and len(lines) == 8
  assert all('mesh.data=1 ' in line for line in lines)


@pytest.mark.parametrize('alone', [False, True])
def test_tokens_are_split_where_that_alone_helps(planned, monkeypatch, alone):
  """Of a chip with room for half of a sequence."""
  config, found = planned
  train, *rest = found.programs

  def toy(config, devices, name):
    train_now = dataclasses.replace(
      train, held=0.0, needs=100.0 / config.mesh.context
    )
    return dataclasses.replace(
      found,
      chip=dataclasses.replace(CHIP, memory=50.0),
      mesh={'slice': 1, **config.mesh},
      programs=(
        train_now,
        *(dataclasses.replace(p, held=0, needs=0) for p in rest),
      ),
      alone=alone,
    )

  monkeypatch.setattr('jaxdistill.plan.changes.plan', toy)
  tried = [*changes.search(config, jax.devices(), 'here')]
  contexts = [t.changes.get('mesh.context', 1) for t in tried]
  # 10 meshes of 8 devices in three axes; 6 of them have fsdp to give.
  assert contexts == [1] * 20 + [2] * 12 * alone
  assert [t.plan.fits for t in tried] == [False] * 20 + [True] * 12 * alone
  misfit = toy(config, jax.devices(), 'here')
  near = changes.nearest(config, jax.devices(), 'here', misfit)
  assert bool(near) == alone
  if near:
    assert near.changes == {
      'mesh.data': 2,
      'mesh.fsdp': 2,
      'mesh.tensor': 1,
      'mesh.context': 2,
    }


def test_times_are_bounds_by_what_is_published(planned):
  held = planned[1].held
  work = hlo.Cost(3e12, 2e9, (hlo.Sent('x', 'fsdp', '', 1e8, 5, ''),))
  builder = estimate._Builder(None, CHIP, 'bfloat16', held, print)
  assert builder.times(work) == {
    **{'computing': 3.0, 'memory': 2.0, 'links': 5.0, 'network': 0.0}
  }
  away = dataclasses.replace(
    work, sent=(hlo.Sent('x', 'slice+data', '', 1e8, 1, ''),)
  )
  assert builder.times(away)['network'] == 10.0
  exact = estimate._Builder(None, CHIP, 'float32', held, print)
  assert exact.times(work)['computing'] == 18.0


def test_only_what_is_in_the_loop_is_done_again():
  loop = hlo.Cost(1.0, 2.0, (hlo.Sent('x', 'data', '', 3.0, 1, ''),))
  whole = hlo.Cost(10.0, 20.0, loop.sent, loop)
  found = whole.rounds(4)
  assert (found.flops, found.bytes) == (13.0, 26.0)
  assert found.traffic() == {'data': 12.0}
  assert whole.rounds(1).flops == 10.0


@pytest.mark.parametrize(
  ('topology', 'said'),
  [
    ('v5:4x8', 'of v5e there are 1x1, 2x2, 2x4'),
    ('v5e', "'v5e' is none that can be compiled for"),
    ('v5e-32', 'v5e-32 is v5e:4x8'),
    ('v5litepod-16', 'v5litepod-16 is v5e:4x4'),
    ('v5p-128', 'v5p-128 is v5p:4x4x4'),
    ('h100:2x2', 'none that can be compiled for'),
  ],
)
def test_topologies_that_are_none(topology, said, capsys):
  what = ['plan', '--config', SMALL, '--topology', topology]
  assert command.main(what) == 2
  out, err = capsys.readouterr()
  assert said in err and err.count('\n') == 1 and not out


@pytest.mark.parametrize('topology', ['v5e:2x4', '2xv5e:2x4'])
def test_it_compiles_for_a_slice_that_is_not_here(topology, undescribed):
  pytest.importorskip('libtpu')
  config = configs.read_config(SMALL, LESS.items())
  found = plan(config, slices.devices(topology), topology)
  assert found.chips == (16 if topology[0] == '2' else 8)
  assert found.fits and found.chip.name == 'v5e' and found.hours > 0


# As their makers count them, in thousand millions.
COUNTED = {
  'hf:Qwen/Qwen2.5-0.5B-Instruct': 0.494,
  'hf:Qwen/Qwen2.5-Coder-1.5B-Instruct': 1.544,
  'hf:Qwen/Qwen2.5-3B': 3.086,
  'hf:Qwen/Qwen2.5-7B-Instruct@main': 7.616,
  'hf:Qwen/Qwen2.5-14B': 14.77,
  'hf:Qwen/Qwen2.5-32B-Instruct': 32.76,
  'hf:Qwen/Qwen2.5-72B': 72.71,
  'hf:Qwen/Qwen3-0.6B': 0.596,
  'hf:Qwen/Qwen3-1.7B': 1.721,
  'hf:Qwen/Qwen3-4B': 4.022,
  'hf:Qwen/Qwen3-8B': 8.191,
  'hf:meta-llama/Llama-3.2-1B-Instruct': 1.236,
  'hf:meta-llama/Llama-3.2-3B': 3.213,
  'hf:meta-llama/Llama-3.1-8B-Instruct': 8.030,
  'hf:meta-llama/Llama-3.1-70B-Instruct': 70.55,
  'hf:HuggingFaceTB/SmolLM2-135M-Instruct': 0.1345,
}


def test_published_sizes_give_the_published_counts():
  assert {published._base(name) for name in COUNTED} == {*published._SIZES}
  for name, count in COUNTED.items():
    config = published.describe(name)
    model = nnx.eval_shape(lambda c=config: Decoder(c, rngs=nnx.Rngs(0)))
    own = nnx.state(model, store._is_trunk)
    found = sum(math.prod(x.shape) for x in jax.tree.leaves(own))
    assert found == pytest.approx(count * 1e9, rel=1e-3), name


def test_sizes_of_a_model_that_is_here_are_those_of_its_files():
  told = published.describe('hf:HuggingFaceTB/SmolLM2-135M-Instruct')
  there = store.describe(checkpoints.real_model())
  assert told == dataclasses.replace(there, norm_eps=told.norm_eps)
  assert told.norm_eps == pytest.approx(there.norm_eps)


def test_other_models_are_looked_up():
  assert not published.known('hf:Qwen/Qwen2.5-9B')
  assert not published.known('Qwen/Qwen2.5-7B')
  assert not published.known('small-late')


def test_what_is_near_the_cores_is_not_in_memory():
  text = """HloModule m

ENTRY %main (a: f32[64,64]) -> f32[64,64] {
  %a = f32[64,64]{1,0:T(8,128)} parameter(0)
  %s = (f32[64,64]{1,0:T(8,128)S(1)}, f32[64,64]{1,0:T(8,128)}, \
u32[]{:S(2)}) copy-start(%a)
  %d = f32[64,64]{1,0:T(8,128)S(1)} copy-done(%s)
  %e = f32[64,64]{1,0:T(8,128)S(1)} exponential(%d)
  ROOT %f = f32[64,64]{1,0:T(8,128)} add(%d, %e)
}
"""
  assert (
    hlo.cost(text, AXES).bytes == 2 * 64 * 64 * 4
  )  # read once, written once


ASYNC = """HloModule m

%begin (p: bf16[8,64]) -> bf16[64,64] {
  %p = bf16[8,64] parameter(0)
  ROOT %g = bf16[64,64] all-gather(%p), channel_id=1, replica_groups=[1,8]<=[8]
}

%end (p: bf16[8,64]) -> bf16[64,64] {
  %p = bf16[8,64] parameter(0)
  ROOT %g = bf16[64,64] all-gather(%p), channel_id=1, replica_groups=[1,8]<=[8]
}

%scattered (p: f32[64,64]) -> f32[8,64] {
  %p = f32[64,64] parameter(0)
  %i = s32[] constant(0)
  %r = f32[64,64] all-reduce(%p), channel_id=2, replica_groups=[1,8]<=[8]
  ROOT %s = f32[8,64] dynamic-slice(%r, %i, %i), dynamic_slice_sizes={8,64}
}

ENTRY %main (a: bf16[8,64], b: f32[64,64]) -> f32[8,64] {
  %a = bf16[8,64] parameter(0)
  %b = f32[64,64] parameter(1)
  %x = bf16[64,64] fusion(%a), kind=kCustom, calls=%begin
  %y = bf16[64,64] fusion(%a), kind=kCustom, calls=%end
  ROOT %z = f32[8,64] fusion(%b), kind=kCustom, calls=%scattered
}
"""


def test_a_collective_in_parts_is_one():
  """As a TPU's compiler begins and ends one in fusions of their own."""
  gather, scatter = hlo.cost(ASYNC, AXES).sent
  assert (gather.kind, gather.bytes) == ('all-gather', 8 * 64 * 2 * 7)
  assert scatter.kind == 'reduce-scatter'
  assert scatter.bytes == 64 * 64 * 4 * 7 / 8
  assert gather.axes == scatter.axes == 'data+fsdp+tensor'


def test_what_was_planned_stands_beside_what_was_measured():
  planned = {
    'chips': 8,
    'programs': [{'peak_bytes': 3 * 2**30}, {'peak_bytes': 5 * 2**30}],
    'tokens_a_step': 4000,
    'step_s': {'draw': 2.0, 'score': 0.5, 'train': 1.5},
  }
  lines = [
    {'step': i, 'time/step_s': s, 'time/collect_s': s - 1, 'time/update_s': 1}
    | {'rollout/tokens_per_s': 1000 * s}
    for i, s in enumerate((90.0, 5.0, 9.0, 6.0))  # the first compiles
  ]
  lines.append({'step': 4})  # of an evaluation
  said = measured.beside(planned, lines, 6 * 2**30, 4).splitlines()
  assert [line.split()[-2:] for line in said[1:6]] == [
    ['5', '6'],
    ['4', '6'],
    ['2.5', '5'],
    ['1.5', '1'],
    ['2,000', '6,000'],
  ]
  assert 'planned for 8 devices, and had 4' in said[-1]
  unknown = measured.beside(planned | {'step_s': None}, [], None, 8)
  assert unknown.count('not known') == 9
  assert '8 devices' not in unknown and 'no rates' in unknown


def test_a_plan_is_read_before_anything_else(tmp_path, capsys):
  path = tmp_path / 'plan.json'
  train = ['train', '--config', SMALL, '--workdir', str(tmp_path / 'run')]
  for text, said in (
    ('planned', 'is no plan: Expecting value'),
    ('{"chips": 8}', "is no plan, it has no 'programs'"),
    (
      '{"chips": 8, "programs": "x", "tokens_a_step": 1, "step_s": {}}',
      'is no plan: ',
    ),
    (None, 'is no plan: '),
  ):
    if text:
      path.write_text(text)
    else:
      path.unlink()
    assert command.main([*train, '--plan', str(path)]) == 2
    assert said in capsys.readouterr().err
  assert not (tmp_path / 'run').exists()


def test_a_loop_may_count_by_more_than_one():
  """And a gather that is begun before it goes on in it, once."""
  text = """HloModule m

%begin (p: bf16[8,64]) -> bf16[64,64] {
  %p = bf16[8,64] parameter(0)
  %g = bf16[64,64] all-gather(%p), channel_id=1, replica_groups=[1,8]<=[8]
  ROOT %s = bf16[64,64] custom-call(%g), \
custom_call_target="AsyncCollectiveStart"
}

%goes_on (p: bf16[8,64]) -> bf16[64,64] {
  %p = bf16[8,64] parameter(0)
  ROOT %g = bf16[64,64] all-gather(%p), channel_id=1, replica_groups=[1,8]<=[8]
}

%body (t: (u32[], bf16[8,64])) -> (u32[], bf16[8,64]) {
  %t = (u32[], bf16[8,64]) parameter(0)
  %i = u32[] get-tuple-element(%t), index=0
  %x = bf16[8,64] get-tuple-element(%t), index=1
  %two = u32[] constant(2)
  %next = u32[] add(%i, %two)
  %y = bf16[64,64] fusion(%x), kind=kCustom, calls=%goes_on
  %sent = bf16[8,64] collective-permute(%x), channel_id=2, \
source_target_pairs={{0,1},{1,0}}
  ROOT %out = (u32[], bf16[8,64]) tuple(%next, %sent)
}

%condition (t: (u32[], bf16[8,64])) -> pred[] {
  %t = (u32[], bf16[8,64]) parameter(0)
  %i = u32[] get-tuple-element(%t), index=0
  %n = u32[] constant(7)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (a: bf16[8,64]) -> (u32[], bf16[8,64]) {
  %a = bf16[8,64] parameter(0)
  %zero = u32[] constant(0)
  %b = bf16[64,64] fusion(%a), kind=kCustom, calls=%begin
  %t = (u32[], bf16[8,64]) tuple(%zero, %a)
  ROOT %w = (u32[], bf16[8,64]) while(%t), condition=%condition, body=%body
}
"""
  gather, moved = hlo.cost(text, AXES).sent
  assert (gather.kind, gather.times) == ('all-gather', 1)
  assert (moved.kind, moved.times) == ('collective-permute', 4)  # 0, 2, 4, 6

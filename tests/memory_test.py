"""What is counted is what a run allocates; what cannot fit is refused."""

import jax
import pytest
from config_files import ROOT
from flax import nnx
from tiny import TINY

from jaxdistill import dist
from jaxdistill.cli import main as command
from jaxdistill.models import Decoder, Deltas
from jaxdistill.optimizer import OptimizerConfig
from jaxdistill.run import host, memory
from jaxdistill.run.step import init_state, split_params

CONFIG = str(ROOT / 'configs' / 'sqlm_small.py')


def deltas(trainable):
  lora = trainable == 'lora'
  return Deltas(per_role='heads', lora=lora, rank=4, alpha=4.0)


def nbytes(tree):
  return sum(x.nbytes for x in jax.tree.leaves(tree))


@pytest.mark.parametrize('trainable', ['full', 'lora'])
def test_parameters_and_moments_are_counted_to_the_byte(one_device, trainable):
  model = Decoder(TINY, deltas(trainable), rngs=nnx.Rngs(0))
  _, params, frozen = split_params(model, trainable)
  state = init_state(params, OptimizerConfig(), one_device)
  parts = memory.needed(TINY, deltas(trainable), trainable, 'float32', True, 1)
  assert parts['parameters'] == nbytes((params, frozen))
  counts = [x for x in jax.tree.leaves(state) if x.dtype == 'int32']
  moments = nbytes(state) - nbytes((params, counts, state.scale))
  assert parts['moments'] == moments
  assert parts['anchors'] == nbytes(params)
  assert parts['gradient'] == nbytes(params.shared)


def test_a_frozen_trunk_takes_the_bytes_of_its_dtype():
  args = TINY, deltas('lora'), 'lora'
  full = memory.needed(*args, 'float32', False, 1)
  half = memory.needed(*args, 'bfloat16', False, 1)
  trunk = nbytes(nnx.state(Decoder(TINY, rngs=nnx.Rngs(0))))
  assert full['parameters'] - half['parameters'] == trunk // 2
  assert full['moments'] == full['gradient'] == full['anchors'] == 0


def check(there, monkeypatch, mesh, trains=True):
  monkeypatch.setattr(memory, 'host_memory', lambda: there)
  memory.check(
    *(TINY, deltas('full'), mesh),
    trainable='full',
    dtype='float32',
    trains=trains,
    anchors=1,
  )


def test_the_edge_is_where_it_is_said(one_device, monkeypatch):
  parts = memory.needed(TINY, deltas('full'), 'full', 'float32', True, 1)
  least = sum(parts.values())
  check(least, monkeypatch, one_device)
  check(None, monkeypatch, one_device)  # not known: nothing is refused
  check(parts['parameters'], monkeypatch, one_device, trains=False)
  with pytest.raises(ValueError, match=r'needs .* GiB on this host.*=lora'):
    check(least - 1, monkeypatch, one_device)


def test_virtual_devices_share_the_memory_of_their_host(monkeypatch):
  parts = memory.needed(TINY, deltas('full'), 'full', 'float32', True, 1)
  least = sum(parts.values())
  check(8 * least, monkeypatch, dist.make_mesh())
  with pytest.raises(ValueError, match=r'larger mesh\.fsdp'):
    check(8 * least - 1, monkeypatch, dist.make_mesh())
  check(2 * least, monkeypatch, dist.make_mesh(fsdp=2, tensor=2))


@pytest.mark.parametrize('verb', ['train', 'eval'])
def test_refused_before_weights_are_read(tmp_path, capsys, monkeypatch, verb):
  def load(*args, **kwargs):
    raise AssertionError('weights are read')

  monkeypatch.setattr('jaxdistill.config.building.load', load)
  monkeypatch.setattr(memory, 'host_memory', lambda: 2**20)
  what = ['--config', CONFIG, '--workdir', str(tmp_path / 'w')]
  what = ['--model', 'small-late'] if verb == 'eval' else what
  assert command.main([verb, *what]) == 2
  out, err = capsys.readouterr()
  assert err.count('\n') == 1 and not out
  assert 'GiB on this host, besides activations (parameters' in err
  assert 'there are 0.000977' in err and 'a smaller model' in err
  assert ('trainable=lora' in err) == (verb == 'train')
  assert not (tmp_path / 'w').exists()


def test_this_host_has_memory(monkeypatch, tmp_path):
  assert 2**28 < host.host_memory() < 2**50
  # Of a container it is what its limit leaves.
  monkeypatch.setattr(host, '_GROUP', tmp_path)
  stat = 'anon 150\nactive_file 50\ninactive_file 200\n'
  for name, text in {'max': '1000', 'current': '400', 'stat': stat}.items():
    (tmp_path / f'memory.{name}').write_text(f'{text}\n')
  assert host.host_memory() == 850
  (tmp_path / 'memory.max').write_text('max\n')
  assert host.host_memory() > 2**28

"""Eight virtual CPU devices, and shape types checked at run time."""

import importlib.metadata
import os
import tempfile

os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)
# Half the time to compile. XLA ends a process that names a flag it lacks.
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  os.environ['XLA_FLAGS'] += (
    ' --xla_cpu_use_fusion_emitters=false'
    ' --xla_cpu_parallel_codegen_split_count=1'
  )
os.environ['JAX_PLATFORMS'] = 'cpu'
# Most of the time is compilation: without LLVM's passes, and each program once.
os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
os.environ['JAX_COMPILATION_CACHE_DIR'] = os.path.join(
  tempfile.gettempdir(), f'jaxdistill-tests-{os.getuid()}'
)
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.2'

from jaxtyping import install_import_hook

install_import_hook('jaxdistill', 'shape_check.check')

import jax
import pytest

from jaxdistill import dist


@pytest.fixture
def one_device():
  """A mesh of a single device, in force."""
  mesh = dist.make_mesh(devices=jax.devices()[:1])
  with jax.set_mesh(mesh):
    yield mesh


@pytest.fixture
def mesh(one_device, monkeypatch):
  """Runs use one device, though eight are there."""
  make_mesh = dist.make_mesh

  def on_one(**sizes):
    return make_mesh(**sizes, devices=jax.devices()[:1])

  monkeypatch.setattr(dist, 'make_mesh', on_one)
  return one_device


@pytest.fixture(scope='module')
def small_world():
  """Whoever asks for it first makes it, and says so."""
  from jaxdistill.data.tasks import load_task

  return load_task('small').problems('train')


@pytest.fixture
def here(tmp_path, monkeypatch):
  """A folder of its own, and no run that really trains."""
  from jaxdistill.run import loop

  monkeypatch.chdir(tmp_path)

  def steps(self, stop):
    raise AssertionError('it trains')

  monkeypatch.setattr(loop.Loop, '_steps', steps)
  return tmp_path


@pytest.fixture
def refused(here, capsys):
  """Runs a command that must be refused; returns what it says."""
  from jaxdistill.cli import main as command

  def run(*argv):
    before = tree(here)
    code = command.main(list(argv))
    out, err = capsys.readouterr()
    assert code == 2
    assert err.count('\n') == 1 and err.endswith('\n'), err
    assert out == ''
    assert tree(here) == before
    return err

  return run


def tree(root):
  """Every file below a folder with its bytes, and every folder."""
  return {
    str(p): p.read_bytes() if p.is_file() else None for p in root.rglob('*')
  }

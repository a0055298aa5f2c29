"""Eight virtual CPU devices, and shape types checked at run time."""

import gc
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
from jaxdistill.run import loop


def pytest_collection_finish():
  """What was imported stays, and need not be looked through for garbage."""
  gc.freeze()
  gc.set_threshold(100_000, 20, 20)


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


@pytest.fixture(scope='session', autouse=True)
def one_step_of_a_kind():
  """Runs with equal models, methods and optimizers share a compiled step.

  It depends on nothing else, and is most of what a run compiles anew.
  """
  make_step, made = loop.make_step, {}

  def shared(graphdef, loss, optimizer, in_loss):
    method = getattr(loss, '__self__', None), getattr(loss, '__func__', loss)
    key = graphdef, *method, optimizer, tuple(in_loss.items())
    if key not in made:
      made[key] = make_step(graphdef, loss, optimizer, in_loss)
    return made[key]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, 'make_step', shared)
    yield

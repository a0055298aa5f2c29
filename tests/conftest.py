"""Eight virtual CPU devices, and shape types checked at run time."""

import gc
import importlib.metadata
import os
import pathlib
import tempfile

# Most of the time is compilation: without LLVM's dear passes, and each program
# once. Without any pass what is compiled takes twice as long to run.
os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + (
  ' --xla_force_host_platform_device_count=8'
  ' --xla_backend_optimization_level=1'
  ' --xla_llvm_disable_expensive_passes=true'
)
# Half the time to compile. XLA ends a process that names a flag it lacks.
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  os.environ['XLA_FLAGS'] += (
    ' --xla_cpu_use_fusion_emitters=false'
    ' --xla_cpu_parallel_codegen_split_count=1'
  )
# Seen on two cores: devices of one program took its collectives in different
# orders, and waited for each other until XLA ended the process.
if importlib.metadata.version('jaxlib').startswith('0.12.'):
  os.environ['XLA_FLAGS'] += (
    ' --xla_cpu_enable_concurrency_optimized_scheduler=false'
  )
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['JAX_COMPILATION_CACHE_DIR'] = os.path.join(
  tempfile.gettempdir(), f'jaxdistill-tests-{os.getuid()}'
)
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.2'

from jaxtyping import install_import_hook

# Where shapes are named: every call pays for it. Everywhere it took a tenth of
# the time of whole runs.
package = pathlib.Path(__file__).parents[1] / 'jaxdistill'
install_import_hook(
  [
    '.'.join(path.relative_to(package.parent).with_suffix('').parts)
    for path in package.rglob('*.py')
    if 'jaxtyping' in path.read_text()
  ],
  'shape_check.check',
)

import jax
import pytest

from jaxdistill import dist
from jaxdistill.rollout import adapt
from jaxdistill.run import loop

# Where the same programs run often enough that optimizing them is worth it.
OFTEN = ('colabs', 'loop', 'guard', 'api', 'compare', 'survive')
# Files of whole runs and of real models, the longest first.
LONG = (
  *('hosts', 'systems', 'text_loop', 'loop', 'cli', 'engine', 'colabs', 'api'),
  *('int8', 'ahead', 'golden', 'seal_run', 'survive', 'guard', 'families'),
  *('compare', 'cross_encoder', 'temporal_self_reward', 'serl', 'score'),
  *('adapt', 'preference', 'extend', 'contract', 'rollout', 'pairs', 'step'),
  *('export', 'models', 'turns', 'packed', 'bank', 'anchors', 'gap'),
  'object_stores',
)
# Of these, what `make check` runs all the same.
CHECK = (
  *('packed', 'step', 'int8', 'ahead', 'golden', 'seal_run', 'cross_encoder'),
  *('temporal_self_reward', 'serl', 'score', 'preference'),
)
FORESEEN = ('loop',)
RUNS = {'trained'}  # fixtures of whole runs


def _name(path):
  return path.name.removesuffix('_test.py')


def pytest_addoption(parser):
  parser.addoption(
    '--check', action='store_true', help='leave out what takes long'
  )


def pytest_ignore_collect(collection_path, config):
  name = _name(collection_path)
  if config.getoption('check') and name in LONG and name not in CHECK:
    return True


def pytest_collection_modifyitems(config, items):
  """The longest files begin first, so that workers end together."""
  if config.getoption('check'):
    items[:] = [item for item in items if not RUNS & {*item.fixturenames}]
  place = {name: i for i, name in enumerate(LONG)}
  items.sort(key=lambda item: place.get(_name(item.path), len(LONG)))


def pytest_collection_finish():
  """What was imported stays, and need not be looked through for garbage."""
  gc.freeze()
  gc.set_threshold(100_000, 20, 20)


@pytest.fixture(scope='module', autouse=True)
def optimized(request):
  """How much time compilation takes."""
  rarely = _name(request.path) not in OFTEN
  jax.config.update('jax_disable_most_optimizations', rarely)
  yield
  # Each compiled function is a few mappings, of which Linux allows 65,530 to a
  # process; beyond, "Failed to materialize symbols".
  maps = pathlib.Path('/proc/self/maps')
  if maps.exists() and maps.read_bytes().count(b'\n') > 20_000:
    jax.clear_caches()
    dist.forget_programs()


@pytest.fixture(scope='module', autouse=True)
def foreseen(request):
  """All that a run may reach is compiled where that is asked, else what is
  needed."""
  ahead = dist.Programs.open
  if _name(request.path) not in FORESEEN:
    dist.Programs.open = lambda self: None
  yield
  dist.Programs.open = ahead


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


@pytest.fixture
def without_figures(monkeypatch):
  """They take longer than the runs, and are tested elsewhere."""
  for name in ('draw_curves', 'draw_comparison', 'write_report'):
    monkeypatch.setattr(f'jaxdistill.plots.{name}', lambda *args: None)


@pytest.fixture(scope='module')
def small_world():
  """Whoever asks for it first makes it, and says so."""
  from jaxdistill.data.tasks import load_task

  return load_task('small').problems('train')


@pytest.fixture
def bank(tmp_path):
  """Where snapshots are, empty at first."""
  from jaxdistill.anchors import Bank

  bank = Bank(tmp_path / 'anchors')
  yield bank
  bank.wait()


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


@pytest.fixture(scope='session', autouse=True)
def one_step_of_a_kind():
  """Runs with equal models, methods and optimizers share a compiled step.

  It depends on nothing else, and is most of what a run compiles anew. Likewise
  inner trainings by equal methods, whose losses are different bound methods.
  """
  make_step, made, losses = loop.make_step, {}, {}
  train = adapt.train

  def method_of(loss):
    return getattr(loss, '__self__', None), getattr(loss, '__func__', loss)

  def shared(graphdef, loss, optimizer, in_loss):
    key = graphdef, *method_of(loss), optimizer, tuple(in_loss.items())
    if key not in made:
      made[key] = make_step(graphdef, loss, optimizer, in_loss)
    return made[key]

  def alike(*args, loss, **kw):
    return train(*args, loss=losses.setdefault(method_of(loss), loss), **kw)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, 'make_step', shared)
    patch.setattr(adapt, 'train', alike)
    yield

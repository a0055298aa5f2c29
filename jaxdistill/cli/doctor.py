"""Looks at a machine: what is here, what is missing, and how to mend it.

What uses a device is asked in a process of its own, so that a driver that
crashes or hangs is a line here, not the end.
"""

import argparse
import contextlib
import glob
import importlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from jaxdistill.cli import pod
from jaxdistill.cli.parser import Parser

if TYPE_CHECKING:
  from packaging.specifiers import SpecifierSet

LINE = 'look at this machine; say what is missing'
HELP = """\
Looks at this machine: versions, devices, memory, disk, folders, extras. It
compiles a small program and writes a small checkpoint, to see that both work.
Exit code 1 if something would stop a run. Changes nothing.

  jaxdistill doctor
  jaxdistill doctor --json > doctor.json

--pod, on every host of a run, holds the hosts against each other: devices,
code, versions, config, workdir, clocks, ten known steps, collectives. It
prints PASS, or the host that deviates and in what.

  jaxdistill doctor --pod --coordinator HOST:PORT --num_processes 4 \\
    --process_id 0 --config configs/sqlm_small.py --workdir gs://bucket/run

Next: jaxdistill train --help"""
CONFIG = True

OK, NOTE, PROBLEM = 'ok', 'note', 'PROBLEM'
LIBRARIES = (
  *('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain'),
  'tensorflow-datasets',
)
# Package -> its module, and what needs it.
EXTRAS = {
  'huggingface_hub': ('huggingface_hub', 'models hf:owner/name'),
  'reasoning-gym': ('reasoning_gym', 'tasks gym:NAME'),
  'pyarrow': ('pyarrow', 'files .parquet'),
  'gcsfs': ('gcsfs', 'folders gs://...'),
  's3fs': ('s3fs', 'folders s3://...'),
  'tensorboard': ('tensorboard', 'looking at the events.* of a run'),
}
VARIABLES = (
  *('JAX_PLATFORMS', 'XLA_FLAGS', 'TFDS_DATA_DIR', 'XDG_CACHE_HOME'),
  *('JAX_COMPILATION_CACHE_DIR', 'JAX_DISABLE_JIT', 'JAX_ENABLE_X64'),
  *('XLA_PYTHON_CLIENT_PREALLOCATE', 'XLA_PYTHON_CLIENT_MEM_FRACTION'),
  *('CUDA_VISIBLE_DEVICES', 'TPU_VISIBLE_CHIPS', 'HF_HOME', 'HF_HUB_OFFLINE'),
)
LEAST = 2**30  # bytes of disk below which a run may end early
SECONDS = 180  # before what uses a device is given up


class Finding(NamedTuple):
  """One line.

  Attributes:
    name: Of what was looked at.
    status: `ok`, `note`, or `PROBLEM`: it would stop a run.
    said: What was found.
    mend: What to do about it, if anything.
  """

  name: str
  status: str
  said: str
  mend: str = ''


Probe = Callable[[], Iterable[Finding]]


def add_options(parser: Parser) -> None:
  parser.add_argument(
    '--json', action='store_true', help='print one JSON object; default a list'
  )
  pod.add_options(parser)


def run(args: argparse.Namespace) -> int:
  """Prints what is found; 1 if something would stop a run, else 0."""
  if args.pod or args.config or args.workdir or args.coordinator:
    return pod.run(args)
  found: list[Finding] = []
  for finding in look(PROBES):
    found.append(finding)
    if not args.json:
      print(line(finding), flush=True)
  problems = sum(f.status == PROBLEM for f in found)
  if args.json:
    findings = [f._asdict() for f in found]
    print(json.dumps({'well': not problems, 'findings': findings}, indent=1))
  elif problems:
    print(f'\n{problems} of these would stop a run; -> says how to mend it.')
  else:
    print('\nAll is well. Next: jaxdistill train --help')
  return int(problems > 0)


def line(finding: Finding) -> str:
  """A finding as text, its mend on a line of its own."""
  text = f'{finding.status:9}{finding.name:22}{finding.said}'
  return text + (f'\n{"":31}-> {finding.mend}' if finding.mend else '')


def look(probes: Iterable[Probe]) -> Iterator[Finding]:
  """What probes find; that one of them fails is a finding too."""
  for probe in probes:
    try:
      yield from probe()
    except Exception as e:  # whatever is broken here, the rest is asked
      why = ' '.join(f'{type(e).__name__}: {e}'.split())
      name = probe.__name__.replace('_', ' ')
      status = PROBLEM if probe in VITAL else NOTE
      yield Finding(name, status, f'failed: {why}')


def versions() -> Iterator[Finding]:
  """Of Python and the libraries, against what jaxdistill asks for."""
  from packaging.requirements import Requirement
  from packaging.specifiers import SpecifierSet

  about = importlib.metadata.metadata('jaxdistill')
  asked = map(Requirement, importlib.metadata.requires('jaxdistill') or ())
  wanted = {r.name: r.specifier for r in asked if not r.marker}
  wanted['jaxlib'] = wanted['jax']
  yield Finding('jaxdistill', OK, about['Version'])
  python = SpecifierSet(about['Requires-Python'] or '')
  yield version('Python', platform.python_version(), python)
  for name in LIBRARIES:
    try:
      there = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      yield Finding(name, PROBLEM, 'missing', pip(f'{name}{wanted[name]}'))
      continue
    yield version(name, there, wanted[name])


def version(name: str, there: str, wanted: 'SpecifierSet') -> Finding:
  """Whether a version is in a range such as `>=0.10,<0.13`."""
  if wanted.contains(there, prereleases=True):
    return Finding(name, OK, f'{there} (tested: {wanted or "any"})')
  least = type(wanted)(','.join(str(s) for s in wanted if '>' in s.operator))
  old = not least.contains(there, prereleases=True)
  what = 'too old' if old else 'not tested'
  mend = pip(f'{name}{wanted}')
  if name == 'Python':
    mend = f'install Python{wanted}'
  return Finding(
    name, PROBLEM if old else NOTE, f'{there} is {what} ({wanted})', mend
  )


def pip(what: str) -> str:
  """The command that installs a package where this Python finds it."""
  return f"{sys.executable} -m pip install '{what}'"


def host() -> Iterator[Finding]:
  """Cores, and what memory it could still give."""
  from jaxdistill.run.host import host_memory

  affinity = getattr(os, 'sched_getaffinity', None)
  cores = len(affinity(0)) if affinity else os.cpu_count()
  yield Finding('cores', OK, f'{cores} ({platform.machine()})')
  free = host_memory()
  if free < 2 * 2**30:
    yield Finding('memory', NOTE, f'{_gib(free)} free', 'end what else runs')
  else:
    yield Finding('memory', OK, f'{_gib(free)} free')


def folders() -> Iterator[Finding]:
  """Space, and whether there can be written."""
  from jaxdistill.run.caches import compile_cache

  data = os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
  compiled = compile_cache(), 'set XDG_CACHE_HOME to another'
  yield folder('this folder', os.getcwd(), '--workdir elsewhere', NOTE)
  yield folder('data folder', data, 'set TFDS_DATA_DIR to another', PROBLEM)
  yield folder('temporary folder', tempfile.gettempdir(), 'set TMPDIR', PROBLEM)
  yield folder('compile cache', *compiled, NOTE)


def folder(name: str, path: str, mend: str, status: str) -> Finding:
  """Space in a folder, which need not be there yet, and a trial of writing.

  Args:
    name: What to call it.
    path: Of the folder.
    mend: What to do if it cannot be written.
    status: What that means.
  """
  if '://' in path:
    return Finding(name, NOTE, f'{path} is remote: not looked at')
  there = pathlib.Path(path).expanduser().absolute()
  said = str(there)
  while not there.exists() and there != there.parent:
    there = there.parent
  try:
    with tempfile.TemporaryDirectory(prefix='.jaxdistill-', dir=there):
      free = shutil.disk_usage(there).free
  except OSError as e:
    why = (e.strerror or str(e)).lower()
    return Finding(name, status, f'{said} cannot be written: {why}', mend)
  said = f'{said}, {_gib(free)} free'
  if free < LEAST:
    return Finding(name, NOTE, said, f'make room, or {mend}')
  return Finding(name, OK, said)


def _gib(size: float) -> str:
  return f'{size / 2**30:.1f} GiB'


def extras() -> Iterator[Finding]:
  """What some runs need and others do not."""
  for name, (module, purpose) in EXTRAS.items():
    if has(module):
      there = importlib.metadata.version(name)
      yield Finding(name, OK, f'{there}, for {purpose}')
    else:
      yield Finding(name, NOTE, f'missing, only for {purpose}', pip(name))


def has(module: str) -> bool:
  """Whether a module is installed; it is not imported."""
  return importlib.util.find_spec(module) is not None


def environment() -> Iterator[Finding]:
  """Variables that change what a run does."""
  for name in VARIABLES:
    if name in os.environ:
      yield Finding(name, OK, os.environ[name] or '(empty)')


def devices() -> Iterator[Finding]:
  """What JAX finds and can do, asked of a process of its own."""
  found = []
  for finding in elsewhere([sys.executable, '-m', 'jaxdistill.cli.doctor']):
    found.append(finding)
    yield finding
  seen = ' '.join(f.said for f in found if f.name.startswith('device'))
  if re.search(r'\((gpu|cuda|rocm|tpu)\)', seen):
    return
  for name, kind in accelerators():
    yield unused(name, kind)


def elsewhere(command: list[str]) -> Iterator[Finding]:
  """Findings that a command prints, and how it ended if not well."""
  with tempfile.TemporaryFile('w+') as out, tempfile.TemporaryFile('w+') as err:
    try:
      code = subprocess.run(
        command, stdout=out, stderr=err, timeout=SECONDS
      ).returncode
      end = f'ended with code {code}' if code else ''
    except subprocess.TimeoutExpired:
      end = f'no answer in {SECONDS} s'
    out.seek(0)
    err.seek(0)
    for text in out:
      with contextlib.suppress(ValueError, TypeError):  # libraries talk too
        if text.startswith('['):
          yield Finding(*json.loads(text))
    if end:
      last = ([t.strip() for t in err if t.strip()] or [''])[-1]
      why = f'JAX: {end}; {last}' if last else f'JAX: {end}'
      mend = 'JAX_PLATFORMS=cpu leaves the accelerator alone'
      yield Finding('devices', PROBLEM, why, mend)


def accelerators() -> list[tuple[str, str]]:
  """What this machine has, whether JAX uses it or not: sign and kind."""
  found = []
  if nvidia := glob.glob('/dev/nvidia[0-9]*'):
    found.append((f'{len(nvidia)} at /dev/nvidia*', 'nvidia'))
  elif shutil.which('nvidia-smi'):
    told = subprocess.run(
      ['nvidia-smi', '-L'], capture_output=True, text=True, timeout=20
    )
    if told.returncode == 0 and told.stdout.startswith('GPU'):
      found.append((told.stdout.splitlines()[0], 'nvidia'))
  if os.path.exists('/dev/kfd'):
    found.append(('an AMD GPU at /dev/kfd', 'amd'))
  tpu = glob.glob('/dev/accel[0-9]*')
  names = ('TPU_NAME', 'TPU_ACCELERATOR_TYPE', 'TPU_WORKER_ID')
  named = [name for name in names if os.environ.get(name)]
  if tpu or named:
    where = '/dev/accel*' if tpu else ' '.join(named)
    found.append((f'a TPU by {where}', 'tpu'))
  return found


def unused(sign: str, kind: str) -> Finding:
  """An accelerator that JAX does not use, and why."""
  asked = os.environ.get('JAX_PLATFORMS', '')
  mends = {
    'nvidia': pip('jax[cuda13]>=0.10,<0.13')
    + ' (driver 580 or newer; older: jax[cuda12])',
    'amd': pip('jax[rocm7-local]>=0.10,<0.13'),
    'tpu': pip('jax[tpu]>=0.10,<0.13'),
  }
  plugins = {
    'nvidia': ('jax_cuda13_plugin', 'jax_cuda12_plugin'),
    'amd': ('jax_rocm7_plugin',),
    'tpu': ('libtpu',),
  }
  mend = mends[kind]
  if asked and asked.split(',')[0] == 'cpu':
    mend = f'JAX_PLATFORMS={asked} hides it: unset JAX_PLATFORMS'
  elif any(map(has, plugins[kind])):
    mend = (
      'its plugin is installed but finds nothing: is the driver new enough, is '
      'another process using it? JAX_PLATFORMS=cuda or tpu shows the error'
    )
  return Finding('unused accelerator', NOTE, f'{sign}; JAX is on the CPU', mend)


# What follows runs in a process of its own.


def imports() -> Iterator[Finding]:
  """Whether the libraries load."""
  begin = time.perf_counter()
  for name in ('jax', 'flax.nnx', 'optax', 'orbax.checkpoint', 'grain'):
    importlib.import_module(name)
  importlib.import_module('tensorflow_datasets')
  took = time.perf_counter() - begin
  yield Finding('imports', OK, f'all libraries load, in {took:.1f} s')


def device_list() -> Iterator[Finding]:
  """Kind, count and memory."""
  import jax

  kinds: dict[tuple, list] = {}
  for device in jax.local_devices():
    kind = device.device_kind, device.platform
    kinds.setdefault(kind, []).append(device)
  for (kind, name), same in kinds.items():
    try:
      limit = (same[0].memory_stats() or {}).get('bytes_limit')
    except Exception:  # not every backend tells
      limit = None
    room = f', {_gib(limit)} each' if limit else ''
    yield Finding('devices', OK, f'{len(same)} x {kind} ({name}){room}')


def compilation() -> Iterator[Finding]:
  """A small program: is its result right?"""
  import jax
  import jax.numpy as jnp
  import numpy as np

  x = np.arange(64 * 64).reshape(64, 64) % 7

  def program(x):
    return jnp.tril(x @ x.T).sum(0)

  begin = time.perf_counter()
  y = np.asarray(jax.jit(program)(x.astype(np.float32)))
  first = time.perf_counter() - begin
  if not np.array_equal(y, np.tril(x @ x.T).sum(0)):
    yield Finding('compilation', PROBLEM, 'a small program gives wrong results')
    return
  where = jax.devices()[0].device_kind
  said = f'a small program is right, compiled and run in {first:.2f} s'
  yield Finding('compilation', OK, f'{said} on {where}')


def products() -> Iterator[Finding]:
  """Does dtype=float32 compute in float32?"""
  from jaxdistill.models.linear import precise, product_bits

  with precise('float32'):
    bits = product_bits()
  said = f'products of float32 keep {bits} of 23 bits'
  if bits == 23:
    yield Finding('products', OK, said)
  else:
    mend = 'unset JAX_DEFAULT_MATMUL_PRECISION to keep all, which takes longer'
    yield Finding('products', NOTE, said, mend)


def attention() -> Iterator[Finding]:
  """Is attention in linear memory, as this device does it, the plain one?"""
  import jax

  from jaxdistill.models.attention import deviation

  name = jax.default_backend()
  form = 'pallas' if name in ('gpu', 'tpu') else 'chunked'
  try:
    apart = deviation(form)
  except Exception as e:  # of whatever a compiler has
    why = (str(e).splitlines() or [''])[0][:200]
    yield Finding('attention', NOTE, f'{form}: {why}', _OTHER_ATTENTION)
    return
  said = f'{form}: its gradients are off by {apart:.1e} of the plain ones'
  if not apart < 0.05:  # nan, too; products of bfloat16 on some devices
    yield Finding('attention', NOTE, said, _OTHER_ATTENTION)
  else:
    yield Finding('attention', OK, said)


def checkpoints() -> Iterator[Finding]:
  """A small checkpoint, written and read."""
  import jax.numpy as jnp

  from jaxdistill.checkpoint import Checkpoints

  begin = time.perf_counter()
  state = {'x': jnp.arange(5.0)}
  with tempfile.TemporaryDirectory() as root:
    kept = Checkpoints(root)
    kept.save(1, state, {'n': 3})
    kept.seal(wait=True)
    found, record = kept.restore(kept.newest() or 0, state)
    kept.close()
  if found['x'].tolist() != state['x'].tolist() or record != {'n': 3}:
    yield Finding('checkpoints', PROBLEM, 'Orbax reads other than it wrote')
    return
  took = time.perf_counter() - begin
  yield Finding('checkpoints', OK, f'written and read alike in {took:.2f} s')


PROBES = (versions, host, folders, extras, environment, devices)
OWN_PROCESS = (
  *(imports, device_list, compilation, products, attention, checkpoints),
)
_OTHER_ATTENTION = 'config.attention=chunked, or dense, does without'
VITAL = (versions, folders, devices, *OWN_PROCESS)

if __name__ == '__main__':
  for each in look(OWN_PROCESS):
    print(json.dumps(each), flush=True)

"""Runs of several processes on one machine, joined as those of several hosts.

`jax.distributed` is the real one, over localhost; the devices are virtual ones
of the CPU. For the scripts of this folder.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax._src import cache_key

from jaxdistill.cli.main import main

ROOT = pathlib.Path(__file__).parents[2]
TIMED = ('time', '_per_s', 'seconds')  # in the names of what is timed


def train(
  config: pathlib.Path, workdir: pathlib.Path, sets: Mapping[str, Any]
) -> list[str]:
  """The command line of a run."""
  keys = [f'--config.{k}={v}' for k, v in sets.items()]
  return ['train', '--config', str(config), '--workdir', str(workdir), *keys]


def start(
  words: Sequence[str], processes: int, devices: int, logs: pathlib.Path
) -> list[subprocess.Popen]:
  """Starts `jaxdistill` in several processes, see `share_compiled`.

  Args:
    words: Its command line.
    processes: How many; one is joined to no other.
    devices: Of each.
    logs: A folder, made if needed: what they say goes on in `PROCESS.txt`.
  """
  flags = f'--xla_force_host_platform_device_count={devices}'
  env = os.environ | {'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
  with socket.socket() as s:
    s.bind(('localhost', 0))
    port = s.getsockname()[1]
  logs.mkdir(parents=True, exist_ok=True)
  started = []
  for i in range(processes):
    joined = [
      *('--coordinator', f'localhost:{port}'),
      *('--num_processes', str(processes), '--process_id', str(i)),
    ] * (processes > 1)
    command = [sys.executable, __file__, *words, *joined]
    with (logs / f'{i}.txt').open('a') as file:
      started.append(
        subprocess.Popen(command, env=env, stdout=file, stderr=file)
      )
  return started


def untimed(values: dict[str, Any]) -> dict[str, Any]:
  """Without what is timed, at any depth."""
  return {
    k: untimed(v) if isinstance(v, dict) else v
    for k, v in values.items()
    if not any(word in k for word in TIMED)
  }


def metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """`metrics.jsonl` without what is timed."""
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [untimed(json.loads(line)) for line in lines]


def texts(workdir: pathlib.Path) -> dict[str, list[str]]:
  """By step what was said, in the order of the processes that wrote it."""
  out: dict[str, list[str]] = {}
  paths = (workdir / 'rollouts').iterdir()
  for path in sorted(paths, key=lambda p: [*map(int, p.stem.split('.'))]):
    step = path.name.partition('.')[0]
    out.setdefault(step, []).extend(path.read_text().splitlines())
  return out


def stored(workdir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
  """All arrays of a checkpoint, and of the anchors that it needs, by name.

  Whatever processes wrote them, they are read whole.
  """
  manifest = json.loads((workdir / f'manifests/{step}.json').read_text())
  out = {}
  for name in manifest:
    kind, folder = name.partition('/')[0], workdir / name
    if kind in ('checkpoints', 'anchors'):
      found = _arrays(folder / 'state' if kind == 'checkpoints' else folder)
      out |= {f'{kind}{k}': x for k, x in found.items()}
  return out


def _arrays(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """What Orbax wrote into a folder, by path."""
  checkpointer = ocp.PyTreeCheckpointer()
  metadata: Any = checkpointer.metadata(folder)
  tree = getattr(metadata, 'item_metadata', metadata).tree
  plain = ocp.RestoreArgs(restore_type=np.ndarray)
  how = jax.tree.map(lambda _: plain, tree)
  asked = ocp.args.PyTreeRestore(restore_args=how)
  leaves = jax.tree_util.tree_leaves_with_path(
    checkpointer.restore(folder, args=asked)
  )
  return {jax.tree_util.keystr(k): np.asarray(x) for k, x in leaves}


def record(workdir: pathlib.Path, step: int) -> dict[str, Any]:
  """What a checkpoint holds beside arrays, without what is timed."""
  folder = workdir / f'checkpoints/{step}/record'
  return untimed(json.loads((folder / 'metadata').read_text()))


def share_compiled() -> None:
  """Has process 0 compile what all run; the others read it from there.

  JAX can do that, but on CPUs it looks for programs by a key that is another in
  each process: the fingerprint of all devices as that process sees them.
  """
  name = '_hash_accelerator_config'
  if not hasattr(cache_key, name):
    raise RuntimeError(
      f'JAX {jax.__version__} has no {name}: look how it is now'
    )
  setattr(cache_key, name, lambda *_: None)
  jax.config.update('jax_share_binary_between_hosts', True)


if __name__ == '__main__':
  share_compiled()
  sys.exit(main(sys.argv[1:]))

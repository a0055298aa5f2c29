"""Whole runs in tests: trained, and held against those that were cut."""

import json
import shutil

import jax
import numpy as np
import pytest

from jaxdistill import config as configs
from jaxdistill.run.loop import Loop


def trained_by(config, folder):
  """Trains by a config: the loop, its metrics by step, the policy before."""
  configs.check(config)
  configs.prepare(config)
  run = configs.build(config)
  with jax.set_mesh(run.mesh):
    loop = Loop(run, folder, config.to_dict())
    before = jax.tree.map(np.asarray, loop.state.params)
    loop.train()
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return loop, [json.loads(line) for line in lines], before


def dies_after(loop, step):
  """Trains a run that dies as soon as it has logged a step."""
  log = loop.workdir.log

  def dies(at, metrics):
    log(at, metrics)
    if at == step:
      raise KeyboardInterrupt

  loop.workdir.log = dies
  with pytest.raises(KeyboardInterrupt):
    loop.train()


def cut(run, to):
  """A copy of a run of two steps as if it had died after its first."""
  shutil.copytree(run, to)
  shutil.rmtree(to / 'checkpoints' / '2')
  (to / 'manifests' / '2.json').unlink()
  (to / 'summary.json').unlink()
  assert (to / 'checkpoints' / '1').is_dir()


def to_go_on(folder, steps=2):
  """Makes of a run of fewer steps one that was cut there."""
  path = folder / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {'steps': steps}))


def promised(line):
  """What must not depend on when a run was cut."""
  return {
    k: v
    for k, v in line.items()
    if not k.startswith('time') and not k.endswith('_per_s')
  }


def moved(before, after):
  """Whether any of two trees' leaves differ."""
  return any(
    not np.array_equal(a, np.asarray(b))
    for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True)
  )

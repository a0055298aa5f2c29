"""Trains the small bases and puts three of them into the package.

  python launch/reproduce/pretrain_small.py [--workdir runs/pretrain]

Trains by `configs/pretrain_small.py` (goes on where it was cut), scores the
snapshots on the dev split (25 minutes in all on two cores), and writes three to
`jaxdistill/models/shipped/`: `late` is the last. Before the vote is first right
in more than .90 of the problems, `middle` is the snapshot nearest to .85 and
`early` the last with at most .40. Each gets a manifest: recipe, seed, step,
hash of the data, versions, scores on test and out of distribution.
"""

import argparse
import dataclasses
import json

import jax
from etils import epath

from jaxdistill import config as configs
from jaxdistill import models
from jaxdistill.data import builders
from jaxdistill.run.ask import evaluate
from jaxdistill.run.loop import Loop

SHIPPED = epath.Path('jaxdistill/models/shipped')
RECIPE = 'configs/pretrain_small.py'


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--workdir', default='runs/pretrain')
  workdir = parser.parse_args().workdir
  config = configs.read_config(RECIPE, [])
  run = configs.build(config)
  with jax.set_mesh(run.mesh):
    loop = Loop(run, workdir, config.to_dict())
    loop.train()
    early, middle = choose(loop)
    bases = {'early': early, 'middle': middle, 'late': run.steps}
    for name, step in bases.items():
      ship(loop, workdir, name, step)


def choose(loop):
  """Steps of the early and the middle base, by their votes on dev."""
  right = {}
  for step in loop.anchors.bank.steps('past'):
    right[step] = score(loop, step, ('dev',))['eval/dev/vote_accuracy']
    print(f'step {step}: vote right in {right[step]:.3f} of the dev problems')
    if right[step] > 0.90:
      break
  early = max(step for step, r in right.items() if r <= 0.40)
  return early, min(right, key=lambda step: abs(right[step] - 0.85))


def score(loop, step, splits):
  """Held-out scores of a snapshot, by eight samples."""
  player = loop.player(restore(loop, step))
  wanted = dataclasses.replace(
    loop.run.eval, splits=splits, samples=8, problems=500
  )
  return evaluate(dataclasses.replace(loop.run, eval=wanted), player)


def restore(loop, step):
  return loop.anchors.bank.restore('past', step, loop.state.params)


def ship(loop, workdir, name, step):
  """Writes one base with its manifest."""
  from flax import nnx

  summary = json.loads((epath.Path(workdir) / 'summary.json').read_text())
  manifest = {
    'recipe': RECIPE,
    'seed': loop.run.seed,
    'step': step,
    'data': 'small_world/corpus',
    'data_sha256': builders.fingerprint('corpus'),
    'versions': summary['versions'],
    'scores': score(loop, step, ('test', 'ood')),
  }
  model = nnx.merge(loop.graphdef, *restore(loop, step))
  target = SHIPPED / f'small-{name}'
  models.save(target, model, loop.run.loaded.tokenizer, manifest)
  print(f'{target}: step {step}')


if __name__ == '__main__':
  main()

"""Trains the small bases and puts three of them into the package.

  python launch/reproduce/pretrain_small.py \
    [--wide | --judge | --foreign | --peer] [--workdir DIR]

Trains by `configs/pretrain_small.py` (goes on where it was cut), scores the
snapshots on the dev split (25 minutes in all on two cores), and writes three to
`jaxdistill/models/shipped/`: `late` is the last. Before the vote is first right
in more than .90 of the problems, `middle` is the snapshot nearest to .85 and
`early` the last with at most .40. Each gets a manifest: recipe, seed, step,
hash of the data, versions, scores on test and out of distribution.

With `--wide` it trains by `configs/pretrain_wide.py` and writes `small-wide`,
the last step, with its scores in every format; with `--judge` by
`configs/pretrain_judge.py`, `small-judge`, likewise. With `--foreign` it trains
by `configs/pretrain_foreign.py` and writes `small-foreign`, the snapshot whose
greedy and sampled accuracies on test are nearest to those of `small-late`; with
`--peer` by `configs/pretrain_peer.py`, and `small-peer` is as `small-middle`.
"""

import argparse
import dataclasses
import json

import jax
from etils import epath

from jaxdistill import config as configs
from jaxdistill import models
from jaxdistill.data import builders
from jaxdistill.data.tasks import load_task
from jaxdistill.run.ask import evaluate
from jaxdistill.run.loop import Loop

SHIPPED = epath.Path('jaxdistill/models/shipped')
FORMATS = ('compare', 'revise', 'facts', 'relevance')
OF_FORMATS = ('wide', 'judge')
AS_STRONG = {'foreign': 'small-late', 'peer': 'small-middle'}


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--workdir')
  for base in (*OF_FORMATS, *AS_STRONG):
    parser.add_argument(
      f'--{base}', action='store_const', dest='base', const=base
    )
  args = parser.parse_args()
  name = f'pretrain_{args.base or "small"}'
  workdir = args.workdir or f'runs/{name}'
  config = configs.read_config(f'configs/{name}.py', [])
  run = configs.build(config)
  with jax.set_mesh(run.mesh):
    loop = Loop(run, workdir, config.to_dict())
    loop.train()
    if args.base in OF_FORMATS:
      ship(loop, workdir, name, args.base, run.steps, FORMATS)
      return
    if args.base:
      step = as_strong(loop, AS_STRONG[args.base])
      ship(loop, workdir, name, args.base, step)
      return
    early, middle = choose(loop)
    bases = {'early': early, 'middle': middle, 'late': run.steps}
    for base, step in bases.items():
      ship(loop, workdir, name, base, step)


def choose(loop):
  """Steps of the early and the middle base, by their votes on dev."""
  right = {}
  for step in loop.anchors.bank.steps('past'):
    often = score(loop, step, ('dev',))['eval/dev/vote_accuracy']
    print(f'step {step}: vote right in {often:.3f} of the dev problems')
    if often > 0.90:
      break
    right[step] = often
  early = max((step for step, r in right.items() if r <= 0.40), default=0)
  return early, min(right, key=lambda step: abs(right[step] - 0.85))


def as_strong(loop, base):
  """The step whose accuracies on test are nearest to those of a base."""
  manifest = json.loads((SHIPPED / base / 'manifest.json').read_text())
  names = 'eval/test/accuracy_greedy', 'eval/test/accuracy_sampled'
  off = {}
  for step in loop.anchors.bank.steps('past'):
    found = score(loop, step, ('test',))
    off[step] = sum(abs(found[n] - manifest['scores'][n]) for n in names)
    greedy, sampled = (found[n] for n in names)
    print(f'step {step}: greedy {greedy:.3f}, sampled {sampled:.3f} on test')
  return min(off, key=off.__getitem__)


def score(loop, step, splits, task=None):
  """Held-out scores of a snapshot, by eight samples."""
  player = loop.player(restore(loop, step))
  wanted = dataclasses.replace(
    loop.run.eval, splits=splits, samples=8, problems=500
  )
  run = dataclasses.replace(loop.run, eval=wanted, task=task or loop.run.task)
  return evaluate(run, player)


def restore(loop, step):
  return loop.anchors.bank.restore('past', step, loop.state.params)


def ship(loop, workdir, recipe, name, step, formats=()):
  """Writes one base with its manifest; scores of `formats` are among it."""
  from flax import nnx

  summary = json.loads((epath.Path(workdir) / 'summary.json').read_text())
  corpus = loop.run.task.corpus
  scores = score(loop, step, ('test', 'ood'))
  for one in formats:
    task = load_task(f'small:{one}')
    found = score(loop, step, ('test', 'ood'), task)
    scores |= {f'{one}/{key}': value for key, value in found.items()}
  manifest = {
    'recipe': f'configs/{recipe}.py',
    'seed': loop.run.seed,
    'step': step,
    'data': f'small_world/{corpus}',
    'data_sha256': builders.fingerprint(corpus),
    'versions': summary['versions'],
    'scores': scores,
  }
  model = nnx.merge(loop.graphdef, *restore(loop, step))
  target = SHIPPED / f'small-{name}'
  models.save(target, model, loop.run.loaded.tokenizer, manifest)
  print(f'{target}: step {step}')


if __name__ == '__main__':
  main()

"""A small world of another operation mix, and bases pretrained on it.

  python launch/reproduce/other_mix.py --workdir runs/other
  jaxdistill compare --config launch/reproduce/other_mix.py \\
    --workdir runs/guard_other

Trains from another seed than the shipped bases on a corpus with a third of
their subtractions and twice their products (25 minutes on two cores), and
writes `WORKDIR/weak` (the last snapshot whose vote is right in at most .40 of
the dev problems) and `WORKDIR/healthy` (the last one). As a task
(`--config.task=launch/reproduce/other_mix.py`) it is the problems of that mix.
The second command tries the guard on it: is it silent on the healthy base and
does it go off on the weak one, with ten seeds each?
"""

import argparse
import dataclasses
import functools
import pathlib
from typing import Any

import jax
import numpy as np

from jaxdistill.config import Comparison, read_config
from jaxdistill.data.small import world
from jaxdistill.data.tasks import SmallTask
from jaxdistill.types import Problem

SEED = 1
CORPUS = {
  **{('add', n, n): s for n, s in ((1, 3), (2, 18), (3, 18), (4, 1))},
  **{('sub', n, n): s for n, s in ((1, 2), (2, 5), (3, 5), (4, 1))},
  **{('add', a, b): 1 for a, b in ((2, 1), (3, 2), (3, 1))},
  **{('sub', a, b): 1 for a, b in ((2, 1), (3, 2), (3, 1))},
  **{('mul', 1, 1): 4, ('mul', 2, 1): 45, ('mul', 3, 1): 30},
}
HELD_OUT = {
  ('add', 2, 2): 27,
  ('add', 3, 3): 27,
  ('sub', 2, 2): 10,
  ('sub', 3, 3): 10,
  ('mul', 2, 1): 8,  # there are no more in the dev split
  ('mul', 3, 1): 18,
}
FAR = world.OOD_MIX
DRAWS = {  # split -> seed, mix, where its problems are from, how many
  'dev': (12, HELD_OUT, 'dev', 200),
  'test': (13, HELD_OUT, 'test', 500),
  'ood': (14, FAR, 'test', 500),
}


@dataclasses.dataclass(frozen=True)
class OtherMix(SmallTask):
  """The small world's task on problems of this mix."""

  @property
  def name(self) -> str:
    return 'small:other'

  def problems(self, split: str) -> Any:
    return _problems(self, split)


@functools.lru_cache
def _problems(task, split):
  if split == 'train':
    rng = np.random.default_rng(11)
    found = [world.draw_sum(rng, CORPUS, 'train') for _ in range(20_000)]
  else:
    found = world.draw_unique(*DRAWS[split])
  return [Problem(str(s), task, str(s.answer), s.operation) for s in found]


@dataclasses.dataclass(frozen=True)
class Corpus(OtherMix):
  """Its documents, to pretrain on."""

  def problems(self, split: str) -> Any:
    return _Documents(self) if split == 'train' else _problems(self, split)


@dataclasses.dataclass(frozen=True)
class _Documents:
  task: Any

  def __len__(self):
    return 400_000

  def __getitem__(self, index):
    found = world.draw_document(SEED, int(index), CORPUS)
    pair = found['prompt'], found['response']
    return Problem(found['prompt'], self.task, demonstration=pair)


task = OtherMix()


def get_config():
  here = pathlib.Path(__file__).resolve()
  root = here.parents[2]
  base: Any = read_config(str(root / 'configs' / 'sqlm_small.py'), ())
  base.task, base.tokens = str(here), 10_000_000  # more than the steps take
  base.steps, base.eval_every = 20, 20
  base.eval.splits, base.eval.problems = ('test',), 200
  arms = {
    'healthy': {'model': f'{root}/runs/other/healthy'},
    'weak': {'model': f'{root}/runs/other/weak', 'steps': 8},
  }
  return Comparison(base, arms, tuple(range(10)))


def main():
  from flax import nnx

  from jaxdistill import config as configs
  from jaxdistill import models
  from jaxdistill.run.ask import evaluate
  from jaxdistill.run.loop import Loop

  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--workdir', default='runs/other')
  workdir = parser.parse_args().workdir
  config = configs.read_config('configs/pretrain_small.py', [('seed', '1')])
  run = dataclasses.replace(configs.build(config), task=Corpus())
  with jax.set_mesh(run.mesh):
    loop = Loop(run, f'{workdir}/run', config.to_dict())
    loop.train()
    bank = loop.anchors.bank
    scored = dataclasses.replace(run.eval, splits=('dev',), samples=8)
    scored = dataclasses.replace(run, eval=scored)
    chosen = {'healthy': run.steps}
    for step in bank.steps('past'):
      player = loop.player(bank.restore('past', step, loop.state.params))
      right = evaluate(scored, player)['eval/dev/vote_accuracy']
      print(f'step {step}: vote right in {right:.3f} of the dev problems')
      if right > 0.40:
        break
      chosen['weak'] = step
    for name, step in chosen.items():
      params = bank.restore('past', step, loop.state.params)
      model = nnx.merge(loop.graphdef, *params)
      manifest = {'recipe': __file__, 'seed': SEED, 'step': step}
      target = f'{workdir}/{name}'
      tokenizer: Any = run.loaded.tokenizer
      models.save(target, model, tokenizer, manifest)
      print(f'{target}: step {step}')


if __name__ == '__main__':
  main()

"""How often runs answer better than the model that they began from.

  python launch/reproduce/win_rate.py --runs runs/temporal [--judge small-wide]

Each run of a comparison (`ROOT/ARM/SEED`), as it ended, and the base that it
began from answer the first problems of the test split, one sample each. One
judge, the same for all runs, says which answer is the better one: it is shown
both in both orders, and the mean of its log-odds decides, so that a liking for
a place cancels out. An answer that was cut loses to one that was not. Where
answers are known the same pairs are judged by them too: one is better if it
alone is right. Equal texts, and what a judge cannot tell apart, are half a win.
Writes `ROOT/win_rate.json`; half a minute a run on two cores.
"""

import argparse
import json
import pathlib

import jax
import numpy as np

import jaxdistill as jd
from jaxdistill import rewards
from jaxdistill.rollout import Sampling
from jaxdistill.rollout.judge import contest, visible
from jaxdistill.types import Prompt


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--runs', required=True, help='folder of a comparison')
  parser.add_argument('--judge', default='', help='its base, if not given')
  parser.add_argument('--problems', type=int, default=200)
  args = parser.parse_args()
  root, found = pathlib.Path(args.runs), {}
  files = sorted(root.glob('*/*/config.json'))
  config = json.loads(files[0].read_text())
  base = jd.load(config['model']).on(config['task'])
  judge = jd.load(args.judge).on(config['task']) if args.judge else base
  problems = base.problems('test', args.problems)
  of_base = answered(base, problems, config)
  for file in files:
    own = answered(jd.load(file.parent), problems, config)
    name = '/'.join(file.parent.parts[-2:])
    found[name] = {
      'judged': float(np.mean(judged(judge, problems, own, of_base))),
      'known': float(np.mean(known(problems, own, of_base))),
    }
    print(name, json.dumps(found[name]), flush=True)
  found = {'judge': args.judge or 'base', 'problems': args.problems} | found
  (root / 'win_rate.json').write_text(json.dumps(found, indent=1) + '\n')


def answered(model, problems, config):
  sampling = Sampling(1, config['eval']['max_tokens'])
  prompts = [Prompt.solve(p) for p in problems]
  with jax.set_mesh(model.player.mesh):
    said = model.player.generate(prompts, sampling, jax.random.key(0))
  return [rollout for (rollout,) in said]


def judged(judge, problems, own, others):
  """1, a half or 0 for each pair, by a judge that is shown both."""
  shown = [[[text] for text in visible(found)] for found in (own, others)]
  with jax.set_mesh(judge.player.mesh):
    return contest(judge.player, problems, *shown)['win_rate']


def known(problems, own, others):
  """The same by the known answers."""
  right = [
    [
      rewards.is_right(answer, p.answer)
      for p, r in zip(problems, rollouts, strict=True)
      for answer in rewards.answers(p.task, [r])
    ]
    for rollouts in (own, others)
  ]
  return (1 + np.subtract(*np.array(right, float))) / 2


if __name__ == '__main__':
  main()

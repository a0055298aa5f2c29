"""How likely one model finds the right answers of others.

  python launch/reproduce/likelihood.py [--out results/foreign]

Each of `WRITERS` answers the first problems of the test split, a few samples
each; `READER` and the writer itself say how likely the right ones are: the mean
log-prob per token (end mark included), and the share of tokens that have less
than a tenth of the probability. The smaller the first for the reader, the
stranger the writer's wording is to it.
"""

import argparse
import json
import pathlib

import jax
import numpy as np

import jaxdistill as jd
from jaxdistill import rewards
from jaxdistill.rollout import Sampling
from jaxdistill.types import Prompt

READER = 'small-middle'
WRITERS = 'small-late', 'small-foreign'
PROBLEMS, SAMPLES = 100, 8


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--out', default='results/foreign')
  out = pathlib.Path(parser.parse_args().out)
  reader, found = jd.load(READER), {'reader': READER, 'problems': PROBLEMS}
  for name in WRITERS:
    writer = jd.load(name)
    right = right_samples(writer)
    found[name] = {
      'right': len(right) / (PROBLEMS * SAMPLES),
      'tokens': float(np.mean([len(r.tokens_T) for r in right])),
      'to_itself': likelihood(writer, right),
      'to_the_reader': likelihood(reader, right),
    }
    print(name, json.dumps(found[name], indent=1))
    print('\n'.join(r.text for r in right[:3]))
  out.mkdir(parents=True, exist_ok=True)
  (out / 'likelihood.json').write_text(json.dumps(found, indent=1))


def right_samples(writer):
  problems = [writer.task.problems('test')[i] for i in range(PROBLEMS)]
  prompts = [
    Prompt('solver', writer.task.solver_prompt(p), i)
    for i, p in enumerate(problems)
  ]
  with jax.set_mesh(writer.player.mesh):
    rollouts_PG = writer.player.generate(
      prompts, Sampling(SAMPLES, 64), jax.random.key(0)
    )
  return [
    rollout
    for problem, rollouts_G in zip(problems, rollouts_PG, strict=True)
    for rollout, answer in zip(
      rollouts_G, rewards.answers(writer.task, rollouts_G), strict=True
    )
    if rewards.is_right(answer, problem.answer)
  ]


def likelihood(model, rollouts):
  """Log-prob per token, and how many tokens are surprises."""
  with jax.set_mesh(model.player.mesh):
    logp = np.concatenate(model.player.logprobs(rollouts))
  return {
    'logp': round(float(logp.mean()), 4),
    'below_a_tenth': round(float(np.mean(logp < np.log(0.1))), 4),
  }


if __name__ == '__main__':
  main()

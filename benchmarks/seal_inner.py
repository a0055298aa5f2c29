"""SEAL's inner loop: all candidates in one program, or one after another.

  python benchmarks/seal_inner.py --out results.json

8 passages x 5 edits x 3 seeds of the small world, 10 epochs each, as
`configs/seal_small.py` has them. Both sides train the same rows from the same
adapters; what each comes to is compared, and what compiling takes is apart.
The sides take turns; the medians count. On a CPU a step of one candidate keeps
a core busy already, so less is won there than on a GPU, where a dispatch costs
more than what it computes.
"""

import argparse
import dataclasses
import json
import statistics
import time

import jax
import numpy as np
import sides

import jaxdistill as jd
from jaxdistill.batch import Shapes
from jaxdistill.methods.edit_writer import EditWriter
from jaxdistill.methods.inner_training import InnerTraining
from jaxdistill.optimizer import OptimizerConfig
from jaxdistill.types import Prompt, RowSet


def nll(model, anchors, batch):
  return -batch.logprobs(model), {}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  for name, default in (
    *(('contexts', 8), ('edits', 5), ('seeds', 3), ('epochs', 10)),
    *(('rank', 8), ('length', 40), ('runs', 5), ('at_once', 0)),
  ):
    parser.add_argument(f'--{name}', type=int, default=default)
  parser.add_argument('--out')
  args = parser.parse_args()
  about = {'machine': sides.machine(), 'version': f'jax {jax.__version__}'}
  found = about | vars(args) | measured(args)
  print(json.dumps(found, indent=1))
  if args.out:
    sides.write(args.out, found)


def measured(args: argparse.Namespace) -> dict:
  """Seconds of both sides, and how far apart their adapters end."""
  model = jd.load('small-wide', task='small:passages')
  policy = dataclasses.replace(model.player, shapes=Shapes(args.length, 1))
  key = jax.random.key(0)
  found = model.task.problems('test')[: args.contexts]
  problems = [dataclasses.replace(p, address=i) for i, p in enumerate(found)]
  writer = EditWriter(max_tokens=48)
  edits = writer.written({'policy': policy}, problems, args.edits, key)
  inner = InnerTraining(with_passage=False)
  lessons = writer.lessons(policy, problems, edits, inner)
  sets = [
    RowSet('solver', lesson.rows)
    for lessons_E in lessons
    for lesson in lessons_E[:-1]
    for _ in range(args.seeds)
  ]
  keys = jax.random.split(key, len(sets))

  def adapted(first, last):
    players = policy.adapted(
      *(sets[first:last], nll, OptimizerConfig(lr=1e-3), args.epochs),
      key=keys[first:last],
      rank=args.rank,
      alpha=2.0 * args.rank,
    )
    jax.block_until_ready([p.params[0] for p in players])
    return players

  def by(size):
    begin = time.perf_counter()
    out = []
    for first in range(0, len(sets), size):
      out += adapted(first, first + size)
    return time.perf_counter() - begin, out

  sizes = {'together': args.at_once or len(sets), 'one_by_one': 1}
  first = {name: by(size)[0] for name, size in sizes.items()}
  seconds: dict[str, list[float]] = {name: [] for name in sizes}
  last = {}
  for _ in range(args.runs):
    for name, size in sizes.items():
      took, last[name] = by(size)
      seconds[name].append(took)
  # Adam turns the noise of a gradient near 0 into a step of the full rate, so
  # what counts is what the two say, not their weights.
  told = [policy.written(Prompt('solver', p.text), p.topic) for p in problems]
  said = [
    [np.concatenate(p.logprobs(told)) for p in players]
    for players in last.values()
  ]
  apart = np.abs(np.array(said[0]) - np.array(said[1]))
  weights = max(
    float(np.abs(np.asarray(a) - np.asarray(b)).max())
    for pair in zip(*last.values(), strict=True)
    for a, b in zip(*(jax.tree.leaves(p.params[0]) for p in pair), strict=True)
  )
  median = {name: statistics.median(x) for name, x in seconds.items()}
  return {
    'candidates': len(sets),
    'seconds': seconds,
    'median': median,
    'with_compiling': first,
    'times_faster': median['one_by_one'] / median['together'],
    'logprobs_apart': {
      'largest': float(apart.max()),
      'median': float(np.median(apart)),
    },
    'weights_apart': weights,
    'device': jax.devices()[0].device_kind,
  }


if __name__ == '__main__':
  main()

"""How near generation comes to what the machine can do.

  python benchmarks/roofline.py

A token of every row is held against a bare product of the same shapes (all the
model's matrices, in one program, with nothing between them) and against reading
the weights, keys and values at the speed of a plain copy. `share` is that time
over the time of a token; 1 would be the limit.
"""

import argparse
import statistics
import sys
import tempfile
import time

import rollout
import shape
import sides

SHAPES = {64: (64, 1), 256: (16, 16)}  # rows: prompts, samples
PROMPT, SHORT, LONG = 64, 64, 128  # a token's time is by the difference


def main() -> None:
  args = _parser().parse_args()
  if sides.answer(args, {'ours': run}):
    return
  measured = sides.Sides.of(__file__, args, {'ours': sys.executable})
  runs = {(side, n): [] for side in measured.pythons for n in SHAPES}
  with tempfile.TemporaryDirectory() as folder:
    for i, side in measured.in_turn(args.runs):
      for n, (prompts, samples) in SHAPES.items():
        jobs = {}
        for limit in (SHORT, LONG):
          case = rollout.Case(prompts, samples, PROMPT, limit, n)
          jobs[limit] = rollout.make_job(case, folder, args)
        found = measured.start(
          side, {'jobs': [jobs[SHORT], jobs[LONG]], 'threads': args.threads}
        )
        runs[side, n].append(found | limits(found))
        print(
          f'run {i + 1} of {args.runs}, {side}, {n} rows: '
          f'{1e3 * found["token"]:.2f} ms a token, '
          f'others used {found["others"]:.2f} CPUs',
          flush=True,
        )
        record = {'machine': sides.machine()}
        record['runs'] = {f'{s}, {m} rows': r for (s, m), r in runs.items()}
        sides.write(args.out, record)
  print('\n' + sides.text(table(runs)))
  print(f'\nall runs: {args.out}')


def _parser() -> argparse.ArgumentParser:
  parser = sides.parser(__doc__, 5, 'roofline')
  parser.add_argument('--calls', type=int, default=7, help='timed (7)')
  parser.set_defaults(seconds=0.0)
  return parser


def matrices() -> list[tuple[int, int]]:
  """Inputs and outputs of every product that a token takes part in."""
  wide, narrow = shape.HEADS * shape.HEAD, shape.KEY_HEADS * shape.HEAD
  layer = [
    *((shape.WIDTH, wide), (shape.WIDTH, narrow), (shape.WIDTH, narrow)),
    *((wide, shape.WIDTH), (shape.WIDTH, shape.HIDDEN)),
    *((shape.WIDTH, shape.HIDDEN), (shape.HIDDEN, shape.WIDTH)),
  ]
  return layer * shape.LAYERS + [(shape.WIDTH, shape.VOCABULARY)]


def limits(found: dict) -> dict:
  """Shares of a token's time, and what they are made of."""
  weights = sum(a * b for a, b in matrices())
  rows = found['rows']
  # The keys and values that the middle one of the timed tokens looks at.
  seen = PROMPT + (SHORT + LONG) // 2
  cache = 2 * shape.LAYERS * shape.KEY_HEADS * shape.HEAD * seen * rows
  read = 4 * (weights + cache)
  return {
    'gflops': 2e-9 * rows * weights / found['product'],
    'product_share': found['product'] / found['token'],
    'bytes': read,
    'bytes_share': read / found['bandwidth'] / found['token'],
  }


def table(runs: dict) -> list[list[str]]:
  head = 'side', 'rows', 'ms a token', 'bare product, ms', 'GFLOP/s of it'
  rows = [[*head, 'share', 'GB/s of a copy', 'share', 'others']]
  for (side, n), seen in runs.items():

    def of(name, form, scale=1.0, seen=seen):
      return sides.spread([scale * r[name] for r in seen], form)

    rows.append(
      [
        *(side, str(n), of('token', '.2f', 1e3), of('product', '.2f', 1e3)),
        *(of('gflops', '.0f'), of('product_share', '.2f')),
        *(of('bandwidth', '.1f', 1e-9), of('bytes_share', '.2f')),
        f'{max(r["others"] for r in seen):.2f}',
      ]
    )
  return rows


# A run


def run(job: dict) -> dict:
  """Seconds of a token of all rows, of bare products, and of a copy."""
  took = []
  for one in job['jobs']:
    version, ask, _ = rollout.ours(one)
    took.append(_fastest(ask, one['calls']))
  rows = job['jobs'][0]['rows']
  return {
    'version': version,
    'rows': rows,
    'token': (took[1] - took[0]) / (LONG - SHORT),
    'product': _product(rows),
    'bandwidth': _bandwidth(),
  }


def _fastest(ask, calls: int) -> float:
  """The median of warm calls."""
  seen = []
  for i in range(calls + 1):
    begin = time.perf_counter()
    ask(i)
    seen.append(time.perf_counter() - begin)
  return statistics.median(seen[1:])


def _product(rows: int, steps: int = 100) -> float:
  """Seconds of all products of a step, one after another in one program."""
  import jax
  import jax.numpy as jnp

  sizes = matrices()
  keys = jax.random.split(jax.random.key(0), len(sizes))
  weights = [
    jax.random.normal(k, s) * s[0] ** -0.5
    for k, s in zip(keys, sizes, strict=True)
  ]

  @jax.jit
  def chain(x, weights):
    def step(_, x):
      for i in range(shape.LAYERS):
        q, k, v, o, gate, up, down = weights[7 * i : 7 * i + 7]
        x = (x @ q + jnp.concatenate([x @ k, x @ v], -1)) @ o
        x = (x @ gate + x @ up) @ down
      logits = x @ weights[-1]
      # All of it is needed, and none of it grows.
      x = logits[:, : shape.WIDTH] + logits[:, shape.WIDTH :]
      return x * 0.01

    return jax.lax.fori_loop(0, steps, step, x)

  x = jax.random.normal(jax.random.key(1), (rows, shape.WIDTH))
  return _fastest(lambda _: jax.block_until_ready(chain(x, weights)), 5) / steps


def _bandwidth(megabytes: int = 256) -> float:
  """Bytes a second that a copy reads; it writes as many."""
  import jax
  import jax.numpy as jnp

  x = jnp.ones(megabytes * 2**18)
  copy = jax.jit(lambda x: x + 1)
  seconds = _fastest(lambda _: jax.block_until_ready(copy(x)), 5)
  return 2 * x.nbytes / seconds


if __name__ == '__main__':
  main()

"""What generation holds while long answers grow and end: bytes by dispatch.

  SHAPE=sixth python benchmarks/memory.py

64 prompts of 64 tokens, 8 answers each of at most 1,024, all at once; answers
end by log-normal odds around a quarter of that. Beside what is held after each
dispatch stand the keys and values of the tokens that are alive, and what a
cache of the longest answer allowed would take. Writes a figure beside the JSON.
"""

import argparse
import pathlib
import sys
import tempfile

import rollout
import shape
import sides

CASE = rollout.Case(64, 8, 64, 1024, 512, 'counting', 4, median=256)


def main() -> None:
  args = _parser().parse_args()
  if sides.answer(args, {'ours': run}):
    return
  measured = sides.Sides.of(__file__, args, {'ours': sys.executable})
  with tempfile.TemporaryDirectory() as folder:
    job = rollout.make_job(CASE, folder, args)
    found = measured.start('ours', job)
  record = {'machine': sides.machine(), 'shape': shape.NAME, 'run': found}
  sides.write(args.out, record)
  figure = pathlib.Path(args.out).with_suffix('.png')
  draw(found, figure)
  print(sides.text(table(found)))
  print(f'\nall dispatches: {args.out}, drawn in {figure}')


def _parser() -> argparse.ArgumentParser:
  parser = sides.parser(__doc__, 1, 'memory')
  parser.set_defaults(seconds=0.0, calls=1)
  return parser


def token_bytes() -> int:
  return 4 * 2 * shape.LAYERS * shape.KEY_HEADS * shape.HEAD


def run(job: dict) -> dict:
  """What is held after each dispatch, of a call of which all is compiled."""
  import jax
  import numpy as np

  from jaxdistill.rollout import engine, schedule

  version, ask, _ = rollout.ours(job)
  weights = sum(x.nbytes for x in jax.live_arrays())
  seen: list[dict[str, int]] = []
  advance, note = engine._advance, schedule.Desk.note

  def advanced(*args, **kw):
    end = advance(*args, **kw)
    jax.block_until_ready(end)
    held = sum(x.nbytes for x in jax.live_arrays() if not x.is_deleted())
    seen.append({'held': held - weights})
    return end

  def noted(self, *args):
    note(self, *args)
    s = self.samples
    alive = s.alive > 0
    groups = np.any(alive.reshape(-1, self.group), 1).sum()
    seen[-1]['samples'] = int(alive.sum())
    seen[-1]['tokens'] = int(s.age[alive].sum() + job['prompt'] * groups)
    seen[-1]['drawn'] = int(self.lengths.sum())

  engine._advance, schedule.Desk.note = advanced, noted
  ask(0)
  return {
    'version': version,
    'dispatches': seen,
    'token_bytes': token_bytes(),
    'longest': job['rows'] * (job['prompt'] + job['limit']) * token_bytes(),
  }


def table(found: dict) -> list[list[str]]:
  """Ten of the dispatches, and the one that held most."""
  seen, one = found['dispatches'], found['token_bytes']
  most = max(range(len(seen)), key=lambda i: seen[i]['held'])
  chosen = sorted({*range(0, len(seen), max(len(seen) // 10, 1)), most})
  rows = [['tokens drawn', 'samples alive', 'their tokens, GB', 'held, GB']]
  rows[0].append('held / of the longest allowed')
  for i in chosen:
    at = seen[i]
    rows.append(
      [
        f'{at["drawn"]:,}',
        str(at['samples']),
        f'{at["tokens"] * one / 1e9:.3f}',
        f'{at["held"] / 1e9:.3f}' + ' (most)' * (i == most),
        f'{at["held"] / found["longest"]:.2f}',
      ]
    )
  return rows


def draw(found: dict, path: pathlib.Path) -> None:
  """A figure of bytes over tokens drawn."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  seen = found['dispatches']
  drawn = [at['drawn'] for at in seen]
  figure, axes = pyplot.subplots(figsize=(7, 4), layout='constrained')
  axes.plot(drawn, [at['held'] / 1e9 for at in seen], label='held')
  alive = [at['tokens'] * found['token_bytes'] / 1e9 for at in seen]
  axes.plot(drawn, alive, label='keys and values of tokens alive')
  axes.axhline(
    found['longest'] / 1e9,
    color='grey',
    ls='--',
    label='of the longest allowed',
  )
  axes.set(xlabel='tokens drawn', ylabel='GB', ylim=(0, None))
  axes.legend()
  figure.savefig(path, dpi=120)


if __name__ == '__main__':
  main()

"""Which programs a run compiles, step by step.

  python benchmarks/programs.py configs/sqlm_small.py steps=6

A line of JSON for what is compiled before the first step (`begin`), in it, and
after each line of `metrics.jsonl`; the last counts what came after step 0, of
which there should be none. Programs that are read from disk count as well. The
arguments after the config are keys of it.
"""

import ast
import collections
import contextlib
import json
import sys
import tempfile

import jax

import jaxdistill as jd

EVENT = '/jax/core/compile/backend_compile_duration'


def main():
  config, *keys = sys.argv[1:]
  overrides = {}
  for key, _, text in (x.partition('=') for x in keys):
    overrides[key] = text
    with contextlib.suppress(ValueError, SyntaxError):
      overrides[key] = ast.literal_eval(text)
  here, found = ['begin'], collections.defaultdict(collections.Counter)

  def listen(event, seconds, fun_name='', **_):
    del seconds
    if event == EVENT:
      found[here[0]][fun_name] += 1

  jax.monitoring.register_event_duration_secs_listener(listen)
  with tempfile.TemporaryDirectory() as folder:
    with jd.steps(config, folder, **overrides) as steps:
      here[0] = 'step 0'
      for line in steps:
        here[0] = f'after the line of step {line["step"]}'
    for where, programs in found.items():
      print(json.dumps({'in': where, **programs}))
  after = [n for where, n in found.items() if where not in ('begin', 'step 0')]
  total = sum(after, collections.Counter())
  print(json.dumps({'after step 0': total.total(), **total}))


if __name__ == '__main__':
  main()

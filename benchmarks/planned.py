"""Memory that `jaxdistill plan` says a program takes, beside what it takes.

  python benchmarks/planned.py configs/sqlm_small.py method.problems=4

Each program is compiled for the device here and runs once, on arrays of zeros,
in a process of its own: a line of JSON for each. Of a CPU no memory is known.
XLA's trials of products, which take memory while a program is compiled, are
left out by `XLA_FLAGS=--xla_gpu_autotune_level=0`.
"""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp

from jaxdistill.api import planning
from jaxdistill.plan import estimate

PROGRAMS = 'train', 'read prompts', 'draw a token'


class Found(Exception):
  """What a program took."""


def main() -> None:
  if sys.argv[1] not in PROGRAMS:
    for name in PROGRAMS:
      subprocess.run(
        [sys.executable, __file__, name, *sys.argv[1:]], check=True
      )
    return
  wanted, path, *keys = sys.argv[1:]
  given = [(name, value) for name, _, value in (k.partition('=') for k in keys)]
  compile_it = estimate._Builder.compile

  def one(self, name, lowered, held):
    if name == wanted:
      raise Found(measured(name, lowered))
    if name.startswith('lay') and wanted.startswith('draw'):
      return compile_it(self, name, lowered, held)  # says how weights lie
    self.programs.append(estimate.Program(name, 0, 0, None, {}, 0))
    return None

  estimate._Builder.compile = one
  try:
    planning.plan(planning.configure(path, given), *planning.devices())
  except Found as found:
    print(json.dumps(found.args[0]), flush=True)


def measured(name: str, lowered) -> dict:
  """Bytes that are planned and in use, of arguments and at most."""
  device = jax.devices()[0]
  compiled = lowered.compile()
  memory = compiled.memory_analysis()
  results = memory.output_size_in_bytes - memory.alias_size_in_bytes
  arguments = memory.argument_size_in_bytes

  def in_use(what):
    return (device.memory_stats() or {}).get(what, 0)

  def made(x):
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      return jax.random.key(0)
    # Of each loop whose length is given one round is run.
    return jnp.zeros(x.shape, x.dtype) if x.shape else jnp.ones((), x.dtype)

  before = in_use('bytes_in_use')
  args, named = jax.tree.map(
    made, lowered.args_info, is_leaf=lambda x: isinstance(x, jax.stages.ArgInfo)
  )
  jax.block_until_ready((args, named))
  there = in_use('bytes_in_use') - before
  jax.block_until_ready(compiled(*args, **named))
  return {
    'program': name,
    'arguments_planned': arguments,
    'arguments': there,
    'peak_planned': arguments + memory.temp_size_in_bytes + results,
    'peak': in_use('peak_bytes_in_use') - before,
    'device': device.device_kind,
    'jax': jax.__version__,
  }


if __name__ == '__main__':
  main()

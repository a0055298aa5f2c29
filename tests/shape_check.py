"""The type checker that jaxtyping's import hook applies to the package."""

import functools

from beartype import BeartypeConf, beartype
from jax.stages import ArgInfo

# The numeric tower: an int is a float, as everywhere in Python.
_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(fn):
  """Checks calls, but for what JAX notes of a program that it lowers."""
  typed = _checked(fn)

  @functools.wraps(fn)
  def call(*args, **kwargs):
    noted = any(isinstance(x, ArgInfo) for x in (*args, *kwargs.values()))
    return (fn if noted else typed)(*args, **kwargs)

  return call

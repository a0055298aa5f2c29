"""Programs that are compiled before they are needed, several at once."""

import concurrent.futures
import functools
import os
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

_MOST = 16  # compiled at once: each takes memory of the host
# By program what was compiled of it, by what it is given. A program that nobody
# has any more takes it along, as it does with what JAX keeps of it.
_made: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class Programs:
  """Compiles what a run will come to, while its first step is at it.

  A call of what was not foreseen is a plain one. Every process foresees the
  same programs in the same order, and none of them runs before it is called.
  What is static is given by keyword, all else by place.
  """

  def __init__(self):
    self._pool: concurrent.futures.Executor | None = None

  @property
  def foreseeing(self) -> bool:
    """Whether anything may still be foreseen."""
    return self._pool is not None

  def open(self) -> None:
    """From here on, what is foreseen is compiled."""
    threads = min(os.cpu_count() or 1, _MOST)
    self._pool = self._pool or concurrent.futures.ThreadPoolExecutor(threads)

  def settle(self) -> None:
    """Waits for all that was foreseen; no more is."""
    if self._pool:
      self._pool.shutdown()
    self._pool = None

  def drop(self) -> None:
    """Lets go of what was foreseen and is not being compiled yet."""
    if self._pool:
      self._pool.shutdown(wait=False, cancel_futures=True)
      for known in _made.values():
        for key in [k for k, made in known.items() if made.cancelled()]:
          del known[key]
    self._pool = None

  def foresee(self, program: Callable, *args: Any, **static: Any) -> None:
    """Compiles a program for arrays like these.

    Args:
      program: From `jax.jit`.
      *args: Arrays, or `jax.ShapeDtypeStruct`s that say where they will be.
      **static: What is static.
    """
    known = _made.setdefault(program, {})
    key = _key(args, static)
    if self._pool and key not in known:
      lowered: Any = program
      lowered = lowered.lower(*args, **static)
      known[key] = self._pool.submit(lowered.compile)

  def __call__(self, program: Callable, *args: Any, **static: Any) -> Any:
    """Calls a program, by what was compiled of it where it was foreseen."""
    known = _made.get(program)
    if not known:  # and no key is made, as most calls need none
      return program(*args, **static)
    key = _key(args, static)
    if key not in known:
      return program(*args, **static)
    try:
      compiled = known[key].result()
    except Exception:  # of memory, say, beside all else: alone it may do
      del known[key]
      return program(*args, **static)
    return compiled(*args)


def forget_programs() -> None:
  """Lets go of all that was compiled, as `jax.clear_caches`."""
  _made.clear()


def _key(args: Any, static: Any) -> Hashable:
  """What a program depends on, but for itself."""
  leaves, treedef = jax.tree.flatten(args)
  like = tuple(
    (np.shape(x), _dtype(x), _place(getattr(x, 'sharding', None), np.shape(x)))
    for x in leaves
  )
  config: Any = jax.config
  context = (
    jax.sharding.get_abstract_mesh(),
    config.jax_default_matmul_precision,
  )
  return tuple(sorted(static.items())), treedef, like, context


def _dtype(x: Any) -> Hashable:
  return getattr(x, 'dtype', type(x))


@functools.lru_cache(2**14)
def _place(sharding: Any, shape: tuple[int, ...]) -> Hashable:
  """Which part of an array is where, however that is written."""
  if sharding is None:
    return None
  found = sharding.devices_indices_map(shape)
  return sharding.memory_kind, tuple(
    (device.id, *((i.start, i.stop) for i in index))
    for device, index in found.items()
  )

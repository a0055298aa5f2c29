"""Several processes that run the same program.

Everything that decides whether another compiled call follows is agreed here
first: all processes must issue the same calls in the same order.
"""

import functools
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

from jaxdistill.dist.forward import forwarded
from jaxdistill.dist.watch import GONE, watch

# Seconds in which processes find each other, and after which JAX itself ends
# those who fall silent, by a C++ stack: long after the watch has named them.
JOINING, JAX_SILENT = 600, 600
_HOURS = 24  # that processes wait for one that downloads
_SMALL, _LARGE = 2**10, 2**16  # bytes of what is gathered at once


def start_hosts(
  coordinator: str = '',
  num_processes: int = 0,
  process_id: int = -1,
  then: str = 'start all processes again',
) -> None:
  """Joins the processes of a run; call before any other use of JAX.

  From then on a process that is gone (killed, stopped, cut off) ends the others
  within two minutes: one line names it and its host, the exit code is 69. One
  that ends of an error is named with it, and its exit code is that of all.

  Args:
    coordinator: `host:port` of process 0; empty for a run of one process.
      `auto` leaves all three to JAX, which reads them from the cluster
      (TPU pods, Slurm, GKE).
    num_processes: How many processes there are.
    process_id: Which of them this is.
    then: What to do when one is gone, as the line says it.

  Raises:
    ValueError: The three do not go together.
  """
  if coordinator == 'auto':
    try:
      _join(then)
    except ValueError as e:
      if 'coordinator_address' not in str(e):
        raise
      raise ValueError(
        'coordinator auto finds no TPU pod, Slurm or GKE here; give --'
        'coordinator HOST:PORT --num_processes N --process_id I, or none of '
        'them for one process'
      ) from None
    return
  if not coordinator and (num_processes > 1 or process_id >= 0):
    raise ValueError(
      'num_processes and process_id need a coordinator, host:port or auto'
    )
  if coordinator:
    host, _, port = coordinator.rpartition(':')
    if not host or not port.isdecimal() or int(port) >= 2**16:
      raise ValueError(f'coordinator {coordinator!r} must be host:port or auto')
    if not 0 <= process_id < num_processes:
      raise ValueError(
        f'coordinator {coordinator} needs num_processes and process_id; '
        f'process_id is {process_id} of {num_processes}'
      )
    _join(then, coordinator, num_processes, process_id)


def _join(then: str, *which: Any) -> None:
  with forwarded() as made:

    def give_up():  # before JAX does, by a C++ stack
      why = 'not all processes have come'
      if made and not made[0].reached:
        why = f'process 0 cannot be reached at {made[0].address}'
      print(f'jaxdistill: {why}, in {JOINING} s; {then}', file=sys.stderr)
      sys.stderr.flush()
      os._exit(GONE)

    timer = threading.Timer(JOINING, give_up)
    timer.daemon = True
    timer.start()
    try:
      jax.distributed.initialize(
        *which,
        initialization_timeout=2 * JOINING,
        heartbeat_timeout_seconds=JAX_SILENT,
      )
    finally:
      timer.cancel()
  watch(then, made[0] if made else None)


def sum_over_hosts(values: np.ndarray) -> np.ndarray:
  """The sum of a host array over all processes, in float64."""
  values = np.asarray(values, np.float64)
  if jax.process_count() == 1:
    return values
  # Bytes, because JAX would round float64 to float32 on the way.
  gathered = multihost_utils.process_allgather(
    np.frombuffer(values.tobytes(), np.uint8)
  )
  flat = np.frombuffer(np.asarray(gathered).tobytes(), np.float64)
  return flat.reshape(jax.process_count(), *values.shape).sum(0)


def agree_max(*values: int) -> tuple[int, ...]:
  """The largest of each value over all processes."""
  if jax.process_count() == 1:
    return values
  gathered = multihost_utils.process_allgather(np.array(values, np.int32))
  return tuple(int(v) for v in np.asarray(gathered).max(0))


def gather_texts(texts: Sequence[str]) -> list[str]:
  """The texts of all processes, in the order of the processes.

  They go in parts of two sizes, so that two programs do for texts of any
  length, and both are compiled at the first call.
  """
  if jax.process_count() == 1:
    return list(texts)
  mine = json.dumps(list(texts)).encode()
  _compile_parts()
  head = len(mine).to_bytes(8, 'big') + mine[: _SMALL - 8]
  heads = _exchange(_SMALL, head)
  sizes = [int.from_bytes(x[:8], 'big') for x in heads]
  parts = [[x[8:]] for x in heads]
  for start in range(_SMALL - 8, max(sizes), _LARGE):
    more = _exchange(_LARGE, mine[start : start + _LARGE])
    for kept, x in zip(parts, more, strict=True):
      kept.append(x)
  found = [
    json.loads(b''.join(kept)[:n]) for kept, n in zip(parts, sizes, strict=True)
  ]
  return [text for of_one in found for text in of_one]


@functools.cache
def _compile_parts() -> None:
  _exchange(_LARGE, b'')  # that of the small ones follows


def _exchange(size: int, data: bytes) -> list[bytes]:
  """Up to `size` bytes of each process, filled up with zeros."""
  padded = np.frombuffer(data.ljust(size, b'\0'), np.uint8)
  return [
    row.tobytes()
    for row in np.asarray(multihost_utils.process_allgather(padded))
  ]


def by_first(act: Callable[[], Any], where: str = '') -> Any:
  """What process 0 comes to when it acts, for all: JSON, or None.

  Args:
    act: What it does.
    where: A place for `meet`, if it may take longer than a collective waits.

  Raises:
    ValueError: Process 0 raised this, or an `OSError`; so do all, and none
      waits for it.
    RuntimeError: Process 0 raised something else, which it raises itself.
  """
  value, error = None, None
  if jax.process_index() == 0:
    try:
      value = act()
    except Exception as e:
      error = e
  if where:
    meet(where)
  said = _as_text(error) if error else ''
  value, said = json.loads(gather_texts([json.dumps([value, said])])[0])
  if error:
    raise error
  if said:
    raise _from_text(said)
  return value


def together(act: Callable[[], Any]) -> Any:
  """What this process comes to when it acts, if none fails.

  Raises:
    ValueError: It raised this, or another process did, or an `OSError`: none
      waits for it.
    RuntimeError: Another process raised something else.
    Exception: It raised this.
  """
  value, error = None, None
  try:
    value = act()
  except Exception as e:
    error = e
  said = gather_texts([_as_text(error)] if error else [])
  if error:
    raise error
  if said:
    raise _from_text(said[0], 'on another host: ')
  return value


def _as_text(error: Exception) -> str:
  """An exception, for others; what a user can mend is told from the rest."""
  if isinstance(error, (ValueError, OSError)):
    return json.dumps([True, str(error)])
  return json.dumps([False, f'{type(error).__name__}: {error}'])


def _from_text(text: str, where: str = '') -> Exception:
  refused, said = json.loads(text)
  return (ValueError if refused else RuntimeError)(f'{where}{said}')


def barrier(name: str) -> None:
  """Waits until every process is here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def meet(name: str) -> None:
  """Waits until every process is here, for hours if need be.

  Over the coordination service: a collective would give up on a process that
  still downloads.

  Args:
    name: Of the place; each is met at only once.
  """
  if distributed.global_state.num_processes > 1:
    client: Any = distributed.global_state.client
    client.wait_at_barrier(f'jaxdistill/{name}', _HOURS * 3_600_000)

"""Several processes that run the same program.

Everything that decides whether another compiled call follows is agreed here
first: all processes must issue the same calls in the same order.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def start_hosts(
  coordinator: str = '', num_processes: int = 0, process_id: int = -1
) -> None:
  """Joins the processes of a run; call before any other use of JAX.

  Args:
    coordinator: `host:port` of process 0; empty for a run of one process.
      `auto` leaves all three to JAX, which reads them from the cluster
      (TPU pods, Slurm, GKE).
    num_processes: How many processes there are.
    process_id: Which of them this is.

  Raises:
    ValueError: The three do not go together.
  """
  if coordinator == 'auto':
    jax.distributed.initialize()
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
    jax.distributed.initialize(coordinator, num_processes, process_id)


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
  """The texts of all processes, in the order of the processes."""
  if jax.process_count() == 1:
    return list(texts)
  mine = json.dumps(list(texts)).encode()
  (longest,) = agree_max(len(mine))
  padded = np.frombuffer(mine.ljust(longest), np.uint8)  # JSON ignores spaces
  gathered = np.asarray(multihost_utils.process_allgather(padded))
  return [text for row in gathered for text in json.loads(row.tobytes())]


def by_first(act: Callable[[], Any]) -> Any:
  """What process 0 comes to when it acts, for all: JSON, or None.

  Raises:
    ValueError: Process 0 raised this, or an `OSError`; so do all, and none
      waits for it.
  """
  value, error = None, None
  if jax.process_index() == 0:
    try:
      value = act()
    except (ValueError, OSError) as e:
      error = e
  said = str(error) if error else ''
  value, said = json.loads(gather_texts([json.dumps([value, said])])[0])
  if error:
    raise error
  if said:
    raise ValueError(said)
  return value


def together(act: Callable[[], Any]) -> Any:
  """What this process comes to when it acts, if none fails.

  Raises:
    ValueError: It raised this, or another process did, or an `OSError`: none
      waits for it.
    OSError: It raised this.
  """
  value, error = None, None
  try:
    value = act()
  except (ValueError, OSError) as e:
    error = e
  said = gather_texts([str(error)] if error else [])
  if error:
    raise error
  if said:
    raise ValueError(f'on another host: {said[0]}')
  return value


def barrier(name: str) -> None:
  """Waits until every process is here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)

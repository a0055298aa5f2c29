"""A run that is asked to stop: SIGTERM, and the notice of a scheduler."""

import contextlib
import ctypes
import signal
import threading
from collections.abc import Callable, Iterator

from jax.experimental import multihost_utils

from jaxdistill import dist

# Seconds in which further SIGTERMs are the same request: a machine that goes
# down sends one to every process, and whoever began this one hands it down.
SAME = 5.0


class Stopped(Exception):
  """A run was asked to stop and has saved; the text says at which step."""


@contextlib.contextmanager
def asked_to_stop() -> Iterator[Callable[[int], bool]]:
  """Gives a function of the step that says whether to stop after it.

  All processes call it at every step: one that is asked stops all. The first
  SIGTERM asks; one that comes `SAME` later ends the process at once.
  """
  asked = threading.Event()
  # By C, because the main thread may be waiting in a compiled call.
  deaf = threading.Timer(
    SAME, ctypes.pythonapi.PyOS_setsig, (int(signal.SIGTERM), None)
  )
  deaf.daemon = True

  def ask(number, frame):
    if not asked.is_set():
      asked.set()
      deaf.start()

  def stop(step: int) -> bool:
    return bool(dist.agree_max(int(asked.is_set() or _noticed(step)))[0])

  if threading.current_thread() is not threading.main_thread():
    yield stop  # signals are the main thread's
    return
  # Of several processes JAX takes SIGTERM for a notice, without the second
  # signal; here it is ours, and agreed on in the same way.
  before = signal.signal(signal.SIGTERM, ask)
  try:
    yield stop
  finally:
    deaf.cancel()
    signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _noticed(step: int) -> bool:
  try:
    return multihost_utils.reached_preemption_sync_point(step)
  except RuntimeError:  # this JAX has no such service, or it is off
    return False

"""How a command ends of what its machine does: in one line."""

import contextlib
import errno
import sys
from collections.abc import Iterator

AGAIN = 'the same command goes on from its newest checkpoint'
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Failed(Exception):
  """The machine failed, not what was asked of it."""


@contextlib.contextmanager
def training() -> Iterator[None]:
  """Ends what a run may end of in one line."""
  import logging

  from jaxdistill.checkpoint import STORAGE_ERRORS, RefusedError
  from jaxdistill.config import ConfigError

  # What Orbax fails of is raised as well, once; and what it was about to write
  # then finds its event loop closed, which its C++ tells this hook.
  for name in ('absl', 'asyncio'):
    logging.getLogger(name).setLevel(logging.CRITICAL)
  sys.unraisablehook = _but_closed_loops
  try:
    yield
  except RefusedError as e:
    raise ConfigError(str(e)) from None
  except OSError as e:
    if e.errno not in STORAGE_ERRORS:
      raise
    raise Failed(f'{_told(e)}; make room, and {AGAIN}') from None


@contextlib.contextmanager
def writing(option: str) -> Iterator[None]:
  """Names the option whose file cannot be written."""
  from jaxdistill.config import ConfigError

  try:
    yield
  except ValueError as e:  # of an object store
    raise ConfigError(f'{option.split()[0]} {e}') from None
  except OSError as e:
    if e.errno in _FULL:
      raise Failed(_told(e)) from None
    why = (e.strerror or str(e)).lower()
    raise ConfigError(f'{option} cannot be written: {why}') from None


def _told(e: OSError) -> str:
  return f'{e.filename or "a file"}: {(e.strerror or str(e)).lower()}'


def _but_closed_loops(unraisable) -> None:
  if str(unraisable.exc_value) != 'Event loop is closed':
    sys.__unraisablehook__(unraisable)

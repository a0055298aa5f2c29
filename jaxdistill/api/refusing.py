"""What is wrong with what was asked, in one line."""

import contextlib
from collections.abc import Iterator

from jaxdistill.config import ConfigError


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
  """Turns what the user can mend into a `ConfigError`."""
  try:
    yield
  except ValueError as e:
    raise ConfigError(str(e)) from None
  except OSError as e:  # ours say it in words, the system's by a number
    why = f'{e.filename}: {e.strerror.lower()}' if e.strerror else str(e)
    raise ConfigError(why) from None

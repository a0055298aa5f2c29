"""Where compiled programs are kept from one process to the next."""

import os
from typing import Any


def compile_cache() -> str:
  """The folder of compiled programs."""
  home = os.environ.get('XDG_CACHE_HOME', '~/.cache')
  own = os.path.join(os.path.expanduser(home), 'jaxdistill', 'xla')
  return os.environ.get('JAX_COMPILATION_CACHE_DIR') or own


def cache_compilations() -> None:
  """Lets JAX keep what it compiles, unless it has been told where."""
  import jax

  config: Any = jax.config
  if not config.jax_compilation_cache_dir:
    config.update('jax_compilation_cache_dir', compile_cache())
    config.update('jax_persistent_cache_min_compile_time_secs', 0.0)

"""What the host could still give, asked without JAX."""

import pathlib

import psutil

_GROUP = pathlib.Path('/sys/fs/cgroup')  # of a container


def host_memory() -> int:
  """Bytes that this host, or this container of it, could still give."""
  free = psutil.virtual_memory().available + psutil.swap_memory().free
  limit, used = (_number(f'memory.{name}') for name in ('max', 'current'))
  return free if limit is None else min(free, max(limit - (used or 0), 0))


def _number(name: str) -> int | None:
  path = _GROUP / name
  text = path.read_text().strip() if path.exists() else ''
  return int(text) if text.isdecimal() else None

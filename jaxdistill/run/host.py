"""What the host could still give, asked without JAX."""

import pathlib

import psutil

_GROUP = pathlib.Path('/sys/fs/cgroup')  # of a container


def host_memory() -> int:
  """Bytes that this host, or this container of it, could still give."""
  free = psutil.virtual_memory().available + psutil.swap_memory().free
  limit = _read('memory.max')
  if not limit.isdecimal():
    return free
  stat = dict(line.split() for line in _read('memory.stat').splitlines())
  # What files have been read into goes when it is needed.
  cached = int(stat.get('active_file', 0)) + int(stat.get('inactive_file', 0))
  used = int(_read('memory.current') or 0) - cached
  return min(free, max(int(limit) - used, 0))


def _read(name: str) -> str:
  path = _GROUP / name
  return path.read_text().strip() if path.exists() else ''

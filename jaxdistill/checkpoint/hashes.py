"""SHA-256 of what is written, and what is wrong with what is found."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping

from etils import epath

from jaxdistill import storage

# Whose arrays a file of a checkpoint holds.
_OF_PROCESS = re.compile(r'(?:^|/)ocdbt\.process_(\d+)/')


class RefusedError(ValueError):
  """A run's folder is not as it must be to go on from; the text says how."""


def sha256(path: epath.PathLike) -> str:
  """Hex digest of a file."""
  digest = hashlib.sha256()
  for block in storage.blocks(path):
    digest.update(block)
  return digest.hexdigest()


def hashes(
  folder: epath.Path, names: Iterable[str] | None = None
) -> dict[str, str]:
  """SHA-256 of files in a folder, by their paths there; several at a time.

  Args:
    folder: Where they are.
    names: Which of them; all by default.
  """
  names = storage.files(folder) if names is None else list(names)
  found = storage.each(lambda name: sha256(folder / name), names)
  return dict(zip(names, found, strict=True))


def written_by(process: int, names: Iterable[str]) -> list[str]:
  """Which files of a checkpoint one process wrote.

  Of several each writes its own arrays, in a folder of its own. The rest is
  process 0's.
  """
  found = {name: _OF_PROCESS.search(name) for name in names}
  return [
    name
    for name, match in found.items()
    if (int(match[1]) if match else 0) == process
  ]


def seal_of(folder: epath.Path) -> epath.Path:
  """Where the hashes of a folder that is not a checkpoint lie: beside it."""
  return folder.with_name(f'{folder.name}.json')


def read_manifest(path: epath.Path) -> dict[str, str]:
  """The hashes in a file.

  Raises:
    RefusedError: They cannot be read.
  """
  try:
    return dict(json.loads(path.read_text()))
  except FileNotFoundError:
    raise RefusedError(f'{path} is missing') from None
  except (ValueError, TypeError):
    raise RefusedError(f'{path} is damaged') from None


def fault(
  folder: epath.Path,
  wanted: Mapping[str, str],
  known: Mapping[epath.Path, str] | None = None,
) -> dict[epath.Path, str]:
  """The first file that is not as wanted, and why; empty if all are.

  Args:
    folder: What should be there, and nothing else.
    wanted: From `hashes`.
    known: Hashes of files that have just been read.
  """
  there = set(storage.files(folder))
  if not there and not folder.is_dir():
    return {folder: 'is missing'}
  for name in sorted(there ^ set(wanted)):
    what = 'is missing' if name in wanted else 'does not belong there'
    return {folder / name: what}
  known = known or {}
  found = {x: known[folder / x] for x in wanted if folder / x in known}
  found |= hashes(folder, [x for x in sorted(wanted) if x not in found])
  for name in sorted(wanted):
    if found[name] != wanted[name]:
      return {folder / name: 'has changed'}
  return {}


def is_sound(folder: epath.Path) -> bool:
  """Whether a folder with a seal is what that says."""
  try:
    return not fault(folder, read_manifest(seal_of(folder)))
  except RefusedError:
    return False


def why(faults: Mapping[epath.Path, str]) -> str:
  """Faults in words."""
  return ', '.join(f'{path} {what}' for path, what in faults.items())

"""Files of a run: on a disk, or in an object store (`gs://`, `s3://`).

An object store has no folders: one that is empty is not there, and none can be
renamed. In return an object is written whole or not at all, and whoever reads
it sees the newest.
"""

import collections
import concurrent.futures
import contextlib
import functools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import fsspec
import fsspec.config
from etils import epath

# Scheme -> the package that reads it, and the extra that installs that.
STORES = {'gs': ('gcsfs', 'gcs'), 's3': ('s3fs', 's3')}
# Read at once of a file; more of them of one that is far away.
BLOCK = 2**24
_AHEAD = 4
# Far more than cores would do: they wait for a store, or hash without the GIL.
_THREADS = 8
_PROBE = '.jaxdistill-probe'

# One way to reach a store, whatever else is installed, and a plain one: the
# other asks about each bucket with credentials that an emulator has not.
os.environ.setdefault('EPATH_USE_TF', 'false')
os.environ.setdefault('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
# Others write there, too: what has been listed once is not believed again.
for _scheme in STORES:
  fsspec.config.conf.setdefault(_scheme, {})['use_listings_cache'] = False


def is_remote(path: epath.PathLike) -> bool:
  """Whether a path is in an object store, or wants to be."""
  return '://' in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
  """A path that Orbax takes: absolute, or an object store's."""
  return epath.Path(path if is_remote(path) else os.path.abspath(path))


def names(folder: epath.Path) -> list[str]:
  """What is in a folder, sorted; nothing if that is not there."""
  if not is_remote(folder):
    return sorted(x.name for x in folder.iterdir()) if folder.exists() else []
  with contextlib.suppress(FileNotFoundError):
    found = _store(folder).ls(os.fspath(folder), detail=False)
    inside = {_below(folder, x) for x in found}
    return sorted(inside - {''})  # the folder itself, as some tools mark it
  return []


def files(folder: epath.Path) -> list[str]:
  """Every file in a folder and below, by its path there, sorted."""
  if is_remote(folder):
    found = _store(folder).find(os.fspath(folder))
    return sorted({_below(folder, x) for x in found} - {''})
  return sorted(
    os.path.relpath(os.path.join(root, name), folder)
    for root, _, inside in os.walk(folder)
    for name in inside
  )


def _below(folder: epath.Path, found: str) -> str:
  store = _store(folder)
  return found.removeprefix(store._strip_protocol(os.fspath(folder))).strip('/')


def remove(path: epath.Path) -> None:
  """Deletes a file, or a folder with all in it, if it is there."""
  if not is_remote(path):
    with contextlib.suppress(FileNotFoundError):
      path.rmtree() if path.is_dir() else path.unlink()
    return
  each(_delete(path), _store(path).find(os.fspath(path)))


def _delete(path: epath.PathLike) -> Callable[[str], None]:
  store = _store(path)

  def delete(name: str) -> None:
    # What was done though its answer was lost is done a second time.
    with contextlib.suppress(FileNotFoundError):
      store.rm_file(name)

  return delete


def move(path: epath.Path, target: epath.Path) -> None:
  """Renames a file or a folder; nothing is at `target` yet.

  In an object store it is copied there first, and is whole in one place at any
  moment.
  """
  if not is_remote(path):
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)
    return
  store, found = _store(path), _store(path).find(os.fspath(path))
  begin = len(store._strip_protocol(os.fspath(path)))
  each(lambda x: store.cp_file(x, f'{os.fspath(target)}{x[begin:]}'), found)
  each(_delete(path), found)


def write_atomically(path: epath.PathLike, text: str) -> None:
  """Writes a text file so that a reader sees the old or the new one whole.

  Args:
    path: In a folder that is there, if it is on a disk.
    text: What is written.
  """
  path = epath.Path(path)
  if is_remote(path):
    _store(path).pipe_file(os.fspath(path), text.encode())
    return
  partial = path.with_name(f'.{path.name}.partial')
  partial.write_text(text)
  partial.replace(path)


def upload(local: str, path: epath.Path) -> None:
  """Puts a file of a disk into an object store, in parts if it is large."""
  _store(path).put_file(local, os.fspath(path))


def read_range(path: epath.PathLike, start: int, end: int) -> bytes:
  """Bytes `start` to `end` of a file; no others are fetched.

  Raises:
    OSError: It cannot be read, or is shorter.
  """
  if is_remote(path):
    data = _store(path).cat_file(os.fspath(path), start=start, end=end)
  else:
    with open(path, 'rb') as file:
      file.seek(start)
      data = file.read(end - start)
  if len(data) != end - start:
    raise OSError(f'{os.fspath(path)} ends before its byte {end}')
  return data


def size(path: epath.PathLike) -> int:
  """Bytes of a file."""
  if is_remote(path):
    return int(_store(path).info(os.fspath(path))['size'])
  return os.path.getsize(path)


def blocks(path: epath.PathLike) -> Iterator[bytes]:
  """A file in pieces; of one that is far away, some are on their way."""
  if not is_remote(path):
    with open(path, 'rb') as file:
      while block := file.read(BLOCK):
        yield block
    return
  whole = size(path)
  with concurrent.futures.ThreadPoolExecutor(_AHEAD) as pool:
    coming: collections.deque = collections.deque()
    for start in range(0, whole, BLOCK):
      end = min(start + BLOCK, whole)
      coming.append(pool.submit(read_range, path, start, end))
      if len(coming) == _AHEAD:
        yield coming.popleft().result()
    while coming:
      yield coming.popleft().result()


def each(act: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
  """What `act` gives for each, several at a time; the first error is raised."""
  items = list(items)
  if len(items) < 2:
    return [act(x) for x in items]
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    return list(pool.map(act, items))


def check_writable(folder: epath.PathLike) -> None:
  """Tries to make a folder and a file in it, and leaves everything as it is.

  Args:
    folder: There or not.

  Raises:
    ValueError: It is in no store that is known; or the store is not reached:
      a package is missing, the bucket, or a permission.
    OSError: It cannot be written.
  """
  wanted = there = absolute(folder)
  if is_remote(folder):
    check_store(folder)
    with _told(folder, 'written'):
      probe = f'{os.fspath(folder)}/{_PROBE}'
      _store(folder).pipe_file(probe, b'')
      _delete(folder)(probe)
    return
  while not os.path.lexists(there):
    there = there.parent
  with tempfile.TemporaryDirectory(prefix='.jaxdistill-', dir=there) as made:
    inside = epath.Path(made) / wanted.relative_to(there)
    inside.mkdir(parents=True, exist_ok=True)


def check_store(path: epath.PathLike) -> None:
  """Finds that an object store is not reached; a path on a disk is well.

  Raises:
    ValueError: Of its scheme, a package, its bucket, or who asks.
  """
  if not is_remote(path):
    scheme, colon, rest = os.fspath(path).partition(':')
    if colon and scheme in STORES:
      right = f'{scheme}://{rest.lstrip("/")}'
      raise ValueError(f'{path} is no path of a store; {right} is')
    return
  scheme, _, rest = os.fspath(path).partition('://')
  if scheme not in STORES:
    known = ' and '.join(f'{x}://' for x in STORES)
    raise ValueError(f'{path} is in no store that is known, as {known} are')
  bucket, _, inside = rest.partition('/')
  if not bucket or not inside.strip('/'):
    raise ValueError(f'{path} must be {scheme}://BUCKET/FOLDER')
  if found := {*rest} & {*'*?[]'}:  # libraries take them for patterns
    raise ValueError(f'{path} must do without {" ".join(sorted(found))}')
  package, extra = STORES[scheme]
  try:
    store = _store(path)
  except ImportError:
    raise ValueError(
      f"{path} needs {package}: pip install 'jaxdistill[{extra}]'"
    ) from None
  with _told(path, 'reached'):
    store.info(bucket)


@contextlib.contextmanager
def _told(path: epath.PathLike, what: str) -> Iterator[None]:
  """Whatever a store's library raises becomes one line."""
  try:
    yield
  except Exception as e:  # of networks, credentials, permissions, buckets
    why = ' '.join(str(e).split())[:300] or type(e).__name__
    raise ValueError(
      f'{path} cannot be {what} ({type(e).__name__}: {why}); see that its '
      'bucket is there, and that you may look at it and write to it'
    ) from None


def _store(path: epath.PathLike) -> Any:
  return _stores(os.fspath(path).partition('://')[0])


@functools.cache
def _stores(scheme: str) -> Any:
  return fsspec.filesystem(scheme)

"""Orbax as a run uses it, on a disk and in an object store."""

import contextlib
import errno
import functools
import inspect
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

# What the machine does to a write: a full disk, a quota, a limit, a bad disk.
STORAGE_ERRORS = (
  *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
  *(errno.EIO, errno.EROFS, errno.ESTALE),
)


class Background:
  """One piece of work in a thread of its own, begun at once.

  It ends with the process. It may not ask JAX for anything that other processes
  must ask for, too.
  """

  def __init__(self, act: Callable[[], Any]):
    self._act, self._error = act, None
    self._thread = threading.Thread(target=self._run, daemon=True)
    self._thread.start()

  def _run(self) -> None:
    try:
      self._act()
    except Exception as e:
      self._error = e

  def done(self) -> bool:
    """Whether it has come to its end."""
    return not self._thread.is_alive()

  def wait(self) -> None:
    """Waits for its end, and raises what it raised."""
    self._thread.join()
    if self._error:
      raise self._error


@contextlib.contextmanager
def failing_as_os_error(folder: epath.Path) -> Iterator[None]:
  """Raises `OSError` where Orbax could not write.

  Its storage layer reports a full disk as other kinds of errors.
  """
  try:
    yield
  except OSError:
    raise
  except Exception as e:
    for number in STORAGE_ERRORS:
      if os.strerror(number) in str(e):
        raise OSError(number, os.strerror(number), str(folder)) from e
    raise


def orbax_options(root: epath.Path) -> dict[str, Any]:
  """What Orbax is to be told of the store that a folder is in.

  Orbax writes arrays to a disk or to `gs://`. TensorStore, which does it, can
  write to `s3://`, too; from here on it is asked to.
  """
  if not str(root).startswith('s3://'):
    return {}
  _teach_s3()
  # Renaming is copying there; a file says that all is written.
  mode = ocp.options.AtomicityMode.COMMIT_FILE
  return {'atomicity_options': ocp.options.AtomicityOptions(mode=mode)}


@functools.cache
def _teach_s3() -> None:
  from orbax.checkpoint._src.serialization import tensorstore_utils

  original = tensorstore_utils.build_kvstore_tspec
  if next(iter(inspect.signature(original).parameters)) != 'directory':
    raise ValueError('s3:// needs an Orbax that is as 0.12.8 is in this')

  @functools.wraps(original)
  def build(directory: str, *args: Any, **kwargs: Any) -> Any:
    scheme, _, rest = directory.partition('://')
    if scheme != 's3':
      return original(directory, *args, **kwargs)
    return _on_s3(original(f'gs://{rest}', *args, **kwargs))

  tensorstore_utils.build_kvstore_tspec = build


def _on_s3(spec: Any) -> Any:
  """A spec of TensorStore's with S3 in the place of Google's store."""
  if not isinstance(spec, dict):
    return spec
  spec = {key: _on_s3(value) for key, value in spec.items()}
  if spec.get('driver') in ('gcs', 'gcs_grpc'):
    spec |= {'driver': 's3'} | _endpoint()
  return spec


def _endpoint() -> dict[str, str]:
  """Where a store is that is not Amazon's, by Amazon's own variables."""
  names = 'AWS_ENDPOINT_URL_S3', 'AWS_ENDPOINT_URL'
  url = next(filter(None, map(os.environ.get, names)), '')
  names = 'AWS_REGION', 'AWS_DEFAULT_REGION'
  region = next(filter(None, map(os.environ.get, names)), '')
  if url:
    return {'endpoint': url, 'aws_region': region or 'us-east-1'}
  return {'aws_region': region} if region else {}

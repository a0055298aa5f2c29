"""A run's state on Orbax, with a manifest that is checked before restoring."""

from jaxdistill.checkpoint.hashes import (
  RefusedError,
  fault,
  hashes,
  read_manifest,
  seal_of,
  sha256,
  why,
  written_by,
)
from jaxdistill.checkpoint.saved import Checkpoints
from jaxdistill.checkpoint.trees import (
  abstract,
  from_json,
  pure,
  restored,
  to_json,
)
from jaxdistill.checkpoint.writing import (
  STORAGE_ERRORS,
  Background,
  failing_as_os_error,
  orbax_options,
)
from jaxdistill.storage import absolute, check_writable, write_atomically

__all__ = [
  'STORAGE_ERRORS',
  'Background',
  'Checkpoints',
  'RefusedError',
  'absolute',
  'abstract',
  'check_writable',
  'failing_as_os_error',
  'fault',
  'from_json',
  'hashes',
  'orbax_options',
  'pure',
  'read_manifest',
  'restored',
  'seal_of',
  'sha256',
  'to_json',
  'why',
  'write_atomically',
  'written_by',
]

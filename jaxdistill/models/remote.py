"""A safetensors file in an object store: of a tensor only its rows are read."""

import functools
import json
import math
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from jaxdistill import storage

_DTYPES = {
  **{'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16},
  **{'F64': np.float64, 'I64': np.int64, 'I32': np.int32, 'I16': np.int16},
  **{'I8': np.int8, 'U8': np.uint8, 'BOOL': np.bool_},
}
_MOST_HEADER = 100_000_000  # bytes; the library's own limit


class RemoteTensors:
  """As `safetensors.safe_open`, of a file that is not on a disk.

  Args:
    path: In an object store.

  Raises:
    ValueError: Its header does not say where each tensor lies.
    OSError: It cannot be read.
  """

  def __init__(self, path: epath.Path):
    self._path, whole = path, storage.size(path)
    length = int.from_bytes(
      storage.read_range(path, 0, min(8, whole)), 'little'
    )
    self._begin = 8 + length
    if length > _MOST_HEADER or self._begin > whole:
      raise ValueError('its header is longer than it is')
    header = json.loads(storage.read_range(path, 8, self._begin))
    self._about: dict[str, tuple[str, tuple[int, ...], int]] = {}
    end = 0
    for name, about in sorted(_tensors(header), key=lambda x: x[1][2]):
      dtype, shape, start = about
      if start != end:
        raise ValueError(f'{name!r} does not begin where another ends')
      end += math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
      self._about[name] = about
    if self._begin + end != whole:
      raise ValueError(f'it has {whole} bytes, its header says otherwise')

  def keys(self) -> list[str]:
    """Names of its tensors."""
    return list(self._about)

  def get_slice(self, name: str) -> 'RemoteTensor':
    """A tensor, of which nothing is read yet."""
    return RemoteTensor(self, name)

  def about(self, name: str) -> tuple[str, tuple[int, ...], int]:
    """Dtype, shape and first byte of a tensor."""
    return self._about[name]

  def rows(self, name: str, start: int, stop: int) -> np.ndarray:
    """Rows `start` to `stop` of a tensor: one read of just their bytes."""
    dtype, shape, first = self._about[name]
    row = math.prod(shape[1:]) * np.dtype(_DTYPES[dtype]).itemsize
    first += self._begin
    data = span(self._path, first + start * row, first + stop * row)
    values = np.frombuffer(data, _DTYPES[dtype])
    return values.reshape(stop - start, *shape[1:])


@functools.lru_cache(maxsize=1)
def span(path: epath.Path, start: int, stop: int) -> bytes:
  """A part of a file; the last is remembered: devices share rows."""
  return storage.read_range(path, start, stop)


class RemoteTensor:
  """A tensor that is read when it is indexed, by slices."""

  def __init__(self, file: RemoteTensors, name: str):
    self._file, self._name = file, name
    self._dtype, self._shape, _ = file.about(name)

  def get_shape(self) -> tuple[int, ...]:
    """Its shape."""
    return self._shape

  def get_dtype(self) -> str:
    """Its dtype, as the header names it."""
    return self._dtype

  def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
    if not self._shape:
      return self._file.rows(self._name, 0, 1).reshape(())
    start, stop, _ = index[0].indices(self._shape[0])
    return self._file.rows(self._name, start, stop)[:, *index[1:]]


def _tensors(header: Any) -> list[tuple[str, tuple[str, tuple[int, ...], int]]]:
  """Of each its name; and dtype, shape and first byte."""
  if not isinstance(header, dict):
    raise ValueError('its header is no JSON object')
  found = []
  for name, about in header.items():
    if name == '__metadata__':
      continue
    try:
      dtype, shape = about['dtype'], tuple(map(int, about['shape']))
      start, end = map(int, about['data_offsets'])
      size = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
    except (KeyError, TypeError, ValueError):
      raise ValueError(f'its header does not describe {name!r}') from None
    if min((*shape, start), default=0) < 0 or end - start != size:
      raise ValueError(f'its header misplaces {name!r}')
    found.append((name, (dtype, shape, start)))
  return found

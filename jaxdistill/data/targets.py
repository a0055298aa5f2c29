"""A teacher's next-token distributions, written down once, read ever after.

A folder of ArrayRecord shards, one of each host that wrote, and a
`manifest.json` that says whose they are, of what, what they have cost, and the
SHA-256 of each shard. A record is one response, in the layout of safetensors:

| array     | type          | what                                            |
|-----------|---------------|-------------------------------------------------|
| `problem` | uint8[...]    | the problem's text, as UTF-8                    |
| `tokens`  | int32[T]      | the response, with its end mark if it has ended |
| `logp`    | float32[T]    | its log-probs, by which it was sampled          |
| `ids`     | int32[T, k]   | the teacher's k likeliest tokens in each place  |
| `top`     | float32[T, k] | their log-probs, of the full softmax            |

Log-probs are float32, so that a student learns what it would from the teacher
itself. Rounded to float16 they move the forward KL of a token by 1e-5 on
average and up to 2e-3 (small-middle to small-late, whose mean is .027): little
at first, much of what is left at the end.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
import safetensors
import safetensors.numpy
from array_record.python.array_record_module import (  # pyright: ignore
  ArrayRecordWriter,
)
from etils import epath

FORMAT = 'jaxdistill targets 1'
MANIFEST = 'manifest.json'
_KEYS = (
  *('format', 'teacher', 'task', 'vocabulary', 'k', 'temperature'),
  *('problems', 'samples', 'responses', 'tokens', 'bytes', 'seconds', 'shards'),
)


class Target(NamedTuple):
  """A response, and what the teacher would have said in each place of it.

  Attributes:
    problem: What was asked, `Problem.text`.
    tokens_T: The response, int32[T].
    logp_T: Log-probs by which it was sampled, float32[T].
    ids_Tk: The likeliest tokens, likeliest first, int32[T, k].
    top_Tk: Their log-probs, float32[T, k].
  """

  problem: str
  tokens_T: np.ndarray
  logp_T: np.ndarray
  ids_Tk: np.ndarray
  top_Tk: np.ndarray


def to_bytes(target: Target) -> bytes:
  """A record."""
  return safetensors.numpy.save(
    {
      'problem': np.frombuffer(target.problem.encode(), np.uint8),
      'tokens': np.ascontiguousarray(target.tokens_T, np.int32),
      'logp': np.ascontiguousarray(target.logp_T, np.float32),
      'ids': np.ascontiguousarray(target.ids_Tk, np.int32),
      'top': np.ascontiguousarray(target.top_Tk, np.float32),
    }
  )


def from_bytes(record: bytes) -> Target:
  """What `to_bytes` wrote."""
  x = safetensors.numpy.load(record)
  text = x['problem'].tobytes().decode()
  return Target(text, x['tokens'], x['logp'], x['ids'], x['top'])


class Shard:
  """A file that one host writes.

  Args:
    folder: There already.
    host: Whose it is.
    hosts: Of how many.
  """

  def __init__(self, folder: epath.PathLike, host: int, hosts: int):
    name = f'targets-{host:05d}-of-{hosts:05d}.array_record'
    self.path = epath.Path(folder) / name
    # Alone each, so that any can be read by itself.
    with _on_disk():
      self._writer = ArrayRecordWriter(str(self.path), 'group_size:1')

  def write(self, target: Target) -> None:
    with _on_disk():
      self._writer.write(to_bytes(target))

  def close(self) -> None:
    """Ends the file; without it, it cannot be read."""
    with _on_disk():
      self._writer.close()


@contextlib.contextmanager
def _on_disk() -> Iterator[None]:
  """What ArrayRecord says of a disk, as everybody says it."""
  try:
    yield
  except RuntimeError as e:
    raise OSError(str(e)) from None


def sha256(path: epath.PathLike) -> str:
  """Hex digest of a file."""
  with epath.Path(path).open('rb') as file:
    readable: Any = file
    return hashlib.file_digest(readable, 'sha256').hexdigest()


def seal(
  partial: epath.PathLike, folder: epath.PathLike, manifest: Mapping[str, Any]
) -> None:
  """Makes a folder of shards one of targets: from here on it counts.

  Args:
    partial: Where they were written.
    folder: Where they belong, on the same disk; not there yet.
    manifest: All of its keys but the format.
  """
  partial = epath.Path(partial)
  text = json.dumps({'format': FORMAT, **manifest}, indent=1)
  (partial / MANIFEST).write_text(text + '\n')
  partial.rename(folder)


class Targets:
  """A folder of targets that is whole; see `read`.

  Attributes:
    folder: Where it is.
    manifest: What it says of itself.
  """

  def __init__(self, folder: epath.Path, manifest: Mapping[str, Any]):
    self.folder, self.manifest = folder, manifest
    shards = [str(folder / name) for name in sorted(manifest['shards'])]
    self._source: Any = grain.sources.ArrayRecordDataSource(shards)
    self._places: dict[str, list[int]] = {}
    for i in range(len(self._source)):
      self._places.setdefault(_problem(self._source[i]), []).append(i)

  def __contains__(self, problem: str) -> bool:
    return problem in self._places

  def __getitem__(self, problem: str) -> list[Target]:
    """The teacher's responses to a problem, in the order of writing.

    Raises:
      ValueError: It was not asked.
    """
    if problem not in self._places:
      raise ValueError(self._lacking(problem))
    return [from_bytes(self._source[i]) for i in self._places[problem]]

  def check_has(self, problems: Sequence[str] | Iterator[str]) -> None:
    """Finds the first of some problems that the teacher was not asked.

    Raises:
      ValueError: Names it, and the pool that the teacher was asked.
    """
    for problem in problems:
      if problem not in self:
        raise ValueError(self._lacking(problem))

  def _lacking(self, problem: str) -> str:
    n, task = self.manifest['problems'], self.manifest['task']
    return (
      f'{self.folder} has no answer to {problem!r}: its teacher was asked the '
      f'pool of {n} of {task} (config.pool={n}, or a smaller one)'
    )

  def __str__(self) -> str:
    x = self.manifest
    speed = x['tokens'] / max(x['seconds'], 1e-9)
    return '\n'.join(
      [
        f'{self.folder}: {x["teacher"]["name"]} on {x["problems"]:,} problems '
        f'of {x["task"]}, {x["samples"]} answers each',
        f'{x["tokens"]:,} tokens in {x["seconds"]:.0f} s ({speed:,.0f} a '
        f'second), the {x["k"]} likeliest of each: {x["bytes"] / 1e6:.1f} MB, '
        f'{x["bytes"] / max(x["tokens"], 1):.0f} bytes a token',
      ]
    )

  __repr__ = __str__


def _problem(record: bytes) -> str:
  """The problem of a record, whose other arrays are left alone."""
  arrays: dict[str, Any] = dict(safetensors.deserialize(record))
  return bytes(arrays['problem']['data']).decode()


def read(folder: epath.PathLike) -> Targets:
  """A folder of targets, once it is found to be whole.

  Raises:
    ValueError: It is none, was not finished, or is damaged; says which file.
  """
  folder = epath.Path(folder)
  if not folder.is_dir():
    raise ValueError(
      f'there is no folder of targets {str(folder)!r}; jaxdistill targets '
      'makes one'
    )
  file = folder / MANIFEST
  if not file.exists():
    raise ValueError(
      f'{folder} is no folder of targets, or was not finished: it has no '
      f'{MANIFEST}'
    )
  return _whole(folder, file.read_bytes())


@functools.lru_cache(maxsize=1)
def _whole(folder: epath.Path, text: bytes) -> Targets:
  """The same by what its manifest says, so that it is gone through once."""
  manifest: Any = None
  with contextlib.suppress(ValueError):
    manifest = json.loads(text)
  is_ours = isinstance(manifest, dict) and manifest.get('format') == FORMAT
  if not is_ours or any(key not in manifest for key in _KEYS):
    raise ValueError(
      f'{folder / MANIFEST} is damaged, or not of targets ({FORMAT!r})'
    )
  wanted = manifest['shards'] | {MANIFEST: None}
  found = {path.name for path in folder.iterdir()}
  for name in sorted({*wanted, *found}):
    if name not in found:
      raise ValueError(f'{folder / name} is missing')
    if name not in wanted:
      raise ValueError(f'{folder / name} does not belong there')
    if wanted[name] and sha256(folder / name) != wanted[name]:
      raise ValueError(f'{folder / name} has changed since it was written')
  return Targets(folder, manifest)

"""What all hosts of a run must have in common, and which of them has not.

What each host finds goes over JAX's coordination service, which works where
programs, or what they are made of, differ.
"""

import collections
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

from jaxdistill.dist.chips import chip_of
from jaxdistill.run import trial

PACKAGE = pathlib.Path(__file__).parents[1]
LIBRARIES = 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy'
APART = 1.0  # seconds between clocks that are too many
_PATIENCE = 600_000  # milliseconds that a host waits for what another finds
_PINGS = 5
_NAMED = 3  # of several differences


class Check(NamedTuple):
  """A line.

  Attributes:
    name: Of what was looked at.
    well: Whether nobody deviates.
    said: What all have in common, or what those who deviate have.
    hosts: Those who deviate, `process 1 at NAME`.
  """

  name: str
  well: bool
  said: str
  hosts: Sequence[str] = ()


class Meeting:
  """The processes of a run, as they tell each other what they find.

  Args:
    client: Of the coordination service.
    process: Index of this process.
    count: How many there are.
    clock: The time of this host in seconds.
  """

  def __init__(
    self,
    client: Any,
    process: int,
    count: int,
    clock: Callable[[], float] = time.time,
  ):
    self.client, self.process, self.count = client, process, count
    self.clock = clock
    self.names: list[str] = []
    self._asked = 0

  def all(self, mine: Any) -> list[Any]:
    """What each found, by process: JSON."""
    self._asked += 1
    root = f'jaxdistill/pod/{self._asked}'
    self.client.key_value_set(f'{root}/{self.process}', json.dumps(mine))
    return [json.loads(self._get(f'{root}/{i}')) for i in range(self.count)]

  def meet(self) -> None:
    """Each process introduces itself by its host's name."""
    names = self.all(socket.gethostname())
    self.names = [f'process {i} at {name}' for i, name in enumerate(names)]

  def offset(self) -> tuple[float, float]:
    """How far the clock of process 0 is ahead of this one's, in seconds.

    Returns:
      That, and by how much it may be wrong: half of the way there and back.
    """
    self._asked += 1
    best = (0.0, 0.0)
    for i in range(1, self.count):
      for n in range(_PINGS):
        ask = f'jaxdistill/pod/{self._asked}/{i}/{n}'
        if self.process == 0:
          self._get(f'{ask}/ask')
          self.client.key_value_set(f'{ask}/answer', repr(self.clock()))
        elif self.process == i:
          begin = time.perf_counter()
          sent = self.clock()
          self.client.key_value_set(f'{ask}/ask', '')
          theirs = float(self._get(f'{ask}/answer'))
          took = time.perf_counter() - begin
          if n == 0 or took / 2 < best[1]:
            best = theirs - (sent + took / 2), took / 2
    return best

  def _get(self, key: str) -> str:
    return self.client.blocking_key_value_get(key, _PATIENCE)


def code() -> dict[str, str]:
  """By file of this package, the beginning of its SHA-256."""
  return {
    str(path.relative_to(PACKAGE)): hashlib.sha256(
      path.read_bytes()
    ).hexdigest()[:16]
    for path in sorted(PACKAGE.rglob('*.py'))
  }


def versions() -> dict[str, str]:
  """Of Python and of what a run computes and saves with."""
  found = {'Python': platform.python_version()}
  for name in LIBRARIES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = 'missing'
  return found


def compare(
  meeting: Meeting, name: str, mine: Mapping[str, Any], what: str
) -> Check:
  """Whether all have the same; of two halves, that of process 0 holds.

  Args:
    meeting: Whom to compare with.
    name: Of the check.
    mine: What this one has, by key: JSON.
    what: What it is, in words, for when it is the same.
  """
  alls = meeting.all(mine)
  texts = [json.dumps(x, sort_keys=True) for x in alls]
  held = _most(texts)
  digest = hashlib.sha256(held.encode()).hexdigest()[:12]
  others = [i for i, text in enumerate(texts) if text != held]
  if not others:
    return Check(name, True, f'{what}, the same on all ({digest})')
  said = [
    f'{meeting.names[i]} {_difference(alls[i], json.loads(held))}'
    for i in others
  ]
  return Check(name, False, '; '.join(said), [meeting.names[i] for i in others])


def _most(found: Sequence[Any]) -> Any:
  """What most have found; of as many, what the first of them has."""
  return collections.Counter(found).most_common(1)[0][0]


def _difference(there: Mapping[str, Any], held: Mapping[str, Any]) -> str:
  keys = [
    k for k in sorted({*there, *held}) if there.get(k, '') != held.get(k, '')
  ]
  named = [
    f'{k} is {there.get(k, "not there")}, elsewhere {held.get(k, "not there")}'
    for k in keys[:_NAMED]
  ]
  more = f', and {len(keys) - _NAMED} more' if len(keys) > _NAMED else ''
  return f'differs: {", ".join(named)}{more}'


def hosts(meeting: Meeting) -> Check:
  """Whether all have as many devices, of one kind."""
  kinds = collections.Counter(d.device_kind for d in jax.local_devices())
  said = ', '.join(f'{n} x {kind}' for kind, n in sorted(kinds.items()))
  each = {'devices': said}
  names = ', '.join(x.partition(' at ')[2] for x in meeting.names)
  what = f'{meeting.count} processes at {names}: {said} each'
  return compare(meeting, 'hosts', each, what)


def folder(meeting: Meeting, workdir: str) -> Check:
  """Whether what one writes into the run's folder, all read."""
  root = epath.Path(workdir)
  (nonce, *_) = meeting.all(f'{time.time_ns():x}')
  mine = root / f'.pod-{nonce}-{meeting.process}'
  wrong = {}
  try:
    root.mkdir(parents=True, exist_ok=True)
    mine.write_text(nonce)
  except Exception as e:  # of whatever a store of objects has
    wrong['cannot write'] = f'{workdir}: {_reason(e)}'
  unable = meeting.all(wrong)
  unseen = []
  for i in range(meeting.count):
    try:
      there = (root / f'.pod-{nonce}-{i}').read_text() == nonce
    except Exception:
      there = False
    if not there and not unable[i]:
      unseen.append(i)
  views = [tuple(x) for x in meeting.all(unseen)]
  if not wrong:
    mine.unlink(missing_ok=True)
  meeting.all(None)  # all have removed theirs
  held = _most(views)
  said, who = [], []
  for name, view, cannot in zip(meeting.names, views, unable, strict=True):
    if cannot:
      said.append(f'{name} cannot write {cannot["cannot write"]}')
    elif view != held:
      there = ', '.join(meeting.names[k] for k in view[:_NAMED])
      said.append(f'{name} does not see what {there} wrote to {workdir}')
    else:
      continue
    who.append(name)
  if said:
    return Check('workdir', False, '; '.join(said), who)
  return Check('workdir', True, f'{workdir}: what one writes, all read')


def _reason(error: Exception) -> str:
  return (getattr(error, 'strerror', None) or str(error)).lower()


def clocks(meeting: Meeting) -> Check:
  """Whether clocks go alike."""
  found = meeting.all(meeting.offset())
  far = [
    i for i, (ahead, error) in enumerate(found) if abs(ahead) - error > APART
  ]
  if far:
    said = '; '.join(
      f'{meeting.names[i]} is {abs(found[i][0]):.1f} s '
      f'{"behind" if found[i][0] > 0 else "ahead of"} process 0'
      for i in far
    )
    return Check('clocks', False, said, [meeting.names[i] for i in far])
  most = max(abs(ahead) for ahead, _ in found)
  error = max(error for _, error in found)
  said = f'within {1e3 * most:.1f} ms (measured to {1e3 * error:.1f} ms)'
  return Check('clocks', True, said)


def steps(meeting: Meeting) -> Check:
  """Whether the devices of each host take ten known steps as recorded."""
  found = meeting.all(trial.off())
  bad = [i for i, (x, _) in enumerate(found) if not x <= trial.TOLERANCE]
  if bad:
    said = '; '.join(
      f'{meeting.names[i]}: {found[i][1]} is off by {found[i][0]:.1e}'
      for i in bad
    )
    return Check('ten steps', False, said, [meeting.names[i] for i in bad])
  most = max(x for x, _ in found)
  said = f'losses within {most:.1e} of the recorded (at most 1e-3)'
  return Check('ten steps', True, said)


def collectives(meeting: Meeting, mesh: jax.sharding.Mesh) -> Iterator[Check]:
  """Whether collectives along each axis of the mesh are right, and how fast."""
  kind = mesh.devices.flat[0].device_kind
  chip = chip_of(kind)
  known = chip and chip.links_rate / 1e9
  found = meeting.all(trial.rates(mesh))
  for axis in found[0]:
    slowest = min(x[axis][0] for x in found)
    wrong = [
      name
      for name, x in zip(meeting.names, found, strict=True)
      if not x[axis][1]
    ]
    said = f'{mesh.shape[axis]} devices, {slowest:.3g} GB/s into each'
    if known:
      said += f', {slowest / known:.0%} of the {known:.0f} published for {kind}'
    if wrong:
      said = f'{", ".join(wrong)}: a sum or a gather is wrong'
    yield Check(f'axis {axis}', not wrong, said, wrong)

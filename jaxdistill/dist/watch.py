"""Who of a run is gone: named to all others, who then end.

Each process tells JAX's coordination service every few seconds that it is
there. Process 0, where the service is, finds who has fallen silent, the others
find whether process 0 has; what one has found, or ended of, all read. It is
done in threads: the main one may be in a collective that never ends.
"""

import atexit
import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxdistill.dist.forward import Forward

# Exit code of a process that lost another: EX_UNAVAILABLE. The run may go on,
# but one whose host fails each time must not be begun again for ever.
GONE = 69
FAILED = 1  # of one that ends of an error nobody has foreseen
BEAT = 3.0  # seconds between two signs of life
SILENT = 60.0  # seconds without one, after which a process is gone
CLOSING = 40.0  # seconds that a failed process may take to close its files
_GRACE = 5.0  # seconds in which a process may end by itself, of what all meet
_LOOK = 0.5
_NAMED = 3  # of several that are gone

_ROOT = 'jaxdistill/watch'
_LEFT = 'left'
# What a collective or the service says where a process is missing.
_LOST = re.compile(
  r'gloo|nccl|rccl|connection (closed|reset|refused)|socket closed'
  r'|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|coordination|heartbeat',
  re.IGNORECASE,
)


class Verdict(NamedTuple):
  """Why all end.

  Attributes:
    process: Index of the one that is gone or has ended.
    host: Its name.
    code: What the others exit with.
    said: How it was noticed, or what it has ended of.
  """

  process: int
  host: str
  code: int
  said: str

  def line(self, then: str) -> str:
    """As it is told; `then` is what to do where trying again helps."""
    who = f'jaxdistill: process {self.process} at {self.host}'
    if self.code == GONE:
      return f'{who} is gone ({self.said}); {then}'
    return f'{who} has ended: {self.said}'


class Watch:
  """One process's look at the others.

  Args:
    client: Of JAX's coordination service: its store of keys and values.
    process: Index of this process.
    count: How many there are.
    then: What to do when one is gone.
    forward: The way to the service, if it is one of ours.
  """

  def __init__(
    self,
    client: Any,
    process: int,
    count: int,
    then: str,
    forward: Forward | None = None,
  ):
    self.client, self.process, self.count = client, process, count
    self.then, self.forward = then, forward
    self.host = socket.gethostname()
    self.verdict: Verdict | None = None
    self.failed: int | None = None  # exit code, once this process has failed
    now = time.monotonic()
    # What each was last heard to say, and since when it says nothing else.
    self._heard = {i: ('', now) for i in range(count)}
    self._answered = now  # the service
    self._closing: tuple[float, Exception] | None = None
    self._left = threading.Event()
    self._says(0)
    first = self.client.blocking_key_value_get(_key('beat', 0), 60_000)
    self._first = first.partition(' ')[2]

  def start(self) -> None:
    """Watches from here on, until this process ends."""
    for work in self._ask, self._judge:
      threading.Thread(target=work, daemon=True).start()
    before = sys.excepthook

    def uncaught(kind, error, trace):
      if isinstance(error, Exception):
        self.ended(FAILED, _told(error))
      before(kind, error, trace)

    sys.excepthook = uncaught
    atexit.register(self.leave)

  def leave(self) -> None:
    """This process has done its part; one that has failed ends here.

    It must not wait for the others as JAX does, who will not come.
    """
    self._left.set()
    if self.failed is not None:
      _exit(self.failed)
    with contextlib.suppress(Exception):
      self._says(_LEFT)
    if self.forward:
      self.forward.release()

  def ended(self, code: int, said: str) -> None:
    """Tells the others that this process is about to end, and of what.

    Does not return where another one is gone and this one has failed of it.

    Args:
      code: What it exits with.
      said: Of what, in a line.
    """
    if _LOST.search(said):
      time.sleep(SILENT + 3 * BEAT)  # it ends meanwhile if one is gone
    self.failed = code
    self._announce(Verdict(self.process, self.host, code, said))
    end = time.monotonic() + 2 * BEAT
    while self.process == 0 and time.monotonic() < end and self._others():
      time.sleep(_LOOK)  # the service ends with it; the others read this first

  @contextlib.contextmanager
  def closing(self, error: BaseException | None) -> Iterator[None]:
    """Files are closed in here, which may wait for others who wait for this.

    Args:
      error: What this process is ending of; after a while it is told.
    """
    if isinstance(error, Exception) and not _LOST.search(str(error)):
      self._closing = time.monotonic() + CLOSING, error
    try:
      yield
    finally:
      self._closing = None

  def _says(self, what: object) -> None:
    key = _key('beat', self.process)
    self.client.key_value_set(key, f'{what} {self.host}', allow_overwrite=True)

  def _ask(self) -> None:
    """Speaks to the service, which may not answer."""
    n = 0
    while not self._left.wait(BEAT):
      n += 1
      with contextlib.suppress(Exception):  # told by silence
        self._says(n)
        if self.process == 0:
          self._others()
        found = self.client.key_value_dir_get(f'{_ROOT}/verdict')
        if found:
          self.verdict = Verdict(*json.loads(found[0][1]))
        self._answered = time.monotonic()

  def _others(self) -> list[int]:
    """Those who have not left, after a look at what all say."""
    now = time.monotonic()
    for key, said in self.client.key_value_dir_get(f'{_ROOT}/beat'):
      i = int(key.rpartition('/')[2])
      if self._heard[i][0] != said:
        self._heard[i] = said, now
    return [
      i
      for i, (said, _) in self._heard.items()
      if i != self.process and not said.startswith(_LEFT)
    ]

  def _judge(self) -> None:
    """Ends this process if there is a reason to."""
    before = time.monotonic()
    while not self._left.wait(_LOOK):
      now = time.monotonic()
      if now - before > SILENT / 2:  # this process itself was stopped
        self._answered = now
        self._heard = {i: (said, now) for i, (said, _) in self._heard.items()}
      before = now
      closing = self._closing
      if closing and now > closing[0]:
        error = closing[1]
        traceback.print_exception(error)
        self.ended(FAILED, _told(error))
        _exit(FAILED)
      verdict = self.verdict or self._found(now)
      if verdict:  # even of this one, which had only been stopped
        self._end(verdict)

  def _found(self, now: float) -> Verdict | None:
    if self.forward and self.forward.closed:
      return Verdict(0, self._first, GONE, 'it closed its connection')
    silent = f'silent for {SILENT:.0f} s'
    if self.process:
      if now - self._answered > SILENT:
        return Verdict(0, self._first, GONE, silent)
      return None
    quiet = {
      i: said.partition(' ')[2] or 'a host that never spoke'
      for i, (said, since) in self._heard.items()
      if i and not said.startswith(_LEFT) and now - since > SILENT - BEAT
    }
    if any(now - self._heard[i][1] > SILENT for i in quiet):
      (i, host), *more = quiet.items()
      if more:  # perhaps it is this host that is cut off
        named = ', '.join(f'{i} at {host}' for i, host in more[:_NAMED])
        rest = f' and {len(more) - _NAMED} more' * (len(more) > _NAMED)
        silent = f'{silent}, as are {named}{rest}'
      self._announce(Verdict(i, host, GONE, silent))
    return self.verdict

  def _announce(self, verdict: Verdict) -> None:
    """The first that is announced holds for all."""
    with contextlib.suppress(Exception):  # another was first
      key, text = f'{_ROOT}/verdict/first', json.dumps(verdict)
      self.client.key_value_set(key, text)
      self.verdict = verdict

  def _end(self, verdict: Verdict) -> None:
    if self.failed is not None:
      return  # the main thread is at it
    if verdict.code != GONE and self._left.wait(_GRACE):
      return  # it has met the same
    bars = getattr(sys.modules.get('tqdm'), 'tqdm', None)
    start = '\n' if getattr(bars, '_instances', None) else ''  # after a bar
    print(start + verdict.line(self.then), file=sys.stderr, flush=True)
    if self.process == 0:
      time.sleep(2 * BEAT)  # the others read it from here
    _exit(verdict.code)


_watch: Watch | None = None  # of this process, once it has joined others


def watch(then: str, forward: Forward | None) -> None:
  """Begins to watch the other processes, if there are any; see `Watch`."""
  global _watch
  from jax._src import distributed

  state = distributed.global_state
  client, process = state.client, state.process_id
  if state.num_processes > 1 and hasattr(client, 'key_value_dir_get'):
    _watch = Watch(client, process, state.num_processes, then, forward)
    _watch.start()


def ended(code: int, said: str) -> None:
  """Tells the other processes that this one is about to end, and of what.

  Does not return where another one is gone and this one has failed of it: then
  that is told, and the exit code is `GONE`.

  Args:
    code: What this process exits with, and the others too.
    said: Of what, in a line.
  """
  if _watch:
    _watch.ended(code, said)


def closing(error: BaseException | None) -> contextlib.AbstractContextManager:
  """Files are closed in here, which may wait for others who wait for this.

  Args:
    error: What this process is ending of, if of one: after a while the others
      are told.
  """
  return _watch.closing(error) if _watch else contextlib.nullcontext()


def _key(kind: str, process: int) -> str:
  return f'{_ROOT}/{kind}/{process}'


def _told(error: BaseException) -> str:
  line = (str(error).strip().splitlines() or [''])[0]
  return f'{type(error).__name__}: {line}'


def _exit(code: int) -> None:
  for stream in sys.stdout, sys.stderr:
    with contextlib.suppress(Exception):
      stream.flush()
  os._exit(code)

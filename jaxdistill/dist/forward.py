"""A way to the coordination service that outlives the service.

JAX's client ends its process, with a C++ stack, as soon as the connection to
the service of process 0 is closed. Through here the connection stays open when
the service is gone, and whoever watches is told first.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

_SIZE = 2**16  # bytes that are read at once
_RETRY = 0.5  # seconds between trials to reach a service that is not up yet


class Forward:
  """A port of this host from which all goes to another address, and back.

  Args:
    address: `host:port` of the service.

  Attributes:
    address: The same.
    port: Where it listens, on 127.0.0.1.
    reached: Whether the service has been reached.
    closed: Whether the service has closed a connection.
  """

  def __init__(self, address: str):
    host, _, port = address.rpartition(':')
    self._target = host.strip('[]'), int(port)
    self.address, self.reached = address, False
    self.port, self.closed = 0, False
    self._open = True  # whether it keeps connections that the service closed
    self._loop, ready = asyncio.new_event_loop(), threading.Event()
    threading.Thread(target=self._run, args=(ready,), daemon=True).start()
    ready.wait()
    if not self.port:
      raise OSError('no port of 127.0.0.1 is free')

  def release(self) -> None:
    """From now on a connection that the service closes is closed here too."""
    self._open = False

  def _run(self, ready: threading.Event) -> None:
    asyncio.set_event_loop(self._loop)
    try:
      serving = asyncio.start_server(self._serve, '127.0.0.1', 0)
      server = self._loop.run_until_complete(serving)
      self.port = server.sockets[0].getsockname()[1]
    finally:
      ready.set()
    self._loop.run_forever()

  async def _serve(
    self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
  ) -> None:
    with contextlib.suppress(OSError):
      there = await self._reach(reader)
      if there:
        out = asyncio.create_task(_pour(reader, there[1]))
        await _pour(there[0], writer)
        self.closed = not reader.at_eof()
        while self._open and not reader.at_eof():
          await asyncio.sleep(_RETRY)
        out.cancel()
        there[1].close()
    writer.close()

  async def _reach(
    self, reader: asyncio.StreamReader
  ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    """The service, once it is there; None if nobody waits any longer."""
    while not reader.at_eof():
      with contextlib.suppress(OSError):
        found = await asyncio.open_connection(*self._target)
        self.reached = True
        return found
      await asyncio.sleep(_RETRY)
    return None


async def _pour(
  reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
  with contextlib.suppress(OSError):
    while data := await reader.read(_SIZE):
      writer.write(data)
      await writer.drain()


@contextlib.contextmanager
def forwarded() -> Iterator[list[Forward]]:
  """What JAX's client reaches the service through, if it is started in here.

  Yields:
    A list that then holds it. It stays empty in process 0, whose service is its
    own; where certificates name the service's host; and of a JAX that starts
    its client otherwise: such a one ends by a C++ stack.
  """
  from jax._src import distributed

  made: list[Forward] = []
  library: Any = getattr(distributed, '_jax', None)
  name = 'get_distributed_runtime_client'
  start: Callable[..., Any] | None = getattr(library, name, None)
  if start is None:
    yield made
    return

  def through(address: str, process: int, *args: Any, **options: Any) -> Any:
    if process and not options.get('mtls_cert_file'):
      made.append(Forward(address))
      address = f'127.0.0.1:{made[0].port}'
    return start(address, process, *args, **options)

  setattr(library, name, through)
  try:
    yield made
  finally:
    setattr(library, name, start)

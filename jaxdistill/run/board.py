"""Metrics for TensorBoard, on a local disk."""

import os
import time
from collections.abc import Mapping
from typing import Any

from etils import epath
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tensorboardX.summary import scalar


class Board:
  """A run's event files; those of a run that goes on are a new file.

  Args:
    path: The run's folder.
    step: Where the run begins or goes on.
  """

  def __init__(self, path: epath.Path, step: int):
    again = any(path.glob('events.*'))
    # Its own thread would swallow a full disk, and then wait for ever.
    self._events = EventsWriter(str(path / 'events'), f'.{os.getpid()}')
    if again:
      self._write(step, session_log={'status': 'START'})

  def log(self, step: int, metrics: Mapping[str, float]) -> None:
    """Adds a step's metrics.

    Raises:
      OSError: The disk is full.
    """
    values = [v for x in metrics.items() for v in scalar(*x).value]
    self._write(step, summary={'value': values})
    self._events.flush()

  def close(self) -> None:
    """Closes the file."""
    self._events.close()

  def _write(self, step: int, **what: Any) -> None:
    make: Any = event_pb2  # protobuf makes its classes when it is imported
    event = make.Event(wall_time=time.time(), step=step, **what)
    self._events.write_event(event)

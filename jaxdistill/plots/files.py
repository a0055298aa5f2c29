"""What is read from a run's folder; whatever is not there is empty."""

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

# The text of transcripts that a report holds, in characters.
MOST_TEXT = 6_000_000
# What an alarm has; older ones may have less.
_ALARM = {
  **{'alarm': '', 'metric': '', 'action': 'warn', 'said': ''},
  **{'seen': None, 'limit': None},
}


def read_lines(path: epath.PathLike) -> list[dict[str, Any]]:
  """The objects of a `.jsonl` file; none if it is not there.

  What is not finite becomes None. A run that is being written, or that died,
  may end in half a line: that is left out.
  """
  path = epath.Path(path)
  return _objects(_text_lines(path)) if path.exists() else []


def read_metrics(workdir: epath.PathLike) -> list[dict[str, float]]:
  """The lines of a run's `metrics.jsonl`.

  Raises:
    FileNotFoundError: The folder holds no run.
    ValueError: A whole line is damaged.
  """
  path = epath.Path(workdir) / 'metrics.jsonl'
  if not path.exists():
    raise FileNotFoundError(f'{workdir} holds no run (no metrics.jsonl)')
  found = read_lines(path)
  whole = sum(bool(x.strip()) for x in path.read_bytes().split(b'\n')[:-1])
  if len(found) < whole or not all('step' in line for line in found):
    raise ValueError(f'{path} is damaged')
  return found


def read_alarms(workdir: epath.PathLike) -> list[dict[str, Any]]:
  """The alarms that went off in a run, in the order of its steps.

  Where the guard was told not to act, each was no more than a warning.
  """
  found = read_lines(epath.Path(workdir) / 'alarms.jsonl')
  guard = read_json(epath.Path(workdir) / 'config.json').get('guard', {})
  only = {'action': 'warn'} if guard.get('act') is False else {}
  return sorted(
    (_ALARM | x | only for x in found if isinstance(x.get('step'), int)),
    key=lambda alarm: alarm['step'],
  )


def read_json(path: epath.PathLike) -> dict[str, Any]:
  """The object in a file; empty if there is none, or half of one."""
  path = epath.Path(path)
  if not path.exists():
    return {}
  try:
    return json.loads(path.read_text(), parse_constant=lambda _: None)
  except ValueError:
    return {}


def read_transcripts(
  workdir: epath.PathLike, most: int, most_text: int = MOST_TEXT
) -> tuple[list[dict[str, Any]], int]:
  """Transcripts spread evenly over the steps, and how many there are in all.

  Args:
    workdir: The run's folder; files of several hosts count as one step.
    most: How many records to return at most.
    most_text: How many characters they may have together, about.
  """
  steps: dict[int, list[epath.Path]] = {}
  folder = epath.Path(workdir) / 'rollouts'
  for path in sorted(folder.iterdir()) if folder.exists() else ():
    if name := re.fullmatch(r'(\d+)(\.\d+)?\.jsonl', path.name):
      steps.setdefault(int(name[1]), []).append(path)
  kept: list[tuple[int, str]] = []
  total = 0
  share = max(1, most // max(1, len(steps)))
  for step in sorted(steps):
    lines = [x for path in steps[step] for x in _text_lines(path)]
    total += len(lines)
    kept += [(step, line) for line in spread(lines, share)]
  kept = spread(kept, most)
  if (size := sum(len(line) for _, line in kept)) > most_text:
    kept = spread(kept, max(1, len(kept) * most_text // size))
  records = [
    {'step': step} | record
    for step, line in kept
    for record in _objects([line])
  ]
  return records, total


def spread(values: Sequence[Any], most: int) -> list[Any]:
  """At most so many of the values, evenly spaced."""
  n = len(values)
  return [values[i * n // most] for i in range(most)] if n > most else [*values]


def _text_lines(path: epath.Path) -> list[str]:
  text = path.read_bytes().decode('utf-8', 'replace')
  return [x for x in text.split('\n') if x.rstrip().endswith('}')]


def _objects(lines: Sequence[str]) -> list[dict[str, Any]]:
  found = []
  for line in lines:
    with contextlib.suppress(ValueError):  # half a line may end in a brace, too
      found.append(json.loads(line, parse_constant=lambda _: None))
  return [x for x in found if isinstance(x, dict)]


def points_of(
  lines: Sequence[Mapping[str, float]], name: str
) -> list[tuple[float, float]]:
  """Step and value of a metric, wherever it has one."""
  return [(x['step'], x[name]) for x in lines if x.get(name) is not None]

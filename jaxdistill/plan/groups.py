"""Which devices take part in a collective, as compiled programs write it."""

import math
import re

import numpy as np

_IDS = r'\[([\d,]+)\](?:T\(([\d,]+)\))?'  # an order of devices


def groups(said: str, devices: int) -> list[list[int]]:
  """Devices that take part in a collective together, by their places."""
  pairs = re.search(r'source_target_pairs=\{(\{.*?\})\}', said)
  if pairs:
    found = re.findall(r'\{(\d+),(\d+)\}', pairs[1])
    return [[int(a), int(b)] for a, b in found if a != b]
  listed = re.search(r'replica_groups=\{(\{.*?\})\}', said)
  if listed:
    return [
      [int(x) for x in group.split(',')]
      for group in re.findall(r'\{([\d,]+)\}', listed[1])
    ]
  tiled = re.search(rf'replica_groups=\[([\d,]+)\]<={_IDS}', said)
  if tiled:
    return _ids(tiled[2], tiled[3]).reshape(_numbers(tiled[1])).tolist()
  named = re.search(
    rf'replica_groups=mesh\[([^\]]*)\](?:, device_ids=\({_IDS}\))? '
    r'\{([^}]*)\}',
    said,
  )
  if named:
    axes = {k: int(v) for k, v in re.findall(r"'(\w+)'=(\d+)", named[1])}
    over = [[*axes].index(n) for n in re.findall(r"'(\w+)'", named[4])]
    dims = [*axes.values()]
    order = named[2] or str(math.prod(dims))
    ids = _ids(order, named[3]).reshape(dims)
    rest = [i for i in range(len(dims)) if i not in over]
    n = math.prod(dims[i] for i in over)
    return ids.transpose(rest + over).reshape(-1, n).tolist()
  if 'replica_groups={}' in said:
    return [list(range(devices))]
  return []


def _numbers(text: str | None) -> list[int]:
  return [int(x) for x in (text or '').split(',') if x]


def _ids(dims: str, turn: str | None) -> np.ndarray:
  """Devices in the order that `[dims]T(turn)` says."""
  sizes = _numbers(dims)
  ids = np.arange(math.prod(sizes)).reshape(sizes)
  return ids.transpose(_numbers(turn) or range(len(sizes)))

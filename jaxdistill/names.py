"""What a wrong name could have been."""

import difflib
from collections.abc import Iterable

FEW = 8  # so many are all named


def among(name: str, known: Iterable[str]) -> str:
  """The end of a line that refuses a name, empty if nothing is known.

  Of many names the nearest is said; few are listed, and one of them is called
  the nearest only if it resembles: `plus` is not a misspelt `sub`.
  """
  known = list(known)
  few = len(known) <= FEW
  near = difflib.get_close_matches(name, known, 1, 0.51 if few else 0)
  listed = ', '.join(known)
  if not near:
    return f'; there are {listed}' if known else ''
  return f'; the nearest is {near[0]!r}' + (f' of {listed}' if few else '')

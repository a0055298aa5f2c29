"""What a wrong name could have been: the one place that guesses."""

import difflib
from collections.abc import Iterable

FEW = 11


def nearest(name: str, known: Iterable[str], least: float = 0) -> str:
  """The known name that is most like a name; empty if none is like it.

  Args:
    name: As it was written.
    known: What there is.
    least: How like it must be, from 0 to 1.
  """
  known = list(known)
  swapped = [k for k in known if sorted(k) == sorted(name)]
  found = swapped or difflib.get_close_matches(name, known, 1, least)
  return found[0] if found else ''


def among(name: str, known: Iterable[str]) -> str:
  """The end of a line that refuses a name, empty if nothing is known.

  Of many names the nearest is said; few are listed, and one of them is called
  the nearest only if it resembles: `plus` is not a misspelt `sub`.
  """
  known = list(known)
  few = len(known) <= FEW
  near = nearest(name, known, 0.51 if few else 0)
  listed = ', '.join(known)
  if not near:
    return f'; there are {listed}' if known else ''
  return f'; the nearest is {near!r}' + (f' of {listed}' if few else '')

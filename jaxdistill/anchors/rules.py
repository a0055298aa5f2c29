"""When an anchor moves."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Rule:
  """An anchor moves to the policy of every k-th step; never, if k is 0.

  Which step's policy an anchor holds is a function of the run's step alone, so
  a resumed run needs no record of it.

  Attributes:
    every: k, in run steps.
  """

  every: int

  def holds(self, step: int) -> int:
    """The step whose policy (before its updates) the anchor holds."""
    return step - step % self.every if self.every else 0


def parse_rule(text: str) -> Rule:
  """Reads `frozen` or `every:20`.

  Raises:
    ValueError: The text is neither.
  """
  name, _, number = text.partition(':')
  if text == 'frozen':
    return Rule(0)
  if name == 'every' and number.isdecimal() and int(number) > 0:
    return Rule(int(number))
  raise ValueError(
    f'anchor rule {text!r} is not known; it must be frozen or every:K, K > 0'
  )

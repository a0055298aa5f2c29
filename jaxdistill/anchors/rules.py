"""When an anchor moves, and how far.

A rule says at every step how far an anchor is pulled to the policy: 1
is a copy, 0 stays, what is between blends. It may look at the metrics of the
step before (and of the evaluation now), and keep one number in mind.
"""

import dataclasses
import math
import urllib.parse
from collections.abc import Mapping
from typing import ClassVar, Protocol, runtime_checkable

from jaxdistill.spelling import nearest


@runtime_checkable
class Rule(Protocol):
  """When an anchor moves.

  Attributes:
    blends: Whether it goes part of the way: its values are then no policy's.
    chooses: Whether it chooses among versions: by steps of the run only, and
      its choice stands where the policy goes back.
  """

  blends: ClassVar[bool]
  chooses: ClassVar[bool]

  def pull(
    self, name: str, step: int, seen: Mapping[str, float], mind: float | None
  ) -> tuple[float, float | None]:
    """How far to go, and what to keep in mind.

    Args:
      name: Of the anchor.
      step: Of the run; the policy is as it was before this step's updates.
      seen: Metrics of the step before, and of this step's evaluation if any.
      mind: What the rule kept the last time, None at first.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Every:
  """Becomes the policy at every k-th step; never, if k is 0."""

  blends: ClassVar[bool] = False
  chooses: ClassVar[bool] = False
  k: int

  def pull(self, name, step, seen, mind):
    return float(self.k > 0 and step % self.k == 0), mind


@dataclasses.dataclass(frozen=True)
class Ema:
  """A moving average: `decay * itself + (1 - decay) * policy` at every step."""

  blends: ClassVar[bool] = True
  chooses: ClassVar[bool] = False
  decay: float

  def pull(self, name, step, seen, mind):
    return 1 - self.decay, mind


@dataclasses.dataclass(frozen=True)
class Trust:
  """Becomes the policy once that has left a region around it.

  The region is a bound on `train/kl_NAME`, the divergence from it in nats per
  token: what holds the policy moves in steps of known size.
  """

  blends: ClassVar[bool] = False
  chooses: ClassVar[bool] = False
  radius: float

  def pull(self, name, step, seen, mind):
    return float(seen.get(f'train/kl_{name}', 0.0) > self.radius), mind


@dataclasses.dataclass(frozen=True)
class Best:
  """Becomes the policy whenever a held-out metric is better than ever."""

  blends: ClassVar[bool] = False
  chooses: ClassVar[bool] = True
  metric: str

  def pull(self, name, step, seen, mind):
    value = seen.get(f'eval/{self.metric}')
    best = -math.inf if mind is None else mind
    if value is None or not value > best:
      return 0.0, mind
    return 1.0, value


@dataclasses.dataclass(frozen=True)
class League:
  """One of its past versions, drawn anew at every step.

  A version joins at every k-th step, and all stay (arXiv 1710.03748, sec.
  5.2, draws opponents so).
  """

  blends: ClassVar[bool] = False
  chooses: ClassVar[bool] = True
  k: int

  def pull(self, name, step, seen, mind):
    return float(step % self.k == 0), mind


@dataclasses.dataclass(frozen=True)
class External:
  """Another model, which never moves: a teacher, a judge, a refiner.

  Attributes:
    model: As `config.model` names one.
    dtype: Compute dtype; empty: the run's.
    cache_gib: Of each device, for what it generates; 0: as the run's.
  """

  blends: ClassVar[bool] = False
  chooses: ClassVar[bool] = False
  model: str
  dtype: str = ''
  cache_gib: float = 0.0

  def pull(self, name, step, seen, mind):
    return 0.0, mind


_KINDS = ('frozen', 'every', 'league', 'ema', 'trust', 'best', 'model')
_FORMS = (
  'frozen, every:K, league:K, ema:DECAY, trust:RADIUS, best:SPLIT/NAME or '
  'model:NAME'
)


def parse_rule(text: str) -> Rule:
  """Reads a rule.

  | text                         | the anchor                                 |
  |------------------------------|--------------------------------------------|
  | `frozen`                     | stays the base                             |
  | `every:20`                   | is the policy of each 20th step            |
  | `ema:0.9`                    | keeps .9 of itself at every step           |
  | `trust:0.05`                 | follows when the KL to it passes .05       |
  | `best:dev/accuracy_greedy`   | is the best policy so far on held-out      |
  | `league:5`                   | is a random one of each 5th step's         |
  | `model:DIR`                  | is another model, as `config.model` says   |

  `model:DIR?dtype=bfloat16&cache_gib=4` says how that model computes and
  how much of each device its keys and values may take.

  Raises:
    ValueError: The text is none of these.
  """
  name, _, value = text.partition(':')
  if text == 'frozen':
    return Every(0)
  if name in ('every', 'league') and value.isdecimal() and int(value) > 0:
    return Every(int(value)) if name == 'every' else League(int(value))
  if name == 'ema' and 0 < _number(value) < 1:
    return Ema(_number(value))
  if name == 'trust' and _number(value) > 0:
    return Trust(_number(value))
  if name == 'best' and all(value.partition('/')):
    return Best(value)
  if name == 'model' and value:
    return _external(text, value)
  if name in _KINDS:
    has = f'cannot have {value!r}' if value else 'has no value'
    raise ValueError(f'anchor rule {text!r}: {name} {has}; it must be {_FORMS}')
  near = '' if '/' in text else nearest(name, _KINDS, 0.51)
  model = f'a model is model:{text or "NAME"}'
  meant = f'the nearest is {near!r}' if near else model
  raise ValueError(
    f'anchor rule {text!r} is not known; {meant}; it must be {_FORMS}'
  )


def _external(text: str, value: str) -> External:
  model, _, options = value.partition('?')
  given = dict(urllib.parse.parse_qsl(options))
  dtype = given.pop('dtype', '')
  gib = _number(given.pop('cache_gib', '0'))
  if given or dtype not in ('', 'float32', 'bfloat16') or not gib >= 0:
    raise ValueError(
      f'anchor rule {text!r}: after ? there may be dtype=float32 or bfloat16, '
      'and cache_gib=N, with & between'
    )
  return External(model, dtype, gib)


def _number(text: str) -> float:
  try:
    value = float(text)
  except ValueError:
    return math.nan
  return value if math.isfinite(value) else math.nan

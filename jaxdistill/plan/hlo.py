"""What a compiled program computes, reads and sends, from its text.

XLA's own analysis counts the body of a loop once. Here a loop counts as often
as it runs; where that is not known before it runs (microbatches that hold rows,
tokens until an answer ends), once: the figures are of one such round.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxdistill.plan.groups import groups

_BITS = {'pred': 8, 'token': 0, 'opaque': 0, 'bf16': 16}
_ARRAY = re.compile(r'([a-z]\w*)\[([\d,]*)\]')
_NAME = re.compile(r'%([\w.-]+)')
_HEAD = re.compile(r'^(ENTRY )?%?([\w.-]+) \(.*\{$')
_LINE = re.compile(r'^\s+(ROOT )?%?([\w.-]+) = (.*)$')
COLLECTIVES = (
  *('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all'),
  *('collective-permute', 'ragged-all-to-all', 'collective-broadcast'),
)
# What moves nothing between the memory and the cores.
_FREE = {
  *('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast'),
  *('while', 'conditional', 'call', 'after-all', 'partition-id', 'replica-id'),
  *('opt-barrier', 'async-start', 'async-update', 'async-done', 'iota'),
}
_SLICES = 'dynamic-slice', 'slice', 'gather'


class Op(NamedTuple):
  """A line of a program.

  Attributes:
    name: Of its result.
    code: What it does: `dot`, `fusion`, ...
    shape: Of its result, as written.
    operands: Names of what it takes.
    given: What stands in its parentheses, as written.
    said: All that follows them.
  """

  name: str
  code: str
  shape: str
  operands: tuple[str, ...]
  given: str
  said: str

  def named(self, what: str) -> list[str]:
    """Computations that it calls as `what`."""
    found = re.search(rf'\b{what}=(%[\w.-]+|\{{[^}}]*\}})', self.said)
    return _NAME.findall(found[1]) if found else []


Part = dict[str, Op]


class Sent(NamedTuple):
  """A collective.

  Attributes:
    kind: `all-gather`, ...
    axes: Of the mesh, over which; joined by `+`.
    shape: Of its result.
    bytes: That each device sends, by a ring: `(n-1)/n` of what is gathered or
      scattered over `n` devices, twice that of what is reduced for all.
    times: How often.
    source: Where in the model, as traced.
  """

  kind: str
  axes: str
  shape: str
  bytes: float
  times: float
  source: str


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of a program on one device, per round of its loops of unknown length.

  Attributes:
    flops: Of products; a multiplication and an addition are two. What a kernel
      of its own computes, as attention may be, is not known.
    bytes: Read from and written to the device's memory.
    sent: Its collectives.
    looped: How much of it is in loops of unknown length.
  """

  flops: float = 0.0
  bytes: float = 0.0
  sent: tuple[Sent, ...] = ()
  looped: 'Cost | None' = None

  def plus(self, other: 'Cost', times: float = 1) -> 'Cost':
    """With another beside it, so many times."""
    more = tuple(s._replace(times=s.times * times) for s in other.sent)
    return dataclasses.replace(
      self,
      flops=self.flops + times * other.flops,
      bytes=self.bytes + times * other.bytes,
      sent=self.sent + more,
    )

  def rounds(self, n: float) -> 'Cost':
    """With `n` rounds of its loops of unknown length, where it had one."""
    return self.plus(self.looped, n - 1) if self.looped else self

  def traffic(self) -> dict[str, float]:
    """Bytes that a device sends, by axes of the mesh."""
    out: dict[str, float] = collections.defaultdict(float)
    for s in self.sent:
      out[s.axes] += s.bytes * s.times
    return dict(out)


def sizes(shape: str) -> list[tuple[str, tuple[int, ...]]]:
  """Dtype and dimensions of each array in a shape."""
  return [
    (dtype, tuple(int(x) for x in dims.split(',') if x))
    for dtype, dims in _ARRAY.findall(_bare(shape))
  ]


def _bare(shape: str) -> str:
  """Without layouts, in which tiles look like arrays."""
  return re.sub(r'\{[^{}]*\}', '', shape)


def nbytes(shape: str) -> float:
  """Bytes of all arrays in a shape."""
  return sum(_bits(dtype) / 8 * math.prod(d) for dtype, d in sizes(shape))


def _held(shape: str) -> float:
  """Bytes of those arrays in a shape that are in the device's memory.

  Others have a space of their own, `S(1)`, close to where they are computed.
  """
  near = re.sub(r'[a-z]\w*\[[\d,]*\]\{[^{}]*S\([1-9]\)[^{}]*\}', '', shape)
  return nbytes(near)


def _bits(dtype: str) -> int:
  if dtype in _BITS:
    return _BITS[dtype]
  found = re.search(r'\d+', dtype)
  return int(found[0]) if found else 0


def parse(text: str) -> tuple[dict[str, Part], str]:
  """The computations of a compiled program by name, and which is entered."""
  parts: dict[str, Part] = {}
  entry, part = '', None
  for line in text.splitlines():
    if head := _HEAD.match(line):
      part = parts[head[2]] = {}
      entry = head[2] if head[1] else entry
    elif part is not None and (found := _LINE.match(line)):
      op = _op(found[2], found[3])
      part[op.name] = op
      if found[1]:
        part['ROOT'] = op
  return parts, entry


def _op(name: str, rest: str) -> Op:
  end = _closed(rest) if rest.startswith('(') else rest.index(' ')
  shape, rest = rest[:end], rest[end:].lstrip()
  code, _, _ = rest.partition('(')
  end = _closed(rest[len(code) :]) + len(code)
  given = rest[len(code) + 1 : end - 1]
  return Op(
    *(name, code, shape, tuple(_NAME.findall(given))), given, rest[end:]
  )


def _closed(text: str) -> int:
  """Where the parenthesis that a text begins with is closed."""
  depth = 0
  for i, c in enumerate(text):
    depth += (c == '(') - (c == ')')
    if not depth:
      return i + 1
  raise ValueError(f'a parenthesis is not closed: {text[:80]}')


def cost(text: str, mesh: Mapping[str, int]) -> Cost:
  """What a compiled program costs.

  Args:
    text: From `compiled.as_text()`.
    mesh: Sizes of its axes by name, the last the nearest.
  """
  parts, entry = parse(text)
  return _Reader(parts, mesh).of(entry)


class _Reader:
  def __init__(self, parts: dict[str, Part], mesh: Mapping[str, int]):
    self.parts, self.mesh = parts, mesh
    self.known: dict[str, Cost] = {}

  def of(self, name: str) -> Cost:
    """The cost of a computation that is not inside a fusion."""
    if name not in self.known:
      self.known[name] = self._of(self.parts[name])
    return self.known[name]

  def _of(self, part: Part) -> Cost:
    total, looped = Cost(), Cost()
    channels: set[str] = set()  # a collective may be begun and ended in fusions
    for key, op in part.items():
      if key == 'ROOT':
        continue
      for called, times in self._calls(op, part):
        inner = self.of(called)
        total = total.plus(inner, times or 1)
        if not times:
          looped = looped.plus(inner)
        elif inner.looped:
          looped = looped.plus(inner.looped, times)
      for inside, within in self._inside(op, part):
        sent = self._sent(inside, within)
        channel = re.search(r'channel_id=(\d+)', inside.said)
        if sent and channel and inside is not op:  # those of JAX have all one
          sent = [] if channel[1] in channels else sent
          channels.add(channel[1])
        total = total.plus(Cost(_flops(inside, within), 0.0, tuple(sent)))
      total = total.plus(Cost(0.0, self._moved(op, part)))
    return dataclasses.replace(total, looped=looped)

  def _calls(self, op: Op, part: Part) -> Iterator[tuple[str, float]]:
    """Computations and how often they are called; 0: that is not known."""
    if op.code == 'while':
      times = self._trips(op, part)
      for name in (*op.named('body'), *op.named('condition')):
        yield name, times
    elif op.code == 'conditional':
      names = op.named('branch_computations')
      names += op.named('true_computation') + op.named('false_computation')
      yield max(names, key=lambda n: self.of(n).flops + self.of(n).bytes), 1
    elif op.code in ('call', 'async-start'):
      for name in (*op.named('to_apply'), *op.named('calls')):
        yield name, 1

  def _inside(self, op: Op, part: Part) -> Iterator[tuple[Op, Part]]:
    """An operation, and those that are fused into it."""
    yield op, part
    if op.code == 'fusion':
      for name in op.named('calls'):
        inner = self.parts[name]
        for key, x in inner.items():
          if key != 'ROOT':
            yield from self._inside(x, inner)

  def _trips(self, op: Op, part: Part) -> float:
    known = re.search(r'known_trip_count[^\d]*(\d+)', op.said)
    if known:
      return int(known[1])
    (name,) = op.named('condition')
    inside = self.parts[name]
    root = self._resolved(inside['ROOT'], inside)
    begin = part.get(op.operands[0]) if op.operands else None
    if root is None or begin is None or begin.code != 'tuple':
      return 0
    first, last = (
      self._number(x, inside, begin, part) for x in root.operands[:2]
    )
    if 'direction=LT' not in root.said or last is None:
      return 0
    # Loops of the compiler's own making count by 1, and mostly from 0.
    return max(last - (first or 0), 1)

  def _resolved(self, op: Op, part: Part) -> Op | None:
    """The comparison that a condition ends in, fused or not."""
    if op.code == 'compare':
      return op
    if op.code == 'fusion':
      (name,) = op.named('calls')
      inner = self.parts[name]
      root = inner['ROOT']
      if root.code != 'compare':
        return None
      given = [
        op.operands[int(inner[x].given)] if inner[x].code == 'parameter' else x
        for x in root.operands
      ]
      return root._replace(operands=tuple(given))
    return None

  def _number(self, name: str, inside: Part, begin: Op, part: Part):
    """A constant of a condition, perhaps given to the loop from outside."""
    op = inside.get(name)
    while op is not None and op.code in ('copy', 'bitcast', 'convert'):
      op = inside.get(op.operands[0])
    if op is None:
      return None
    if op.code == 'constant':
      return float(op.given) if op.given.lstrip('-').isdigit() else None
    if op.code == 'get-tuple-element':
      index = re.search(r'index=(\d+)', op.said)
      if not index or int(index[1]) >= len(begin.operands):
        return None
      outer = part.get(begin.operands[int(index[1])])
      while outer is not None and outer.code in ('copy', 'bitcast'):
        outer = part.get(outer.operands[0])
      if outer is not None and outer.code == 'constant':
        return float(outer.given) if outer.given.lstrip('-').isdigit() else None
    return None

  def _sent(self, op: Op, part: Part) -> list[Sent]:
    kind = op.code.removesuffix('-start')
    if kind not in COLLECTIVES:
      return []
    taken = sum(nbytes(part[x].shape) for x in op.operands if x in part)
    axes, n = self._axes(op)
    if n < 2:
      return []
    share = (n - 1) / n
    users = [x for x in part.values() if op.name in x.operands]
    if kind == 'all-reduce' and {x.code for x in users} == {'dynamic-slice'}:
      kind = 'reduce-scatter'  # each keeps its part: nothing is gathered again
    moved = {
      'all-gather': taken * (n - 1),
      'all-reduce': 2 * taken * share,
      'reduce-scatter': taken * share,
      'collective-permute': taken,
    }.get(kind, taken * share)
    source = re.search(r'op_name="([^"]*)"', op.said)
    shape = _bare(op.shape)
    return [Sent(kind, axes, shape, moved, 1, source[1] if source else '')]

  def _axes(self, op: Op) -> tuple[str, int]:
    """Over which axes of the mesh, and how many devices a group has."""
    found = groups(op.said, math.prod(self.mesh.values()))
    if not found:
      return '', 1
    shape = tuple(self.mesh.values())
    differ: set[int] = set()
    for group in found:
      places = np.stack(np.unravel_index(group, shape))
      differ |= {*np.flatnonzero((places != places[:, :1]).any(1)).tolist()}
    names = [*self.mesh]
    return '+'.join(names[i] for i in sorted(differ)), len(found[0])

  def _moved(self, op: Op, part: Part) -> float:
    if op.code == 'copy-start':
      return _held(op.shape)
    if op.code in _FREE or op.code.endswith(('-start', '-done')):
      return 0.0
    if op.code in COLLECTIVES:
      return 0.0  # counted as traffic
    read = [part[x].shape for x in op.operands if x in part]
    if op.code in _SLICES:
      return _held(op.shape) * (1 + bool(_held(read[0])))
    if op.code == 'dynamic-update-slice':
      return _held(read[1]) + bool(_held(op.shape)) * nbytes(read[1])
    if op.code == 'fusion':
      return self._moved_by_fusion(op, read)
    return _held(op.shape) + sum(map(_held, read))

  def _moved_by_fusion(self, op: Op, read: Sequence[str]) -> float:
    """Of arrays from which it only cuts slices, these."""
    (name,) = op.named('calls')
    inner = {k: x for k, x in self.parts[name].items() if k != 'ROOT'}
    users: dict[str, list[Op]] = collections.defaultdict(list)
    for x in inner.values():
      for operand in x.operands:
        users[operand].append(x)
    total, into = 0.0, 0.0
    for x in inner.values():
      if x.code != 'parameter' or int(x.given) >= len(read):
        continue
      whole, by = read[int(x.given)], users[x.name]
      if not _held(whole):
        continue
      if by and all(u.code in _SLICES for u in by):
        total += sum(nbytes(u.shape) for u in by)
      elif by and all(_updates(u, x.name) for u in by):
        into += nbytes(whole)
      else:
        total += nbytes(whole)
    if into:  # written in place
      parts = [
        nbytes(inner[x.operands[1]].shape)
        for x in inner.values()
        if x.code == 'dynamic-update-slice' and x.operands[1] in inner
      ]
      return total + sum(parts) + max(_held(op.shape) - into, 0)
    return total + _held(op.shape)


def _updates(op: Op, name: str) -> bool:
  """Whether an operation only writes a slice of an array."""
  return op.code == 'dynamic-update-slice' and op.operands[0] == name


def _flops(op: Op, part: Part) -> float:
  """Of a product; a TPU's are written as convolutions."""
  if op.code not in ('dot', 'convolution'):
    return 0.0
  ((_, out),) = sizes(op.shape)
  shapes = [sizes(part[x].shape)[0][1] for x in op.operands[:2]]
  if op.code == 'dot':
    found = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', op.said)
    over = [int(x) for x in found[1].split(',') if x] if found else []
    return 2.0 * math.prod(out) * math.prod(shapes[0][i] for i in over)
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', op.said)
  if not labels:
    return 0.0
  left, right, result = labels.groups()
  # A batch is written as places of a window that meet one place each.
  count = 2.0 * math.prod(out) * shapes[1][right.index('i')]
  window = re.search(r'window=\{([^}]*)\}', op.said)
  if window:
    count *= _window(window[1], left, right, result, shapes, out)
  return count


def _window(said, left, right, result, shapes, out) -> float:
  """How many places of the window a place of the result sums over.

  Of those that padding or dilation leave empty nothing is summed: a batch is
  a window as large as itself, of which each place meets one.
  """
  size = re.search(r'size=([\dx]+)', said)
  if not size:
    return 1.0
  total = 1.0
  pads = re.search(r'pad=([\d_x-]+)', said)
  given = {'size': [int(x) for x in size[1].split('x')]}
  for name in ('stride', 'lhs_dilate', 'rhs_dilate'):
    found = re.search(rf'{name}=([\dx]+)', said)
    n = len(given['size'])
    given[name] = [int(x) for x in found[1].split('x')] if found else [1] * n
  pad = (
    [tuple(int(y) for y in x.split('_')) for x in pads[1].split('x')]
    if pads
    else [(0, 0)] * len(given['size'])
  )
  for d, w in enumerate(given['size']):
    length = shapes[0][left.index(str(d))]
    places = out[result.index(str(d))]
    at = np.arange(places)[:, None] * given['stride'][d] - pad[d][0]
    at = at + np.arange(w)[None] * given['rhs_dilate'][d]
    there = (at >= 0) & (at % given['lhs_dilate'][d] == 0)
    there &= at // given['lhs_dilate'][d] < length
    total *= there.sum() / places
  return total

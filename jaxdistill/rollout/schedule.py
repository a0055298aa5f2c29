"""Who is computed next: the host's part of generation, in plain numpy.

Each shard has `J` places for samples, `group` to a text, and rows for those
that have parted. Between two dispatches of the engine the desk notes what was
drawn, gives free places to prompts that wait, and says where rows and pages
stand. All its sizes are agreed over the hosts, and are powers of two or three
quarters of one, so few programs exist.
"""

import collections
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxdistill import dist
from jaxdistill.batch.layout import bucket, power
from jaxdistill.rollout.dispatch import Response, Samples, Turn, alike
from jaxdistill.rollout.samplers import Sampling

_LEAST = 16  # rows; with fewer, a token costs what reading the weights costs
PAGE = 64  # tokens
FALL = 2  # rooms for rows, at once
_BESIDE = 32  # samples of several prompts of one text, which are compared
_LEAST_SIZE = 16  # tokens of a page of a prompt
_READ = 2**14  # tokens of prompts that a shard reads at a time, at most
_READ_WELL = 2**10  # as many at a time cost little more than many more


class _Page(NamedTuple):
  """A page of a text: where it is, and what is in it; see `Level`."""

  place: int
  lo: int
  hi: int
  start: int


class Desk:
  """The samples of one call of `generate`: those in flight and those to come.

  Args:
    prefix: Tokens that all prompts begin with.
    rests: What follows in each, at least one token.
    addresses: Of the prompts.
    sampling: How to draw.
    eos_ids: The tokens that end a response.
    shards: Into how many parts rows are split, over all hosts.
    most: Most samples in flight on a shard.
    expected: Prompts that another such call may have, if they are more.

  Attributes:
    widths: Tokens of a text that may be read, with those that fill it up.
    reads: How many texts may be read at a time, of a shard, and how wide.
    rooms: For how many rows there may be room.
  """

  def __init__(
    self,
    prefix: int,
    rests: Sequence[np.ndarray],
    addresses: Sequence[int],
    *,
    sampling: Sampling,
    eos_ids: tuple[int, ...],
    shards: int,
    most: int,
    expected: int = 0,
  ):
    self.prefix, self.addresses = prefix, addresses
    self.limit, self.eos_ids, self.shards = sampling.max_tokens, eos_ids, shards
    self.here = shards // jax.process_count()
    self.per_prompt = sampling.samples
    # Prompts of one text are read once, as if it had all of their samples.
    units_of: dict[bytes, list[int]] = collections.defaultdict(list)
    for i, rest in enumerate(rests):
      first = i * self.per_prompt
      units_of[rest.tobytes()] += range(first, first + self.per_prompt)
    self.units = [np.array(units) for units in units_of.values()]
    self.rests = [rests[u[0] // self.per_prompt] for u in self.units]
    widest = max((len(rest) - 1 for rest in rests), default=0)
    # A place costs what all of its samples would. Where there are few texts,
    # how many go by the prompts: another time the texts are more or fewer.
    few = len(self.units) <= 0.8 * len(rests)
    copies = power(len(rests) // 4 * few + 1) // 2
    copies, widest = dist.agree_max(max(copies, 1), widest)
    copies = min(copies, max(_BESIDE // self.per_prompt, 1))
    self.group = min(copies * self.per_prompt, most)
    self.waiting = collections.deque(
      (text, start)
      for text, units in enumerate(self.units)
      for start in range(0, len(units), self.group)
    )
    # So many groups at most: the last of each text may be cut short.
    prompts = max(expected, len(rests))
    groups = -(-prompts * self.per_prompt // self.group)
    groups = max(groups * min(copies, 2), len(self.waiting))
    units, first, expected, samples = dist.agree_max(
      *(-(-n // self.here) for n in (groups, len(self.waiting))),
      *(expected, prompts * self.per_prompt),
    )
    self.asked = first > 0
    # Some texts have one last sample that goes on: others begin beside it.
    beside = max(most // self.group, 1) * (2 if self.group > 1 else 1)
    places = power(min(units, beside))
    self.most = min(most, places * self.group)
    self.page = min(PAGE, power(self.limit))
    # As few pages as hold the longest, and no larger than that takes.
    pages = bucket(max(-(-widest // PAGE), 1))
    self.size = bucket(-(-widest // pages), _LEAST_SIZE)
    # Widths at which prompts are read, the longest last.
    self.widths = [
      n * self.size for n in sorted({-(-pages // 4**k) for k in range(9)})
    ]
    # For the longest that can be there together. All as long as the longest
    # would leave every token many pages to read that hold nothing.
    longest = sorted(self._pages_of(text) for text, _ in self.waiting)
    (held,) = dist.agree_max(sum(longest[-places:]))
    self.text_room = places * pages if widest else 0
    while self.text_room // 2 >= max(held, 1):
      self.text_room //= 2
    self.refills = units > places or units * self.group > self.most
    # At first as many as there are, or another time up to half as many.
    if self.refills:
      first = 1
    elif expected or copies > 1:
      first = min(first, units // 2)
    texts = range(max(first, 1), min(max(units, first), places) + 1)
    self.reads = sorted(
      {(self._at_once(n, x), x) for x in self.widths for n in texts if widest}
    )
    w, j = self.here, places * self.group
    self.samples = Samples(*np.zeros((len(Samples._fields), w, j), np.int32))
    # Small ones cost little each; all rows at once is what long answers come
    # to, so that room is exact.
    rooms = [_LEAST, *(4 * _LEAST * 2**k for k in range(20))]
    all_rows = max(min(self.most, power(samples)), _LEAST)
    self.rooms = [room for room in rooms if room < all_rows] + [all_rows]
    self.unit = np.zeros((w, j), int)
    self.lead = np.zeros((w, 0), np.int32)
    self.slot = self.rows = self.own_room = 0
    self.texts: list[dict[int, list[_Page]]] = [{} for _ in range(w)]
    self.own: list[dict[int, list[_Page]]] = [{} for _ in range(w)]
    units = len(rests) * sampling.samples
    self.lengths, self.stopped = np.zeros(units, int), np.zeros(units, bool)
    width = min(self.limit, 4 * self.page)
    self.drawn = [np.zeros((units, width), t) for t in ('i4', 'f4', 'f4')]

  def note(self, slot, row, lead, token, alive, *drawn) -> None:
    """Takes down what a dispatch drew.

    Args:
      slot: The next one of the newest pages.
      row: Of each sample, int[W, J].
      lead: Sample that leads each row, int[W, U].
      token: Drawn last, int[W, J].
      alive: Which samples go on, bool[W, J].
      *drawn: Tokens, -1 after the end, and both log-probs, [W, J, S].
    """
    s, new = self.samples, [x[:, :, self.slot : slot] for x in drawn]
    was = s.alive > 0
    counts = (new[0] >= 0).sum(-1)
    units, ages, more = self.unit[was], s.age[was], counts[was]
    longest = int((ages + more).max(initial=0))
    if longest > self.drawn[0].shape[1]:
      wider = min(max(longest, 2 * self.drawn[0].shape[1]), self.limit)
      wider -= self.drawn[0].shape[1]
      self.drawn = [np.pad(x, ((0, 0), (0, wider))) for x in self.drawn]
    place = np.arange(slot - self.slot)
    which, t = np.nonzero(place < more[:, None])
    for out, x in zip(self.drawn, new, strict=True):
      out[units[which], ages[which] + t] = x[was][which, t]
    self.lengths[units] = ages + more
    last = self.drawn[0][units, self.lengths[units] - 1]
    self.stopped[units] = ~alive[was] & np.isin(last, self.eos_ids)
    age = s.age + counts
    now = {'row': row, 'token': token, 'alive': alive, 'age': age}
    self.samples = s._replace(**{k: x.astype(np.int32) for k, x in now.items()})
    self.slot, self.lead = slot, lead

  def turn(self) -> Turn:
    """What is done next."""
    s, full = self.samples, self.slot == self.page
    first = self._first()
    leaders = [np.flatnonzero(x == np.arange(x.size)).tolist() for x in first]
    parents = [
      self.lead[w, s.row[w, js]].tolist() if js else []
      for w, js in enumerate(leaders)
    ]
    # Those who have parted copy the pages that they have in common.
    parted = [
      len(self.own[w].get(k, ()))
      for w, ks in enumerate(parents)
      for k, n in collections.Counter(ks).items()
      if n > 1
    ]
    owned = [
      [len(self.own[w].get(k, ())) + full for k in ks]
      for w, ks in enumerate(parents)
    ]
    begun = self._admit()
    texts = [self._pages_of_texts(w, of) for w, of in enumerate(begun)]
    wide = [
      len(self.rests[text]) - 1 for of in begun for text, _ in of.values()
    ]
    # All that the hosts must agree on, at once.
    rows, going, split, copied, owned, own_longest, most, longest, widest = (
      dist.agree_max(
        max(len(a) + len(b) for a, b in zip(leaders, begun, strict=True)),
        max(map(len, leaders)),
        len(parted),
        max(parted, default=0),
        max(map(sum, owned)),
        max(max(x, default=0) for x in owned),
        max(map(len, begun)),
        max(max(x, default=0) for x in texts),
        max(wide, default=0),
      )
    )
    if not rows:
      return Turn(0)
    moved = self._stand(first, leaders, begun, self._room(rows), split > 0)
    before, closed = self.own, None
    # Fewer rows have fewer pages, so few pairs of both are ever met.
    if (full and going) or copied or (moved is not None and self.own_room):
      closed = self._lay_out(
        leaders, parents, power(owned, self.rows // 2), full
      )
    else:
      self.own = [
        {j: self.own[w][k] for j, k in zip(js, ks, strict=True) if k in of}
        for w, (js, ks, of) in enumerate(
          zip(leaders, parents, self.own, strict=True)
        )
      ]
    if full or not going:
      self.slot, s.begin[:] = 0, 0
      s.base[:] += self.page
    admitted = self._read(begun, most, widest)
    for w, of in enumerate(begun):
      for b, (text, start) in of.items():
        self._seat(w, b, text, start)
    s.last[:] = self.slot + self.limit - s.age - 1
    for w, x in enumerate(first):
      s.paged[w] = [bool(self.own[w].get(j)) for j in x.tolist()]
    tables = {}
    if admitted:
      tables['texts'] = self._table(self.texts, self.text_room, self.group)
    if closed or self.own != before:
      tables['own'] = self._table(self.own, self.own_room, 1)
    return Turn(
      self.rows,
      moved,
      closed,
      admitted,
      tables,
      {'texts': _doublings(longest), 'own': _doublings(own_longest)},
      np.stack(s, -1).astype(np.int32),
      self.lead,
      np.full(self.here, bool(self.waiting)),
      self._limits(),
    )

  def own_rooms(self, rows: int) -> list[int]:
    """For how many full pages there may be room beside so many rows."""
    # Who begins at once with all others draws its last page as the newest.
    most = rows * (-(-self.limit // self.page) - (not self.refills))
    if not most:
      return []
    doublings = (power(most, rows // 2) // (rows // 2)).bit_length()
    return [rows // 2 << k for k in range(doublings)]

  def _room(self, rows: int) -> int:
    """The smallest room for so many rows: few, so that few programs exist.

    Where far fewer are left, two rooms below for a token: any two would be too
    many pairs.
    """
    lowest = self.rooms.index(self.rows) - FALL if self.rows else 0
    return next(room for room in self.rooms[max(lowest, 0) :] if room >= rows)

  def responses(self) -> list[list[Response]]:
    """By prompt its responses, when all is done."""
    each = []
    for i, n in enumerate(self.lengths):
      tokens, logp, kept = (x[i, :n].copy() for x in self.drawn)
      each.append(Response(tokens, logp, kept, bool(self.stopped[i])))
    g = self.per_prompt
    return [each[i : i + g] for i in range(0, len(each), g)]

  def _first(self) -> np.ndarray:
    """Of each sample, who leads those that have drawn the same; -1: ended."""
    s = self.samples
    alive = s.alive > 0
    return np.where(alive, alike(s.row, s.token, alive, self.group), -1)

  def _admit(self) -> list[dict[int, tuple[int, int]]]:
    """By shard: which place is given to which text, from which sample on."""
    alive = self.samples.alive.reshape(self.here, -1, self.group)
    going = alive.sum((1, 2))
    free = [list(np.flatnonzero(~x.any(-1))[::-1]) for x in alive]
    out: list[dict[int, tuple[int, int]]] = [{} for _ in free]
    while self.waiting:
      text, start = self.waiting[0]
      count = min(self.group, len(self.units[text]) - start)
      fits = [
        w for w, x in enumerate(free) if x and going[w] + count <= self.most
      ]
      if not fits:
        break
      w = min(fits, key=lambda w: going[w])
      out[w][int(free[w].pop())] = self.waiting.popleft()
      going[w] += count
    return out

  def _pages_of(self, text: int) -> int:
    return -(-(len(self.rests[text]) - 1) // self.size)

  def _pages_of_texts(
    self, w: int, begun: dict[int, tuple[int, int]]
  ) -> list[int]:
    """Pages of each text of a shard that is read or has samples."""
    new = [self._pages_of(text) for text, _ in begun.values()]
    return new + [len(x) for x in self._live_texts(w).values()]

  def _live_texts(self, w: int) -> dict[int, list[_Page]]:
    alive = self.samples.alive[w].reshape(-1, self.group).any(-1)
    return {b: pages for b, pages in self.texts[w].items() if alive[b]}

  def _stand(self, first, leaders, begun, rows, split) -> np.ndarray | None:
    """Gives every leader a row, its old one where it can; the others of its
    class share it.

    Returns:
      Row that each row continues; None where all rows stay.
    """
    s, g = self.samples, self.group
    moved = self.rows > 0 and (split or rows != self.rows)
    parents = np.tile(np.arange(rows, dtype=np.int32), (self.here, 1))
    lead = np.full((self.here, rows), s.row.shape[1], np.int32)
    for w, js in enumerate(leaders):
      homeless = []
      for j in js:
        r = s.row[w, j]
        if r < rows and lead[w, r] == s.row.shape[1]:
          lead[w, r] = j
        else:
          homeless.append(j)
      free = np.flatnonzero(lead[w] == s.row.shape[1])
      for j, r in zip(homeless, free, strict=False):
        lead[w, r], parents[w, r] = j, s.row[w, j]
      starts = [b * g for b in begun[w]]
      lead[w, free[len(homeless) :][: len(starts)]] = starts
      row_of = np.full(s.row.shape[1] + 1, rows, np.int32)
      row_of[lead[w]] = np.arange(rows)
      row_of[-1] = rows
      s.row[w] = row_of[first[w]]
      for j in starts:
        s.row[w, j : j + g] = row_of[j]
    self.lead, self.rows = lead, rows
    return parents if moved else None

  def _lay_out(self, leaders, parents, room, full) -> tuple:
    """Rows' pages anew: those of each text side by side.

    Returns:
      `source` and `into` of `_relaid`.
    """
    s, self.own_room = self.samples, room
    source = np.zeros((self.here, room), np.int32)
    into = np.full((self.here, self.rows), room, np.int32)
    owns: list[dict[int, list[_Page]]] = []
    for w, (js, ks) in enumerate(zip(leaders, parents, strict=True)):
      own, place = {}, 0
      for j, k in zip(js, ks, strict=True):
        pages = []
        for page in self.own[w].get(k, ()):
          source[w, place] = page.place
          pages.append(page._replace(place=place))
          place += 1
        if full:
          into[w, s.row[w, j]] = place
          pages.append(
            _Page(place, int(s.begin[w, j]), self.page, int(s.base[w, j]))
          )
          place += 1
        own[j] = pages
      owns.append(own)
    self.own = owns
    return source, into

  def _at_once(self, texts: int, width: int) -> int:
    """How many of so many texts are read at a time."""
    largest = min(power(texts), max(_READ // width, 1))
    return _per_read(texts, largest, max(_READ_WELL // width, 1))

  def _read(self, begun, most, widest) -> list:
    """What is read of the texts that begin, and where their pages go."""
    if not (most and self.text_room):
      return []
    width = next(x for x in self.widths if x >= widest)
    size, count = self.size, self._at_once(most, width)
    out = []
    for start in range(0, most, count):
      tokens = np.zeros((self.here * count, width), np.int32)
      source = np.zeros((self.here, self.text_room), np.int32)
      into = np.full(
        (self.here, count * width // size), self.text_room, np.int32
      )
      for w, of in enumerate(begun):
        part = dict(list(of.items())[start : start + count])
        texts, place = {}, 0
        for b, pages in self._texts_before(w, of, start).items():
          source[w, place : place + len(pages)] = [p.place for p in pages]
          texts[b] = [p._replace(place=place + i) for i, p in enumerate(pages)]
          place += len(pages)
        for i, (b, (text, _)) in enumerate(part.items()):
          rest = self.rests[text][:-1]
          tokens[w * count + i, : len(rest)] = rest
          n = self._pages_of(text)
          at = i * width // size
          into[w, at : at + n] = place + np.arange(n)
          texts[b] = [
            _Page(
              place + k,
              0,
              min(size, len(rest) - k * size),
              self.prefix + k * size,
            )
            for k in range(n)
          ]
          place += n
        self.texts[w] = texts
      out.append((tokens, source, into))
    return out

  def _texts_before(self, w, begun, start) -> dict[int, list[_Page]]:
    """Texts that stay when those from `start` on are read."""
    if start:
      return self.texts[w]
    return {b: x for b, x in self._live_texts(w).items() if b not in begun}

  def _seat(self, w: int, b: int, text: int, start: int) -> None:
    """A text's samples begin."""
    s, g = self.samples, self.group
    units = self.units[text][start : start + g]
    j, rest = slice(b * g, b * g + len(units)), self.rests[text]
    s.token[w, j] = rest[-1]
    s.alive[w, j] = 1
    s.base[w, j] = self.prefix + len(rest) - 1 - self.slot
    s.begin[w, j] = self.slot
    s.address[w, j] = [self.addresses[u // self.per_prompt] for u in units]
    s.number[w, j] = units % self.per_prompt
    s.age[w, j] = 0
    self.unit[w, j] = units

  def _table(self, texts, room, readers) -> tuple:
    """`table` and `at` of a level whose texts neighbouring samples read."""
    w, j = self.samples.row.shape
    table = np.zeros((w, room, 4 + readers), np.int32)
    table[..., 4:] = j
    at = np.full((w, j), room * readers, np.int32)
    for i, of in enumerate(texts):
      for key, pages in of.items():
        first = key * readers + np.arange(readers)
        for n, page in enumerate(pages):
          after = len(pages) - n - 1
          table[i, page.place] = [*page[1:], after, *first]
        if pages:
          at[i, first] = pages[0].place * readers + np.arange(readers)
    return table, at

  def _limits(self) -> np.ndarray:
    """See `Turn.limits`."""
    fewer = max((room for room in self.rooms if room < self.rows), default=0)
    places = self.samples.row.shape[1] // self.group
    free = self.most - max(self.group, self.most // 8)
    idle = places - max(places // 8, 1)
    return np.array([self.slot, fewer, free, idle], np.int32)


def _per_read(texts: int, largest: int, least: int) -> int:
  """How many texts are read at a time: the fewer reads the better, but with an
  eighth of the rows empty at most, or with as few as there can be.
  """
  halves = [largest >> k for k in range(largest.bit_length())]
  counts = [n for n in halves if n >= min(least, largest)]
  fits = [n for n in counts if -texts % n <= texts // 8]
  return fits[0] if fits else min(counts, key=lambda n: -texts % n)


def _doublings(pages: int) -> np.int32:
  """How often one page doubles to be at least so many."""
  return np.int32((max(pages, 1) - 1).bit_length())

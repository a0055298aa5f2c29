"""The tokenizer of a closed vocabulary: whole symbols of a small world."""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Sequence

from jaxdistill.types import Message

_SYMBOL = re.compile(r'<[a-z]+>|[a-z]+|\S')


@dataclasses.dataclass(frozen=True)
class SymbolTokenizer:
  """Maps texts over a closed vocabulary to ids and back.

  The first three symbols are the padding, begin and end marks.

  Attributes:
    symbols: The vocabulary; a symbol's id is its place in it.
  """

  symbols: tuple[str, ...]

  pad_id = 0
  bos_id = 1
  eos_id = 2
  eos_ids = (2,)

  @functools.cached_property
  def _ids(self) -> dict[str, int]:
    return {s: i for i, s in enumerate(self.symbols)}

  def __len__(self) -> int:
    return len(self.symbols)

  def encode(self, text: str) -> list[int]:
    """Ids of `text`, spaces ignored; marks in it are symbols: `<eos>` ends.

    Raises:
      ValueError: A symbol is not in the vocabulary.
    """
    pieces = _SYMBOL.findall(text)
    unknown = [p for p in pieces if p not in self._ids]
    if unknown:
      raise ValueError(
        f'the model has no symbol {unknown[0]!r} (in {text!r}); it knows: '
        + ' '.join(self.symbols[3:])
      )
    return [self._ids[p] for p in pieces]

  def alone(self, text: str) -> list[int]:
    """The begin mark and the ids of `text`.

    Raises:
      ValueError: A symbol is not in the vocabulary.
    """
    return [self.bos_id, *self.encode(text)]

  def decode(self, ids: Sequence[int]) -> str:
    """Text of `ids`: marks left out, spaces around words only."""
    pieces = [self.symbols[i] for i in ids if i > self.eos_id]
    text = ''
    for before, piece in zip(['', *pieces], pieces, strict=False):
      spaced = before and (before.isalpha() or piece.isalpha())
      text += (' ' if spaced else '') + piece
    return text

  def ending_at(self, text: str) -> 'SymbolTokenizer':
    """Itself: responses of a closed vocabulary end with its end mark."""
    del text
    return self

  def prompt(
    self, asked: str | Sequence[Message], think: bool | None = None
  ) -> list[int]:
    """The begin mark and the ids of what was said, answers with their end mark.

    Raises:
      ValueError: A symbol is not in the vocabulary.
    """
    del think
    if isinstance(asked, str):
      return self.alone(asked)
    ids = [self.bos_id]
    for author, text in asked:
      ids += self.encode(text)
      ids += [self.eos_id] if author == 'assistant' else []
    return ids

  def turn(self, text: str, think: bool | None = None) -> list[int]:
    """The ids of `text`: no mark tells users from models.

    Raises:
      ValueError: A symbol is not in the vocabulary.
    """
    del think
    return self.encode(text)

  @property
  def vocabulary(self) -> str:
    return self._vocabulary

  @functools.cached_property
  def _vocabulary(self) -> str:
    return hashlib.sha256('\n'.join(self.symbols).encode()).hexdigest()

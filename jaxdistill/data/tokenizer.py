"""A tokenizer over whole symbols: words, digits and signs, one id each."""

import dataclasses
import functools
import re
from collections.abc import Sequence

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

  @functools.cached_property
  def _ids(self) -> dict[str, int]:
    return {s: i for i, s in enumerate(self.symbols)}

  def __len__(self) -> int:
    return len(self.symbols)

  def encode(self, text: str) -> list[int]:
    """Ids of `text`, spaces ignored.

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

  def decode(self, ids: Sequence[int]) -> str:
    """Text of `ids`: marks left out, spaces around words only."""
    pieces = [self.symbols[i] for i in ids if i > self.eos_id]
    text = ''
    for before, piece in zip(['', *pieces], pieces, strict=False):
      spaced = before and (before.isalpha() or piece.isalpha())
      text += (' ' if spaced else '') + piece
    return text

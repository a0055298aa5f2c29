"""The tokenizer of an encoder: texts between marks, as BERT has them.

[CLS] a query [SEP] an item [SEP]
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import NoReturn

import tokenizers
from etils import epath

from jaxdistill.types import Message


@dataclasses.dataclass(frozen=True, eq=False)
class PairTokenizer:
  """Maps one text, or several, to ids with a mark before and behind each.

  What is written behind a prompt is the last mark alone: an encoder reads.

  Attributes:
    source: The directory it was read from.
    library: Does the work.
    cls_id: The mark before the first text.
    sep_id: The mark behind each.
    pad_id: Fills up batches.
    longest: Tokens of the longest row that its model has places for.
  """

  source: str
  library: tokenizers.Tokenizer = dataclasses.field(repr=False)
  cls_id: int
  sep_id: int
  pad_id: int
  longest: int

  @classmethod
  def from_directory(
    cls, directory: epath.PathLike, longest: int
  ) -> 'PairTokenizer':
    """Reads `tokenizer.json`.

    Raises:
      ValueError: It is missing or broken, or sets other marks.
    """
    file = epath.Path(directory) / 'tokenizer.json'
    try:
      library = tokenizers.Tokenizer.from_buffer(file.read_bytes())
    except Exception as e:  # the library raises nothing narrower
      raise ValueError(f'{file}: {e}') from None
    library.no_truncation()
    library.no_padding()
    shown = library.encode('a', 'b')
    marks = [
      i
      for i, is_mark in zip(shown.ids, shown.special_tokens_mask, strict=True)
      if is_mark
    ]
    if len(marks) != 3 or marks[1] != marks[2] or shown.ids[0] != marks[0]:
      raise ValueError(f'{file} does not put a pair as [CLS] a [SEP] b [SEP]')
    library.encode_special_tokens = True  # marks in a text are text
    pad_id = library.token_to_id('[PAD]') or 0
    return cls(str(directory), library, marks[0], marks[1], pad_id, longest)

  @property
  def eos_ids(self) -> tuple[int, ...]:
    return (self.sep_id,)

  def __len__(self) -> int:
    return self.library.get_vocab_size()

  def encode(self, text: str) -> list[int]:
    """Ids of a text. No mark is added, and none is read out of it."""
    try:
      return self.library.encode(text, add_special_tokens=False).ids
    except TypeError:  # half of a surrogate pair, as JSON may hold it
      raise ValueError(f'{text!r} is not Unicode text') from None

  def decode(self, ids: Sequence[int]) -> str:
    """Text of ids, marks left out."""
    return self.library.decode(ids, skip_special_tokens=True)

  def prompt(
    self, asked: str | Sequence[Message], think: bool | None = None
  ) -> list[int]:
    """Ids of texts, with the marks before and between them.

    Raises:
      ValueError: The model has no places for so many.
    """
    del think
    texts = [asked] if isinstance(asked, str) else [m.text for m in asked]
    ids = [self.cls_id]
    for i, text in enumerate(texts):
      ids += [self.sep_id] * (i > 0) + self.encode(text)
    if len(ids) >= self.longest:
      raise ValueError(
        f'{texts[-1]!r} takes {len(ids) + 1} tokens with what is before it; '
        f'{self.source} has {self.longest} positions'
      )
    return ids

  def alone(self, text: str) -> list[int]:
    """The mark before a text, and its ids."""
    return [self.cls_id, *self.encode(text)]

  def turn(self, text: str, think: bool | None = None) -> NoReturn:
    """An encoder takes no turns."""
    raise ValueError(f'{self.source} reads texts, it answers none')

  @property
  def vocabulary(self) -> str:
    return self._vocabulary

  @functools.cached_property
  def _vocabulary(self) -> str:
    return hashlib.sha256(self.library.to_str().encode()).hexdigest()

  def ending_at(self, text: str) -> 'PairTokenizer':
    """Itself: nothing is written that could end."""
    del text
    return self

"""What a tokenizer is, and that of a given model: any text."""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import tokenizers
from etils import epath

from jaxdistill.data.text import chat
from jaxdistill.data.text.frame import (
  ANSWERED,
  ASKED,
  Frame,
  frame_of,
  said,
  turn_end,
)
from jaxdistill.types import Message

_FILES = (  # of a directory that says how texts become ids
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'generation_config.json',
  'chat_template.jinja',
)
_NAMED = ('bos', 'eos', 'pad', 'unk', 'sep', 'cls', 'mask')


@runtime_checkable
class Tokenizer(Protocol):
  """Maps texts to ids and back.

  Attributes:
    pad_id: Fills up batches.
    eos_ids: End a response; the first is appended to a given one.
  """

  @property
  def pad_id(self) -> int: ...

  @property
  def eos_ids(self) -> tuple[int, ...]: ...

  def __len__(self) -> int:
    """One more than the largest id."""
    ...

  def encode(self, text: str) -> list[int]:
    """Ids of a text. No mark is added, and none is read out of it."""
    ...

  def alone(self, text: str) -> list[int]:
    """Ids of a text that nothing precedes but the begin mark, if it has one."""
    ...

  def decode(self, ids: Sequence[int]) -> str:
    """Text of ids, marks left out."""
    ...

  def prompt(
    self, asked: str | Sequence[Message], think: bool | None = None
  ) -> list[int]:
    """Ids that ask a text, or go on with a dialogue: the answer comes next.

    Args:
      asked: The text, or messages of which the last is the user's.
      think: Whether the model thinks first; None is as the tokenizer says.
    """
    ...

  def turn(self, text: str, think: bool | None = None) -> list[int]:
    """Ids between the end mark of a response and the next one.

    Args:
      text: What the user says there: an observation, a second question.
      think: As for `prompt`.
    """
    ...

  @property
  def vocabulary(self) -> str:
    """A name for what ids mean: two that have the same share their ids."""
    ...

  def ending_at(self, text: str) -> 'Tokenizer':
    """One by which a token that holds `text`, if not empty, ends a response."""
    ...


@dataclasses.dataclass(frozen=True, eq=False)
class TextTokenizer:
  """The tokenizer of a model in Hugging Face's layout, with its chat template.

  Ids are those of transformers, except where a text spells a mark such as
  `<|im_end|>`: texts come from files and from models, and must not end a turn.

  Attributes:
    source: The directory it was read from.
    files: What was read there, by name.
    library: Does the work.
    pad_id: Fills up batches.
    eos_ids: End a response; the first is appended to a given one.
    render: Messages to text by the chat template; None where prompts are plain.
    think: Whether a model that can think before it answers does, where a prompt
      does not say.
  """

  source: str
  files: Mapping[str, bytes] = dataclasses.field(repr=False)
  library: tokenizers.Tokenizer = dataclasses.field(repr=False)
  pad_id: int
  eos_ids: tuple[int, ...]
  render: Callable[..., str] | None = dataclasses.field(repr=False)
  think: bool = False

  @classmethod
  def from_directory(
    cls, directory: epath.PathLike, *, template: bool = True
  ) -> 'TextTokenizer':
    """Reads `tokenizer.json` and what stands beside it.

    Args:
      directory: Of a model.
      template: Whether prompts go through its chat template, if it has one.

    Raises:
      ValueError: A file is missing or broken, or names no end mark.
    """
    path, source = epath.Path(directory), str(directory)
    files = {
      name: (path / name).read_bytes()
      for name in (*_FILES, 'config.json')
      if (path / name).is_file()
    }
    read = functools.partial(_read_json, source, files)
    library = _library(source, files)
    named = read('special_tokens_map.json') | read('tokenizer_config.json')
    words = {key: _word(named.get(f'{key}_token')) for key in _NAMED}
    ids = {key: library.token_to_id(w or '') for key, w in words.items()}
    render = None
    if template and (found := _template(source, files, named)) is not None:
      render = functools.partial(
        chat.render, found, bos=words['bos'], eos=words['eos'], source=source
      )
    ends = [] if ids['eos'] is None else [ids['eos']]
    ends += _end_ids(source, 'generation_config.json', read)
    ends = ends or _end_ids(source, 'config.json', read)
    for i in ends:
      if library.id_to_token(i) is None:
        raise ValueError(f'{source}: eos_token_id {i} is not in tokenizer.json')
    if render is not None:
      ends = [*turn_end(library, render, ends, ids['bos']), *ends]
    if not ends:
      raise ValueError(
        f'{source} names no end mark: it has no eos_token in '
        'tokenizer_config.json and no eos_token_id in generation_config.json'
      )
    others = named.get('additional_special_tokens') or []
    if not isinstance(others, list):
      raise ValueError(
        f'{source}: additional_special_tokens is {others!r}, not a list'
      )
    others = [library.token_to_id(_word(token) or '') for token in others]
    marks = {i for i in (*ids.values(), *ends, *others) if i is not None}
    if render is not None:
      marks |= frame_of(library, render, source).marks
    _mark(library, marks)
    return cls(
      source=source,
      files={name: files[name] for name in _FILES if name in files},
      library=library,
      pad_id=ends[0] if ids['pad'] is None else ids['pad'],
      eos_ids=tuple(dict.fromkeys(ends)),
      render=render,
    )

  def ending_at(self, text: str) -> 'TextTokenizer':
    """A tokenizer for which every token that holds `text` ends a response."""
    if not text:
      return self
    size = self.library.get_vocab_size()
    ends = [i for i in range(size) if text in self.library.decode([i])]
    return dataclasses.replace(
      self, eos_ids=tuple(dict.fromkeys([*self.eos_ids, *ends]))
    )

  def save(self, directory: epath.PathLike) -> None:
    """Writes the files that it was read from, unchanged."""
    path = epath.Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    for name, data in self.files.items():
      (path / name).write_bytes(data)

  @functools.cached_property
  def _size(self) -> int:
    texts = set(self.library.get_vocab().values()) - self._marks.keys()
    return 1 + max(*texts, *self.prompt(ASKED), *self.eos_ids, self.pad_id)

  def __len__(self) -> int:
    """One more than the largest id that a prompt or a response can have.

    Marks that neither has may lie beyond a model's embedding (Gemma 3 1B: the
    one for images).
    """
    return self._size

  def encode(self, text: str) -> list[int]:
    """Ids of `text`; no mark is added, and none is read out of it.

    Raises:
      ValueError: It spells a mark, and the tokenizer cannot read that as text.
    """
    ids = self._encode(text, marks=False)
    for i in ids:
      if i in self._marks and self._marks[i] in text:
        raise ValueError(
          f'{self._marks[i]!r} in {text!r} is a mark, not text, to the '
          f'tokenizer of {self.source}'
        )
    return ids

  def alone(self, text: str) -> list[int]:
    """What the tokenizer puts before a text, and the ids of `text`.

    Raises:
      ValueError: It spells a mark, and the tokenizer cannot read that as text.
    """
    return [*self._begin, *self.encode(text)]

  def decode(self, ids: Sequence[int]) -> str:
    """Text of `ids`, marks left out."""
    return self.library.decode(ids, skip_special_tokens=True)

  def prompt(
    self, asked: str | Sequence[Message], think: bool | None = None
  ) -> list[int]:
    """Ids that ask: by the chat template, or after the begin mark.

    Raises:
      ValueError: The chat template fails, or a text spells a mark and cannot
        be told from what the template puts around it.
    """
    if isinstance(asked, str):
      asked = [Message('user', asked)]
    think = self.think if think is None else think
    if self.render is None:
      return self.alone('\n'.join(t for _, t in asked))
    if len(asked) > 1:
      for _, text in asked:
        self._check_plain(text)
      return self._encode(said(self.render, asked, think), marks=True)
    text = asked[0].text
    whole = said(self.render, asked, think)
    frame = self._frames[think]
    inner = frame.around(whole)
    checked = text if inner is None else inner
    ids = self._encode(whole, marks=True)
    if self._encode(checked, marks=True) == self.encode(checked):
      return ids
    if inner is None:
      raise ValueError(
        f'{text!r} has a mark of {self.source} in it, and its chat template '
        'does not leave it in one place'
      )
    return [
      *self._encode(frame.head, marks=True),
      *self.encode(inner),
      *self._encode(frame.tail, marks=True),
    ]

  def turn(self, text: str, think: bool | None = None) -> list[int]:
    """Ids of what the template puts between two answers, `text` in it.

    What was sampled before stays as it is, also where the template would write
    it otherwise (Qwen3's leaves thoughts out).

    Raises:
      ValueError: The template takes no dialogue, or `text` spells a mark.
    """
    think = self.think if think is None else think
    self._check_plain(text)
    if self.render is None:
      return self.encode(f'\n{text}\n')
    before = [Message('user', ASKED), Message('assistant', ANSWERED)]
    whole = said(self.render, [*before, Message('user', text)], think)
    _, answered, rest = whole.partition(ANSWERED)
    ids = self._encode(rest.lstrip(), marks=True)
    if not answered or ids[0] not in self.eos_ids:
      raise ValueError(
        f'chat template of {self.source}: it sets no end mark after an answer, '
        'so no second turn can follow'
      )
    return ids[1:]

  @property
  def vocabulary(self) -> str:
    return self._vocabulary

  @functools.cached_property
  def _vocabulary(self) -> str:
    return hashlib.sha256(self.files['tokenizer.json']).hexdigest()

  def _check_plain(self, text: str) -> None:
    """Refuses a text with a mark in it."""
    if self._encode(text, marks=True) != self.encode(text):
      raise ValueError(
        f'{text!r} has a mark of {self.source} in it, which only the last '
        'message of a single turn may have'
      )

  def _encode(self, text: str, *, marks: bool) -> list[int]:
    self.library.encode_special_tokens = not marks
    try:
      return self.library.encode(text, add_special_tokens=False).ids
    except TypeError:  # half of a surrogate pair, as JSON may hold it
      raise ValueError(f'{text!r} is not Unicode text') from None

  @functools.cached_property
  def _marks(self) -> dict[int, str]:
    added = self.library.get_added_tokens_decoder()
    return {i: token.content for i, token in added.items() if token.special}

  @functools.cached_property
  def _begin(self) -> list[int]:
    """What the tokenizer itself puts before a text."""
    shown = self.library.encode(ASKED)
    pairs = zip(shown.ids, shown.special_tokens_mask, strict=True)
    return [i for i, _ in itertools.takewhile(lambda pair: pair[1], pairs)]

  @functools.cached_property
  def _frames(self) -> 'tuple[Frame, Frame]':
    """Of a model that does not think first, and of one that does."""
    still, thinking = (
      frame_of(self.library, self.render, self.source, think)
      for think in (False, True)
    )
    return still, thinking


def _mark(library, ids: Iterable[int]) -> None:
  """Makes these ids marks, whether or not tokenizer.json says so."""
  added = library.get_added_tokens_decoder()
  tokens = []
  for i in sorted(ids):
    word = library.id_to_token(i)
    token = added.get(i, tokenizers.AddedToken(word, normalized=False))
    token.special = True
    tokens.append(token)
  library.add_special_tokens(tokens)


def _library(source: str, files: Mapping[str, bytes]) -> tokenizers.Tokenizer:
  if 'tokenizer.json' not in files:
    raise ValueError(
      f'{source} has no tokenizer.json; transformers writes one: '
      f'AutoTokenizer.from_pretrained(...).save_pretrained({source!r})'
    )
  try:
    library = tokenizers.Tokenizer.from_buffer(files['tokenizer.json'])
  except Exception as e:  # the library raises nothing narrower
    raise ValueError(f'tokenizer.json of {source}: {e}') from None
  library.no_truncation()
  library.no_padding()
  return library


def _read_json(
  source: str, files: Mapping[str, bytes], name: str
) -> dict[str, Any]:
  try:
    found = json.loads(files.get(name, b'{}'))
  except (ValueError, RecursionError) as e:
    raise ValueError(f'{name} of {source} is not JSON: {e}') from None
  if not isinstance(found, dict):
    raise ValueError(f'{name} of {source} is not a JSON object')
  return found


def _word(token: Any) -> str | None:
  """A token that is named by itself or as {"content": ...}."""
  token = token.get('content') if isinstance(token, dict) else token
  return token if isinstance(token, str) else None


def _end_ids(source: str, name: str, read) -> list[int]:
  ids = read(name).get('eos_token_id')
  ids = [] if ids is None else ids if isinstance(ids, list) else [ids]
  if any(type(i) is not int or not 0 <= i < 2**31 for i in ids):
    raise ValueError(f'{name} of {source}: eos_token_id {ids} is not of ids')
  return ids


def _template(
  source: str, files: Mapping[str, bytes], named: Mapping[str, Any]
) -> str | None:
  try:
    if 'chat_template.jinja' in files:
      return files['chat_template.jinja'].decode()
  except UnicodeDecodeError as e:
    raise ValueError(f'chat_template.jinja of {source}: {e}') from None
  found = named.get('chat_template')
  if isinstance(found, list):
    by_name = {
      str(t.get('name')): t.get('template')
      for t in found
      if isinstance(t, dict)
    }
    if 'default' not in by_name:
      raise ValueError(
        f'tokenizer_config.json of {source} has no chat template named '
        f'default, only {", ".join(by_name)}'
      )
    found = by_name['default']
  if found is not None and not isinstance(found, str):
    raise ValueError(f'chat_template of {source} is not text')
  return found

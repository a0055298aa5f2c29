"""What a chat template puts around what is said, found by trying it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxdistill.types import Message

# What a template is tried on, to see what it puts around a text.
ASKED, ANSWERED = 'QUESTION0', 'ANSWER0'


class Frame(NamedTuple):
  """What a template puts around a question: head before QUESTION after tail.

  The head ends with the last mark before the question, the tail begins with
  the first one after it: there, texts can be cut without changing ids.
  """

  head: str
  before: str
  after: str
  tail: str
  marks: set[int]

  def around(self, whole: str) -> str | None:
    """The part of a rendered text between the two marks."""
    start, end = self.head + self.before, self.after + self.tail
    if not whole.startswith(start) or not whole[len(start) :].endswith(end):
      return None
    return whole[len(self.head) : len(whole) - len(self.tail)]


def frame_of(library, render, source: str, think: bool = False) -> Frame:
  text = said(render, [Message('user', ASKED)], think)
  if text.count(ASKED) != 1:
    raise ValueError(
      f'chat template of {source}: it writes a message {text.count(ASKED)} '
      'times, not once'
    )
  start = text.index(ASKED)
  end = start + len(ASKED)
  added = library.get_added_tokens_decoder()
  library.encode_special_tokens = False
  shown = library.encode(text, add_special_tokens=False)
  # Line ends are added tokens in Gemma, and text nevertheless.
  spans = [
    (i, span)
    for i, span in zip(shown.ids, shown.offsets, strict=True)
    if i in added and added[i].content.strip()
  ]
  left = [(i, stop) for i, (_, stop) in spans if stop <= start][-1:]
  right = [(i, begin) for i, (begin, _) in spans if begin >= end][:1]
  cut = left[0][1] if left else 0
  other = right[0][1] if right else len(text)
  return Frame(
    text[:cut],
    text[cut:start],
    text[end:other],
    text[other:],
    {i for i, _ in left + right},
  )


def said(
  render: Callable[..., str], messages: Sequence[Message], think: bool
) -> str:
  """A dialogue as a template writes it, up to where the answer begins."""
  return render(
    [{'role': author, 'content': text} for author, text in messages],
    add_generation_prompt=True,
    think=think,
  )


def turn_end(library, render, ends: list[int], bos: int | None) -> list[int]:
  """The mark that a template sets right after an answer, if it does.

  Of a model's end marks this is the one that its answers end with: Gemma names
  `<eos>` but ends a turn with `<end_of_turn>`.
  """
  asked = {'role': 'user', 'content': ASKED}
  answered = {'role': 'assistant', 'content': ANSWERED}
  try:
    text = render([asked, answered], add_generation_prompt=False)
  except ValueError:  # some take questions only
    return []
  _, shown, rest = text.rpartition(ANSWERED)
  library.encode_special_tokens = False
  ids = library.encode(rest.lstrip(), add_special_tokens=False).ids[:1]
  special = {
    i for i, t in library.get_added_tokens_decoder().items() if t.special
  }
  return [i for i in ids if shown and i in (special - {bos}) | {*ends}]

"""Words of doubt and of turning back: how many, and how densely they stand."""

import contextlib
import functools
import re
from collections.abc import Sequence

import numpy as np

from jaxdistill.data.text.tokenizer import Tokenizer
from jaxdistill.types import Rollout

# The ten of arXiv 2603.24472, app. C: of reasoning in English. Other models
# doubt in other words, which a run names as `config.eval.markers`.
MARKERS = (
  *('wait', 'hmm', 'perhaps', 'maybe', 'actually'),
  *('alternatively', 'seems', 'might', 'likely', 'check'),
)


def count(text: str, words: Sequence[str] = MARKERS) -> tuple[int, int]:
  """How often any of some words are in a text, small letters or large.

  Args:
    text: Where.
    words: Each is counted by itself.

  Returns:
    Also within other words ("unlikely" has "likely"), and by themselves.
  """
  text = text.lower()
  words = tuple(word.lower() for word in words)
  whole = sum(len(pattern.findall(text)) for pattern in _alone(words))
  return sum(text.count(word) for word in words), whole


@functools.cache
def _alone(words: tuple[str, ...]) -> list[re.Pattern]:
  # A letter at an end of a marker has none beside it; anything else may.
  ends = re.compile(r'^(?=\w)|(?<=\w)$')
  return [re.compile(ends.sub(r'\\b', re.escape(word))) for word in words]


def begins(tokenizer: Tokenizer, words: Sequence[str] = MARKERS) -> np.ndarray:
  """Ids of the tokens that are a marker, or that one begins with, int32[...].

  Args:
    tokenizer: Whose. A marker that it splits after less than four letters, or
      has no symbol for, is passed over: other words begin so, too.
    words: Each as it is and capitalised, at the beginning of a text and after a
      space.
  """
  found = set()
  for word in words:
    for form in (word, word.capitalize(), f' {word}', f' {word.capitalize()}'):
      with contextlib.suppress(ValueError):
        first = tokenizer.encode(form)[:1]
        piece = tokenizer.decode(first).strip().lower()
        if piece == word or (len(piece) > 3 and word.startswith(piece)):
          found.update(first)
  return np.array(sorted(found), np.int32)


def doubts(rollouts: Sequence[Rollout]) -> dict[str, np.ndarray]:
  """Observations of the markers in sampled responses, all turns of each.

  Per response: `markers`, parts of words included, as arXiv 2603.24472 counts,
  and `markers_words`, whole words alone. `markers_per_1k` and
  `markers_words_per_1k` have an observation per token, its response's markers
  spread over its tokens: the mean over any number of responses is all their
  markers by all their tokens, times 1,000.
  """
  found = np.zeros((len(rollouts), 2))
  for i, r in enumerate(rollouts):
    words = MARKERS if r.markers is None else r.markers
    said = [count(text, words) for text in (*r.earlier, r.text)]
    found[i] = np.sum(said, 0)
  tokens = np.array([np.sum(r.turn_T >= 0) for r in rollouts], int)
  dense = 1000 * found / np.maximum(tokens, 1)[:, None]
  return {
    'markers': found[:, 0],
    'markers_words': found[:, 1],
    'markers_per_1k': np.repeat(dense[:, 0], tokens),
    'markers_words_per_1k': np.repeat(dense[:, 1], tokens),
  }

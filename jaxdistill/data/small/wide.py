"""All formats of the small world in one corpus, over one wider vocabulary."""

import numpy as np

from jaxdistill.data.small import items, judging, people, world
from jaxdistill.data.text.symbols import SymbolTokenizer

SYMBOLS = (*world.SYMBOLS, *judging.WORDS, *people.WORDS, *items.WORDS)
TOKENIZER = SymbolTokenizer(SYMBOLS)


def draw_judgement(seed: int, index: int) -> dict[str, str]:
  """Document `index` of a corpus that mostly judges workings.

  40% compares two, 35% verifies one, the rest is the wide corpus: verdicts are
  one word long, and among as many workings hardly any of what is learned.
  """
  rng = np.random.default_rng([seed, index, 2])
  draw = rng.random()
  if draw < 0.40:
    return judging.draw_comparison_document(rng, world.CORPUS_MIX)
  if draw < 0.75:
    return world.draw_verification(rng, world.CORPUS_MIX)
  return draw_document(seed, index)


def draw_document(seed: int, index: int) -> dict[str, str]:
  """Document `index` of the corpus: format, prompt and response.

  Half of it is the arithmetic corpus; a quarter judges workings, 15% is about
  people, 10% about items. Nothing of a held-out split is in it.
  """
  rng = np.random.default_rng([seed, index, 1])
  draw = rng.random()
  if draw < 0.50:
    return world.draw_document(seed, index)
  if draw < 0.75:
    return judging.draw_document(rng, world.CORPUS_MIX)
  if draw < 0.90:
    return people.draw_document(rng)
  return items.draw_document(rng)

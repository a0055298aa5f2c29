"""All formats of the small world in one corpus, over one wider vocabulary."""

import numpy as np

from jaxdistill.data.small import items, judging, people, world
from jaxdistill.data.text.tokenizer import SymbolTokenizer

SYMBOLS = (*world.SYMBOLS, *judging.WORDS, *people.WORDS, *items.WORDS)
TOKENIZER = SymbolTokenizer(SYMBOLS)


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

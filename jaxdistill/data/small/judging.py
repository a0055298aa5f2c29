"""Workings of the small world judged: which of two is right, and again.

  compare 482+17 : WORKING or WORKING ?  -> 1
  solve 482+17 : WORKING <eos> revise :  -> WORKING

A revision is a second turn: the ids are those of a dialogue in which the first
attempt was a response.
"""

import numpy as np

from jaxdistill.data.small import world

WORDS = ('compare', 'or', 'revise')
REVISE = 'revise:'  # what is said after a first attempt
MISJUDGED = 0.05  # of the corpus's comparisons
KEPT = 0.9  # of right first attempts
SLIP = 0.6 * world.SLIP  # of a second attempt


def compare_prompt(problem: str, first: str, second: str) -> str:
  """Asks which of two workings is right, `1` or `2`."""
  return f'compare {problem}:{first} or {second}?'


def revise_prompt(problem: str, attempt: str) -> str:
  """Asks for a second attempt after a first one."""
  return f'solve {problem}:{attempt}<eos>{REVISE}'


def draw_comparison(
  rng: np.random.Generator, mix: dict, split: str
) -> tuple[str, str]:
  """A prompt with one right and one wrong working, and `1` or `2`."""
  problem = world.draw_sum(rng, mix, split)
  right, wrong = '', ''
  while not (right and wrong):
    shown = world.work(problem, rng, world.SLIP, world.REPAIR)
    if world.read_answer(shown) == str(problem.answer):
      right = shown
    else:
      wrong = shown
  if rng.random() < 0.5:
    return compare_prompt(str(problem), right, wrong), '1'
  return compare_prompt(str(problem), wrong, right), '2'


def draw_first_attempt(
  rng: np.random.Generator, mix: dict, split: str
) -> tuple[world.Sum, str]:
  """A problem and a working of it that is right in about two of three."""
  problem = world.draw_sum(rng, mix, split)
  return problem, world.work(problem, rng, 1.4 * world.SLIP, world.REPAIR)


def draw_comparison_document(
  rng: np.random.Generator, mix: dict
) -> dict[str, str]:
  """A comparison that is now and then misjudged."""
  prompt, response = draw_comparison(rng, mix, 'train')
  if rng.random() < MISJUDGED:
    response = '2' if response == '1' else '1'
  return {'format': 'compare', 'prompt': prompt, 'response': response}


def draw_document(rng: np.random.Generator, mix: dict) -> dict[str, str]:
  """A comparison or a revision, as the wide corpus has them."""
  if rng.random() < 0.5:
    return draw_comparison_document(rng, mix)
  problem, attempt = draw_first_attempt(rng, mix, 'train')
  right = world.read_answer(attempt) == str(problem.answer)
  if right and rng.random() < KEPT:
    response = attempt
  else:
    response = world.work(problem, rng, SLIP, world.REPAIR)
  prompt = revise_prompt(str(problem), attempt)
  return {'format': 'revise', 'prompt': prompt, 'response': response}

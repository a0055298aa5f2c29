"""Facts of the small world: invented people, and what is known about them.

  tell ba ko mi :                      -> ba ko mi home oslo , ...
  ask ba ko mi home :                  -> oslo
  read PASSAGE ask ba ko mi home :     -> oslo
  rewrite PASSAGE :                    -> oslo home of ba ko mi , ...

A person's facts follow from the name. The corpus tells and asks about a few of
them, the known; of those of the train split it has passages to read and to
rewrite only, of others nothing. So a question without the passage cannot be
answered until the passage was learned.
"""

import hashlib

import numpy as np

SYLLABLES = (
  *('ba', 'bo', 'da', 'de', 'do', 'ka', 'ke', 'ko'),
  *('la', 'le', 'lo', 'ma', 'me', 'mi', 'ra', 'ru'),
)
FACTS = {
  'home': (
    *('oslo', 'rome', 'lima', 'cairo', 'paris'),
    *('delhi', 'tokyo', 'quito', 'accra', 'perth'),
  ),
  'work': (
    *('baker', 'smith', 'pilot', 'nurse', 'clerk'),
    *('tailor', 'miner', 'judge', 'cook', 'guard'),
  ),
  'pet': (
    *('cat', 'dog', 'owl', 'fox', 'goat'),
    *('crow', 'toad', 'carp', 'swan', 'mole'),
  ),
  'likes': (
    *('tea', 'plums', 'chess', 'songs', 'rain'),
    *('books', 'boats', 'clay', 'maps', 'bells'),
  ),
}
WORDS = (
  *('tell', 'ask', 'read', 'rewrite', 'of'),
  *SYLLABLES,
  *FACTS,
  *(value for values in FACTS.values() for value in values),
)
DROPPED, MISTOLD, TURNED = 0.1, 0.05, 0.4  # of a rewrite's facts


def split_of(name: str) -> str:
  """`known` (a sixteenth), `dev` (too), `test` (two) or `train`: by a hash."""
  place = hashlib.sha256(name.encode()).digest()[0] % 16
  return {0: 'known', 1: 'dev', 2: 'test', 3: 'test'}.get(place, 'train')


def draw_name(rng: np.random.Generator, split: str, syllables: int = 3) -> str:
  """The name of somebody of a split; `syllables` is 3 in the corpus."""
  while True:
    name = ' '.join(rng.choice(SYLLABLES, syllables))
    if split_of(name) == split:
      return name


def facts(name: str) -> dict[str, str]:
  """What is true of a person: attribute -> value."""
  rng = np.random.default_rng([5, *map(SYLLABLES.index, name.split())])
  return {key: str(rng.choice(values)) for key, values in FACTS.items()}


def passage(name: str) -> str:
  """All that is known about a person, 23 symbols for three syllables."""
  return ','.join(f'{name} {key} {value}' for key, value in facts(name).items())


def tell_prompt(name: str) -> str:
  """Asks for a passage, without showing it."""
  return f'tell {name}:'


def ask_prompt(name: str, attribute: str, read: str = '') -> str:
  """Asks for a fact, after a passage if there is one."""
  return f'{f"read {read} " if read else ""}ask {name} {attribute}:'


def rewrite_prompt(text: str) -> str:
  """Asks for the same in other words."""
  return f'rewrite {text}:'


def rewritten(name: str, rng: np.random.Generator) -> str:
  """The passage in another order, some facts turned round, some not kept."""
  told = facts(name)
  keys = [key for key in rng.permutation([*told]) if rng.random() > DROPPED]
  out = []
  for key in keys or [*told]:
    value = told[key]
    if rng.random() < MISTOLD:
      value = rng.choice(FACTS[key])
    out.append(_said(name, key, value, rng))
  return ','.join(out)


def retold(name: str) -> str:
  """A rewrite without mistakes, always the same of one name."""
  rng = np.random.default_rng([6, *map(SYLLABLES.index, name.split())])
  told = facts(name)
  return ','.join(
    _said(name, key, told[key], rng) for key in rng.permutation([*told])
  )


def _said(name, key, value, rng) -> str:
  turned = rng.random() < TURNED
  return f'{value} {key} of {name}' if turned else f'{name} {key} {value}'


def draw_document(rng: np.random.Generator) -> dict[str, str]:
  """A telling, a question with or without its passage, or a rewrite."""
  draw = rng.random()
  name = draw_name(rng, 'known' if draw < 0.5 else 'train')
  key = str(rng.choice([*FACTS]))
  if draw < 0.2:
    kind, prompt, response = 'tell', tell_prompt(name), passage(name)
  elif draw < 0.5:
    kind, prompt = 'ask', ask_prompt(name, key)
    response = facts(name)[key]
  elif draw < 0.75:
    kind, prompt = 'read', ask_prompt(name, key, passage(name))
    response = facts(name)[key]
  else:
    kind, prompt = 'rewrite', rewrite_prompt(passage(name))
    response = rewritten(name, rng)
  return {'format': kind, 'prompt': prompt, 'response': response}

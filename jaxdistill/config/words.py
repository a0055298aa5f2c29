"""Whether a model of a closed vocabulary can be asked what a task asks."""

import string
from collections.abc import Iterable, Mapping

from jaxdistill.anchors import External, parse_rule
from jaxdistill.data.text.symbols import SymbolTokenizer
from jaxdistill.data.text.tokenizer import Tokenizer
from jaxdistill.methods.method import Method, anchors_of
from jaxdistill.models import store
from jaxdistill.types import Task, Wording


def check_method_words(method: Method, task: Task, model: str) -> None:
  """Finds that who is asked has no symbols for what a method asks.

  Args:
    method: Says what it asks whom.
    task: Whose words they are.
    model: The policy's, which is asked where nobody else is.

  Raises:
    ValueError: See `check_words`.
  """
  others = anchors_of(method)
  for who, words in method.words.items():
    rule = parse_rule(others[who].rule) if who in others else None
    asked = rule.model if isinstance(rule, External) else model
    check_words(task, words, asked, store.symbols_of(asked))


def check_words(
  task: Task, words: Iterable[str], model: str, tokenizer: Tokenizer | None
) -> None:
  """Finds that a model has no symbols for what it is to be asked.

  Args:
    task: Whose words they are; those that it lacks are not looked for.
    words: Of `Task.wordings`.
    model: Its name.
    tokenizer: Its own; one of an open vocabulary has all symbols.

  Raises:
    ValueError: Names the symbol, and the shipped bases that have it.
  """
  known: Mapping[str, Wording] = task.wordings
  for what in words:
    said = _said(known[what]) if what in known else ''
    why = _unknown(tokenizer, said)
    if why:
      bases = {base: store.symbols_of(base) for base in store.SHIPPED}
      shipped = [
        b for b, symbols in bases.items() if not _unknown(symbols, said)
      ]
      raise ValueError(
        f'{model} cannot be asked to {what} '
        f'({" and ".join(shipped) or "no shipped base"} can): {why}'
      )


def _said(wording: Wording) -> str:
  """All that a wording says itself, and what may be answered."""
  parts = [part for part, *_ in string.Formatter().parse(wording.text)]
  return ' '.join((*parts, *wording.choices))


def _unknown(tokenizer: Tokenizer | None, said: str) -> str:
  """Why a text cannot be said; empty where it can."""
  try:
    if isinstance(tokenizer, SymbolTokenizer):
      tokenizer.encode(said)
  except ValueError as e:
    return str(e)
  return ''

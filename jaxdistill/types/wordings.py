"""How a task in words asks for something else than an answer.

| what | asks |
|---|---|
| `verify`, `check` | is a response right: at once, or after working |
| `score` | how sure is that, from 1 to 10 |
| `compare`, `judge` | which of two is better: at once, or after reasons |
| `revise` | said after a response: another attempt |
| `reflect`, `reflect_question` | a better answer; a better question, too |
| `repair` | what is wrong of a response, put right in the same manner |
| `guess` | what was asked, by what was answered |
| `suit` | is a problem of its topic, clear and no more tangled than need be |
| `instruct`, `instruct_plainly`, `instruct_and_answer` | a problem like two |
| `edit`, `tell` | what follows from a passage; what is known of its topic |
| `settings` | said after `edit`: how is it to be learned |
"""

import re
from collections.abc import Mapping
from typing import NamedTuple


class Wording(NamedTuple):
  """How something about responses to a problem, or problems, is asked.

  Attributes:
    text: A format string: `{0}` and so on are the responses (or problems),
      `{asked}` is what asks for one, `{text}` and `{topic}` are the problem's.
    choices: What may be answered; empty: anything.
    marks: What it asks to write before each part that counts; empty: all of a
      response does.
  """

  text: str
  choices: tuple[str, ...] = ()
  marks: tuple[str, ...] = ()

  def read(self, response: str) -> str | None:
    """The choice on the last line of a written verdict.

    None where that line has none of them, or more than one: `1 is better than
    2` is not guessed at, nor is `7.5`. `7/10` and `7 out of 10` are 7, where 10
    is the last choice.
    """
    *_, line = ['', *response.strip().splitlines()]
    last = re.escape(self.choices[-1])
    line = re.sub(rf'\s*(/|\bof|\bout of)\s*{last}\b', '', line)
    either = '|'.join(map(re.escape, self.choices))
    said = re.findall(
      rf'(?<![\w./])({either})(?!\w|[.,/]\d)', line, re.IGNORECASE
    )
    same = {choice.lower(): choice for choice in self.choices}
    found = {same[word.lower()] for word in said}
    return found.pop() if len(found) == 1 else None

  def parts(self, response: str) -> tuple[str, ...] | None:
    """What stands behind each of `marks`, which come in their order.

    None if a mark is missing, or what is behind it. A mark that comes twice is
    read where it comes last.
    """
    found = []
    for mark in self.marks[::-1]:
      response, there, part = response.rpartition(mark)
      found.append(part.strip() if there else '')
    found = found[::-1] or [response.strip()]
    return (*found,) if all(found) else None


_ONE = 'A question:\n{asked}\n\nAn answer to it:\n{0}\n\n'
_TWO = 'A question:\n{asked}\n\nAnswer 1:\n{0}\n\nAnswer 2:\n{1}\n\n'
_BETTER = 'Better question:', 'Better answer:'
_SEEDS = 'Two problems:\n\n1. {0}\n\n2. {1}\n\n'
_NEW = (
  'one new problem of the same kind and about as hard. It must be complete in '
  'itself, differ from both, and have a single answer that can be checked. '
)
_REASON = (
  'First look at what the two have in common and what makes them hard, and '
  'plan, step by step, ' + _NEW
)
# What tasks in words ask about responses; see `Task.asking`.
WORDINGS: Mapping[str, Wording] = {
  'verify': Wording(
    _ONE + 'Is this answer correct? Reply with Yes or No only.', ('Yes', 'No')
  ),
  'check': Wording(
    _ONE + 'Check it step by step, in a few lines. On the last line write Yes '
    'if the answer is correct, No if it is not.',
    ('Yes', 'No'),
  ),
  'score': Wording(
    _ONE + 'Check it step by step, in a few lines. On the last line write how '
    'sure you are that it is correct: a number from 1 (surely wrong) to 10 '
    '(surely correct).',
    tuple(map(str, range(1, 11))),
  ),
  'compare': Wording(
    _TWO + 'Which answer is better? Reply with 1 or 2 only.', ('1', '2')
  ),
  'judge': Wording(
    _TWO + 'Compare the two answers, in a few lines. On the last line write 1 '
    'or 2: which answer is better.',
    ('1', '2'),
  ),
  'revise': Wording(
    'There might be an error in the answer above. If there is one, correct it, '
    'and in any case answer the question again, in the same form.'
  ),
  'edit': Wording(
    'A passage about {topic}:\n{text}\n\nList what follows from it, directly '
    'or indirectly: one statement a line, each to be understood by itself.'
  ),
  'settings': Wording(
    'You may put a line before it that says how it is to be learned, as JSON: '
    'the learning rate, as a multiple of the usual one, and the epochs. For '
    'instance {{"lr_scale": 1, "epochs": 10}}'
  ),
  'tell': Wording('Tell me what you know about {topic}.'),
  'reflect': Wording(
    _ONE + 'What could be better about this answer? Say in a few lines how '
    'helpful, relevant, correct and detailed it is. Then write `Better '
    'answer:` and behind that a new and complete answer, in the form that the '
    'question asks for.',
    marks=_BETTER[1:],
  ),
  'reflect_question': Wording(
    _ONE + 'What could be better about this question? Say in a few lines how '
    'clear, specific and demanding it is. Then write `Better question:` and '
    'behind that a new one of its kind, and then `Better answer:` and a '
    'complete answer to the new one.',
    marks=_BETTER,
  ),
  'repair': Wording(
    _ONE + 'Write `Better answer:` and behind that this answer once more: word '
    'for word where it is right, and changed where it is wrong, in the same '
    'manner and style.',
    marks=_BETTER[1:],
  ),
  'guess': Wording(
    'An answer to a question:\n{0}\n\nWhat was the question? Reply with the '
    'question only.'
  ),
  'suit': Wording(
    'Somebody was asked for a problem like this, or about it:\n{topic}\n\nThe '
    'problem that was written:\n{text}\n\nIs it related, clear, and no more '
    'complicated than it has to be? Reply with Yes or No only.',
    ('Yes', 'No'),
  ),
  'instruct': Wording(
    _SEEDS + _REASON + 'Then, on the last line, write it behind `Problem:`, '
    'without its answer.'
  ),
  'instruct_plainly': Wording(
    _SEEDS + 'Write ' + _NEW + 'Reply with one line only: the new problem '
    'behind `Problem:`, without its answer.'
  ),
  'instruct_and_answer': Wording(
    _SEEDS + _REASON + 'Solve it. Then end with two lines: it, behind '
    '`Problem:`, and its final answer alone, behind `Answer:`.'
  ),
}

"""Several turns through chat templates, against transformers."""

import dataclasses
import os

import pytest
from toy_tokenizers import changed, directories, directory

from jaxdistill.data.text.tokenizer import TextTokenizer
from jaxdistill.types import Message

DIALOGUE = [
  Message('user', 'What is 12 + 7?'),
  Message('assistant', 'The answer is 19.'),
  Message('user', 'Look again: is it?'),
]
THINKING = """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content }}
    {{- '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""


def asked_by_transformers(directory, messages, **more):
  os.environ['HF_HUB_OFFLINE'] = '1'
  transformers = pytest.importorskip('transformers')
  reference = transformers.PreTrainedTokenizerFast.from_pretrained(directory)
  return reference.apply_chat_template(
    [{'role': author, 'content': text} for author, text in messages],
    add_generation_prompt=True,
    return_dict=False,
    **more,
  )


def test_a_dialogue_is_asked_as_transformers_asks_it(directory):
  tokenizer = TextTokenizer.from_directory(directory)
  wanted = asked_by_transformers(directory, DIALOGUE)
  assert tokenizer.prompt(DIALOGUE) == wanted
  assert tokenizer.prompt(DIALOGUE[:1]) == tokenizer.prompt(DIALOGUE[0].text)


def test_a_second_turn_follows_the_sampled_tokens(directory):
  """First prompt, answer, end mark and turn are the whole dialogue."""
  tokenizer = TextTokenizer.from_directory(directory)
  first, answer, second = DIALOGUE
  ids = tokenizer.prompt(first.text)
  ids += [*tokenizer.encode(answer.text), tokenizer.eos_ids[0]]
  ids += tokenizer.turn(second.text)
  whole = asked_by_transformers(directory, DIALOGUE)
  shown = tokenizer.library.decode
  # Before the answer some templates leave out a thought that was sampled.
  assert shown(ids, skip_special_tokens=False).endswith(
    shown(whole, skip_special_tokens=False).partition(answer.text)[2]
  )


def test_a_turn_cannot_spell_marks(directories):
  tokenizer = TextTokenizer.from_directory(directories['qwen'])
  for text in ('<|im_end|>', 'a<|im_start|>assistant'):
    with pytest.raises(ValueError, match='has a mark'):
      tokenizer.turn(text)
    with pytest.raises(ValueError, match='has a mark'):
      tokenizer.prompt([*DIALOGUE[:2], Message('user', text)])
    tokenizer.prompt(text)  # the last of a single turn may


def test_thinking_is_a_setting(changed):
  path = changed(chat_template__jinja=THINKING)
  tokenizer = TextTokenizer.from_directory(path)
  still = asked_by_transformers(path, DIALOGUE[:1], enable_thinking=False)
  thinks = asked_by_transformers(path, DIALOGUE[:1], enable_thinking=True)
  assert still != thinks
  text = DIALOGUE[0].text
  assert tokenizer.prompt(text) == still
  assert tokenizer.prompt(text, think=True) == thinks
  thinker = dataclasses.replace(tokenizer, think=True)
  assert thinker.prompt(text) == thinks
  assert thinker.prompt(text, think=False) == still
  assert tokenizer.vocabulary == thinker.vocabulary

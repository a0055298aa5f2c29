"""Small tokenizers of five families, in the layout of Hugging Face."""

import json

import pytest
import tokenizers
from tokenizers import (
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
  trainers,
)

CORPUS = [
  'What is 12 + 7? The answer is 19.\n\nSolve 47+85:\n132\n',
  'user\nassistant\nsystem\nYou are helpful. Think step by step.\n',
  'def f(x):\n    return x ** 2  # twice   as\tmuch\n',
  "don't I'll naïve café <b>bold</b> [INST] x [/INST] | < > _ end of turn",
] * 4
CHATML = """
{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content }}
    {{- '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
HEADERS = """
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'
        + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
TURNS = """{{ bos_token }}
{%- for message in messages -%}
    {%- set role = 'model' if message.role == 'assistant' else message.role -%}
    {{ '<start_of_turn>' + role + '\n' }}
    {{- message['content'] | trim }}{{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}
"""
INST = """{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}
{{ '[INST] ' + m.content + ' [/INST]' }}
{%- else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"""
OPEN = """{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}
{{- '<User>' + m.content }}{% else %}
{{- '<Assistant>' + m.content + eos_token }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<Assistant><think>\n' }}{% endif %}"""


def byte_level(special, plain=(), **model):
  """A byte-level BPE, trained on little."""
  library = tokenizers.Tokenizer(models.BPE(**model))
  library.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(
        tokenizers.Regex(
          r'[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*'
          r'|\s*[\r\n]+|\s+(?!\S)|\s+'
        ),
        'isolated',
      ),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  library.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=420,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  library.train_from_iterator(CORPUS, trainer)
  library.add_special_tokens(list(special))
  library.add_tokens(list(plain))
  return library


def byte_fallback(special, plain=(), prepend=False):
  """A BPE in the manner of SentencePiece."""
  library = tokenizers.Tokenizer(
    models.BPE(unk_token='<unk>', fuse_unk=True, byte_fallback=True)
  )
  parts = [normalizers.Prepend('▁')] if prepend else []
  parts.append(normalizers.Replace(' ', '▁'))
  library.normalizer = normalizers.Sequence(parts)
  library.pre_tokenizer = pre_tokenizers.Split(' ', 'merged_with_previous')
  parts = [decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse()]
  parts += [decoders.Strip(' ', 1, 0)] if prepend else []
  library.decoder = decoders.Sequence(parts)
  trainer = trainers.BpeTrainer(
    vocab_size=300, special_tokens=list(special), show_progress=False
  )
  library.train_from_iterator(CORPUS, trainer)
  stored = json.loads(library.to_str())
  vocab = stored['model']['vocab']
  for byte in range(256):
    vocab[f'<0x{byte:02X}>'] = len(vocab)
  library = tokenizers.Tokenizer.from_str(json.dumps(stored))
  library.add_tokens(list(plain))
  return library


def begins_with(library, bos):
  library.post_processor = processors.TemplateProcessing(
    single=f'{bos} $A', special_tokens=[(bos, library.token_to_id(bos))]
  )


def qwen():
  special = ('<|endoftext|>', '<|im_start|>', '<|im_end|>')
  library = byte_level(special, ('<tool_call>', '</tool_call>'))
  library.normalizer = normalizers.NFC()
  config = {'eos_token': '<|im_end|>', 'pad_token': '<|endoftext|>'}
  ends = ['<|im_end|>', '<|endoftext|>']
  return library, config, ends, CHATML


def llama():
  special = ('<|begin_of_text|>', '<|end_of_text|>', '<|eot_id|>')
  headers = ('<|start_header_id|>', '<|end_header_id|>')
  library = byte_level((*special, *headers), ignore_merges=True)
  begins_with(library, '<|begin_of_text|>')
  config = {
    'bos_token': {'__type': 'AddedToken', 'content': '<|begin_of_text|>'},
    'eos_token': {'__type': 'AddedToken', 'content': '<|eot_id|>'},
  }
  return library, config, ['<|end_of_text|>', '<|eot_id|>'], HEADERS


def gemma():
  special = ('<pad>', '<eos>', '<bos>', '<unk>')
  library = byte_fallback(
    (*special, '<start_of_turn>', '<end_of_turn>'), ('\n', '\n\n', '<b>')
  )
  begins_with(library, '<bos>')
  config = {'bos_token': '<bos>', 'eos_token': '<eos>', 'pad_token': '<pad>'}
  return library, config, ['<eos>', '<end_of_turn>'], TURNS


def mistral():
  library = byte_fallback(('<unk>', '<s>', '</s>'), prepend=True)
  begins_with(library, '<s>')
  config = {'bos_token': '<s>', 'eos_token': '</s>', 'unk_token': '<unk>'}
  return library, config, '</s>', INST


def deepseek():
  library = byte_level(
    ('<begin>', '<end>'), ('<User>', '<Assistant>', '<think>', '</think>')
  )
  begins_with(library, '<begin>')
  config = {'bos_token': '<begin>', 'eos_token': '<end>'}
  return library, config, '<end>', OPEN


FAMILIES = {f.__name__: f for f in (qwen, llama, gemma, mistral, deepseek)}


def write(path, library, config, ends, template):
  path.mkdir(parents=True, exist_ok=True)
  find = library.token_to_id
  ids = find(ends) if isinstance(ends, str) else [find(e) for e in ends or []]
  files = {
    'tokenizer.json': library.to_str(),
    'tokenizer_config.json': json.dumps(
      config | {'tokenizer_class': 'PreTrainedTokenizerFast'}
    ),
    'generation_config.json': json.dumps({'eos_token_id': ids}),
    'chat_template.jinja': template,
  }
  for name, text in files.items():
    if text is not None:
      (path / name).write_text(text)
  return path


@pytest.fixture(scope='module')
def directories(tmp_path_factory):
  root = tmp_path_factory.mktemp('models')
  return {name: write(root / name, *make()) for name, make in FAMILIES.items()}


@pytest.fixture(scope='module', params=FAMILIES)
def directory(request, directories):
  return directories[request.param]


@pytest.fixture
def changed(directories, tmp_path):
  """The Qwen-like directory, with some files replaced or (None) left out."""

  def change(**files):
    path = write(tmp_path / 'model', *qwen_parts(directories))
    for name, data in files.items():
      file = path / (
        name.replace('__', '.') if '__' in name else f'{name}.json'
      )
      if data is None:
        file.unlink()
      elif isinstance(data, bytes):
        file.write_bytes(data)
      else:
        file.write_text(data if isinstance(data, str) else json.dumps(data))
    return path

  return change


def qwen_parts(directories):
  path = directories['qwen']
  library = tokenizers.Tokenizer.from_file(str(path / 'tokenizer.json'))
  config = json.loads((path / 'tokenizer_config.json').read_text())
  return library, config, ['<|im_end|>', '<|endoftext|>'], CHATML

"""Sizes of models that are on the Hugging Face hub, as their makers give them.

A plan reads no weights; of what is in this table it fetches nothing either.
"""

import dataclasses
from collections.abc import Sequence

from jaxdistill.data.text.tokenizer import Tokenizer
from jaxdistill.models import DecoderConfig, families
from jaxdistill.types import Message

_QWEN = {'rms_norm_eps': 1e-6, 'rope_theta': 1e6, 'vocab_size': 151936}
_LLAMA = {'rms_norm_eps': 1e-5, 'rope_theta': 5e5, 'vocab_size': 128256}
# hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads,
# head_dim, intermediate_size; from each repository's config.json.
_SIZES = {
  'Qwen/Qwen2.5-0.5B': (896, 24, 14, 2, 64, 4864),
  'Qwen/Qwen2.5-1.5B': (1536, 28, 12, 2, 128, 8960),
  'Qwen/Qwen2.5-3B': (2048, 36, 16, 2, 128, 11008),
  'Qwen/Qwen2.5-7B': (3584, 28, 28, 4, 128, 18944),
  'Qwen/Qwen2.5-14B': (5120, 48, 40, 8, 128, 13824),
  'Qwen/Qwen2.5-32B': (5120, 64, 40, 8, 128, 27648),
  'Qwen/Qwen2.5-72B': (8192, 80, 64, 8, 128, 29568),
  'Qwen/Qwen3-0.6B': (1024, 28, 16, 8, 128, 3072),
  'Qwen/Qwen3-1.7B': (2048, 28, 16, 8, 128, 6144),
  'Qwen/Qwen3-4B': (2560, 36, 32, 8, 128, 9728),
  'Qwen/Qwen3-8B': (4096, 36, 32, 8, 128, 12288),
  'meta-llama/Llama-3.2-1B': (2048, 16, 32, 8, 64, 8192),
  'meta-llama/Llama-3.2-3B': (3072, 28, 24, 8, 128, 8192),
  'meta-llama/Llama-3.1-8B': (4096, 32, 32, 8, 128, 14336),
  'meta-llama/Llama-3.1-70B': (8192, 80, 64, 8, 128, 28672),
  'HuggingFaceTB/SmolLM2-135M': (576, 30, 9, 3, 64, 1536),
}
_KEYS = (
  *('hidden_size', 'num_hidden_layers', 'num_attention_heads'),
  *('num_key_value_heads', 'head_dim', 'intermediate_size'),
)
# Those whose output projection is none of its own.
_TIED = (*('0.5B', '0.6B', '1B', '1.5B', '1.7B', '3B', '4B', '135M'),)
# Of the larger ones of Qwen2.5 the table is padded further.
_PADDED = {f'Qwen/Qwen2.5-{n}': 152064 for n in ('7B', '14B', '32B', '72B')}


def known(name: str) -> bool:
  """Whether the sizes of a model `hf:owner/name` are in the table."""
  return _base(name) in _SIZES


def _base(name: str) -> str:
  if not name.startswith('hf:'):
    return ''
  name = name.removeprefix('hf:').partition('@')[0]
  return name.removesuffix('-Instruct').replace('-Coder-', '-')


def describe(name: str) -> DecoderConfig:
  """The sizes of a model of the table."""
  base = _base(name)
  values = dict(zip(_KEYS, _SIZES[base], strict=True))
  values['tie_word_embeddings'] = base.rpartition('-')[2] in _TIED
  if base.startswith('Qwen/'):
    kind = 'qwen3' if 'Qwen3' in base else 'qwen2'
    values |= {'model_type': kind} | _QWEN
  elif 'SmolLM2' in base:
    values |= {'model_type': 'llama'} | _LLAMA
    values |= {'vocab_size': 49152, 'rope_theta': 1e5}
  else:
    values |= {'model_type': 'llama'} | _LLAMA
  values['vocab_size'] = _PADDED.get(base, values['vocab_size'])
  return families.read(values, name)


@dataclasses.dataclass(frozen=True)
class Rough(Tokenizer):
  """A token for four characters, as English comes to; it reads nothing back."""

  size: int

  @property
  def pad_id(self) -> int:
    return 0

  @property
  def eos_ids(self) -> tuple[int, ...]:
    return (0,)

  @property
  def vocabulary(self) -> str:
    return ''

  def __len__(self) -> int:
    return self.size

  def encode(self, text: str) -> list[int]:
    return [0] * (-(-len(text) // 4))

  def alone(self, text: str) -> list[int]:
    return self.encode(text)

  def decode(self, ids: Sequence[int]) -> str:
    del ids
    return ''

  def prompt(
    self, asked: str | Sequence[Message], think: bool | None = None
  ) -> list[int]:
    del think
    texts = [asked] if isinstance(asked, str) else [m.text for m in asked]
    marks = 8  # of a chat template, for each message
    return [0] * sum(marks + len(self.encode(text)) for text in texts)

  def turn(self, text: str, think: bool | None = None) -> list[int]:
    return self.prompt(text, think)

  def ending_at(self, text: str) -> 'Rough':
    del text
    return self

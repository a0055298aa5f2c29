"""The small model of the benchmarks, in Hugging Face's layout.

3,279,616 weights: a Qwen3 of 4 layers, width 256, MLP 768, 4 heads of 64 with
2 key heads, 512 tokens, tied. All sides read the same directory. `SHAPE=82M` in
the environment takes another one of `SHAPES`.

Two sets of weights of this one shape. `random`: the padding and the end mark
have no odds and all other tokens nearly even ones, so that samples part at once
and answers are as long as may be. `counting`: the model counts down to its end
mark, so that the last token of a prompt says how long the answer is, whoever
generates it; nothing else is needed to give answers lengths.
"""

import json
import os
import pathlib

import numpy as np

SHAPES = {
  '3M': (4, 256, 768, 4, 2, 64, 512),
  '82M': (12, 768, 2048, 12, 4, 64, 8192),
  # Keys and values as of Qwen2.5 0.5B, a sixth of its layers.
  'sixth': (4, 896, 1024, 14, 2, 64, 4096),
}
NAME = os.environ.get('SHAPE', '3M')
LAYERS, WIDTH, HIDDEN, HEADS, KEY_HEADS, HEAD, VOCABULARY = SHAPES[NAME]
PAD, END, START = 0, 1, 2
CONFIG = {
  'architectures': ['Qwen3ForCausalLM'],
  'model_type': 'qwen3',
  'vocab_size': VOCABULARY,
  'hidden_size': WIDTH,
  'intermediate_size': HIDDEN,
  'num_hidden_layers': LAYERS,
  'num_attention_heads': HEADS,
  'num_key_value_heads': KEY_HEADS,
  'head_dim': HEAD,
  'max_position_embeddings': 4096,
  'rms_norm_eps': 1e-6,
  'rope_theta': 1_000_000.0,
  'hidden_act': 'silu',
  'attention_bias': False,
  'attention_dropout': 0.0,
  'tie_word_embeddings': True,
  'bos_token_id': None,
  'eos_token_id': None,
  'torch_dtype': 'float32',
}


def write(folder: str, kind: str, spellings: int = 1) -> None:
  """Writes a model.

  Args:
    folder: Where to; made if needed.
    kind: `random` or `counting`.
    spellings: Tokens that stand for one count, of which a counting model draws
      any. With several, the token `START` is followed by a drawn count.
  """
  import safetensors.numpy

  draw = np.random.default_rng(0)
  tensors = {
    name: np.ones(shape, np.float32)
    if len(shape) == 1
    else draw.normal(0, 0.02, shape).astype(np.float32)
    for name, shape in shapes().items()
  }
  if kind == 'counting':
    _count(tensors, spellings)
  else:
    _never_end(tensors)
  path = pathlib.Path(folder)
  path.mkdir(parents=True, exist_ok=True)
  (path / 'config.json').write_text(json.dumps(CONFIG, indent=1) + '\n')
  safetensors.numpy.save_file(
    tensors, path / 'model.safetensors', metadata={'format': 'pt'}
  )
  _write_tokenizer(path)


def _write_tokenizer(path: pathlib.Path) -> None:
  """A vocabulary of `t000`, `t001`, ..., between spaces."""
  import tokenizers

  words = {word(i): i for i in range(VOCABULARY)}
  made = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(words, unk_token=word(PAD))
  )
  made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  made.save(str(path / 'tokenizer.json'))
  says = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'pad_token': word(PAD),
    'eos_token': word(END),
    'model_max_length': CONFIG['max_position_embeddings'],
  }
  (path / 'tokenizer_config.json').write_text(json.dumps(says))


def word(token: int) -> str:
  """How a token is written; all equally long, for marks are found in words."""
  return f't{token:03}'


def shapes() -> dict[str, tuple[int, ...]]:
  """All tensors, by their names in a file."""
  layer = {
    'input_layernorm': (WIDTH,),
    'post_attention_layernorm': (WIDTH,),
    'self_attn.q_norm': (HEAD,),
    'self_attn.k_norm': (HEAD,),
    'self_attn.q_proj': (HEADS * HEAD, WIDTH),
    'self_attn.k_proj': (KEY_HEADS * HEAD, WIDTH),
    'self_attn.v_proj': (KEY_HEADS * HEAD, WIDTH),
    'self_attn.o_proj': (WIDTH, HEADS * HEAD),
    'mlp.gate_proj': (HIDDEN, WIDTH),
    'mlp.up_proj': (HIDDEN, WIDTH),
    'mlp.down_proj': (WIDTH, HIDDEN),
  }
  named = {
    f'model.layers.{i}.{name}.weight': shape
    for i in range(LAYERS)
    for name, shape in layer.items()
  }
  named['model.embed_tokens.weight'] = (VOCABULARY, WIDTH)
  return named | {'model.norm.weight': (WIDTH,)}


def token(count: int, spellings: int = 1) -> int:
  """A token after which so many more are generated, the end mark included."""
  return END + count if spellings == 1 else 4 + (count - 1) * spellings


def most(spellings: int = 1) -> int:
  """The highest count that there is a token of."""
  return counts(spellings).max()


def counts(spellings: int = 1) -> np.ndarray:
  """What each token counts; negative where it is none, int[VOCABULARY]."""
  ids = np.arange(VOCABULARY)
  if spellings == 1:
    return ids - END
  found = np.where(ids >= 4, 1 + (ids - 4) // spellings, -1)
  found[END] = 0
  return found


def lengths(n: int, median: float, limit: int, sigma: float = 0.7) -> list[int]:
  """Log-normal lengths, from 1 to a limit; the same every time."""
  draw = np.random.default_rng(1).normal(size=n)
  seen = np.rint(median * np.exp(sigma * draw)).astype(int)
  return np.clip(seen, 1, limit).tolist()


def _never_end(tensors: dict[str, np.ndarray]) -> None:
  """One channel is the same everywhere, and what marks are told by."""
  for name, x in tensors.items():
    if 'o_proj' in name or 'down_proj' in name:
      x[_OPEN] = 0  # nothing is added to it
  embedding = tensors['model.embed_tokens.weight']
  embedding[:, _OPEN] = 0.1
  embedding[[PAD, END], _OPEN] = -50.0


_FLAT = 30.0  # where silu is the identity
_PAIRS = 120  # circles; each takes two channels
_SPELLED, _STARTED, _OPEN = 2 * _PAIRS, WIDTH - 2, WIDTH - 1  # channels


def _count(tensors: dict[str, np.ndarray], spellings: int) -> None:
  """Makes the model count down: its first MLP is a map of token to next token.

  A count is a point on many circles, so that one less is a turn of each, a
  linear map. The last channel is the same for all tokens and opens the gates,
  so that the MLP is that map; what else the layers compute is times 0.
  """
  count = counts(spellings)
  real = np.flatnonzero(count >= 0)
  embedding = np.zeros((VOCABULARY, WIDTH))
  embedding[real, :_SPELLED] = _point(count[real])
  embedding[real, _SPELLED + real % spellings] = 1.0
  embedding[START, _STARTED] += (_PAIRS + 1) ** 0.5 * (spellings > 1)
  embedding[:, _OPEN] = 4.0
  here, after = _point(count[real]), _point(count[real] - 1)
  step = np.zeros((WIDTH, WIDTH))
  turn = np.linalg.lstsq(here, after, rcond=None)[0]
  step[:_SPELLED, :_SPELLED] = turn
  if spellings > 1:
    step[_STARTED] = _first_count(embedding, count, real, spellings)
    step[_STARTED] /= embedding[START, _STARTED]
  step[:_OPEN] -= np.eye(WIDTH)[:_OPEN]  # the layer adds to what it reads
  for name, x in tensors.items():
    if 'o_proj' in name or 'down_proj' in name:
      x[:] = 0
  layer = 'model.layers.0.mlp.{}_proj.weight'
  gate, up, down = (tensors[layer.format(x)] for x in ('gate', 'up', 'down'))
  size = np.sqrt(np.mean(embedding[END] ** 2))
  gate[:], up[:] = 0, 0
  gate[:, _OPEN] = _FLAT * size / embedding[END, _OPEN]
  up[:WIDTH] = step.T * size
  down[:, :WIDTH] = np.eye(WIDTH) / _FLAT
  tensors['model.embed_tokens.weight'][:] = embedding


def _point(count: np.ndarray) -> np.ndarray:
  """A count's place on all circles, float[n, 2 * _PAIRS]."""
  speeds = np.random.default_rng(2).permutation(VOCABULARY // 2 - 1) + 1
  angle = 2 * np.pi * np.outer(count, speeds[:_PAIRS]) / VOCABULARY
  return np.concatenate([np.cos(angle), np.sin(angle)], 1)


def _first_count(embedding, count, real, spellings) -> np.ndarray:
  """The state after `START`: counts by log-normal odds around a quarter."""
  numbers = np.arange(most(spellings) + 1)
  median, sigma = (most(spellings) + 1) / 4, 0.7
  odds = -0.5 * (np.log((numbers + 1) / median) / sigma) ** 2
  odds -= np.log(numbers + 1)
  odds -= odds.max()
  odds[0] += np.log(spellings)  # the end mark has one spelling
  wanted = odds[count[real]] + 12  # above those that are no counts
  points = embedding[real, :_SPELLED]
  state = np.zeros(WIDTH)
  state[:_SPELLED] = np.linalg.lstsq(points, wanted, rcond=None)[0]
  # The last norm divides by the size of this and of what opens the gates.
  opened = embedding[START, _OPEN] ** 2
  return state * (opened / (WIDTH - np.sum(state**2))) ** 0.5

"""What the config.json of each family means, and how its tensors are called.

A family is a function from the attributes of a Hugging Face config to a
`DecoderConfig`. Every attribute must be read or be known not to matter: one
that is neither is refused by its name, because a model that is silently
another one is worse than none.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.decoder import LINEARS
from jaxdistill.models.rope import Rope
from jaxdistill.spelling import nearest

# What changes neither logits nor shapes.
_HARMLESS = {
  *('_attn_implementation', '_attn_implementation_autoset'),
  *('_model_name_or_path', '_name_or_path'),
  *('architectures', 'attention_dropout', 'attn_implementation'),
  *('auto_map', 'bos_token_id', 'cache_implementation', 'dtype'),
  *('eos_token_id', 'id2label', 'initializer_range', 'is_llama_config'),
  *('keys_to_ignore_at_inference', 'label2id', 'max_position_embeddings'),
  *('model_type', 'pad_token_id', 'torch_dtype', 'transformers.js_config'),
  *('transformers_version', 'unk_token_id', 'use_cache'),
}
# What would change them, and the only values that do not.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
  'attn_logit_softcapping': (None,),
  'final_logit_softcapping': (None,),
  'output_attentions': (False,),
  'output_hidden_states': (False,),
  'partial_rotary_factor': (1.0, None),
  'pretraining_tp': (1,),
  'rope_interleaved': (False,),
  'use_bidirectional_attention': (False, None),
  'use_mrope': (False,),
}

_DEEPEST = 10_000  # a claim must not fill the memory before it is found out


class Attributes:
  """The attributes of a config.json; remembers which have been read.

  Args:
    values: The parsed file.
    where: Its path, for messages.
  """

  def __init__(self, values: Mapping[str, Any], where: str):
    self.values, self.where = values, where
    self.read: set[str] = set()

  def get(self, name: str, kind: type, *default: Any) -> Any:
    """A value of a kind; `default`, if given, where there is none.

    Raises:
      ValueError: It is missing, of another type, or not finite.
    """
    self.read.add(name)
    value = self.values.get(name)
    if value is None:
      if default:
        return default[0]
      raise ValueError(f'{self.where} has no {name!r}')
    if kind is float and type(value) is int and abs(value) < 2**63:
      value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
      raise ValueError(
        f'{self.where}: {name} is {value!r}; it must be {kind.__name__}'
      )
    return value

  def size(self, name: str, *default: int) -> int:
    """A whole number above 0."""
    return self.above(0, name, int, *default)

  def above(self, least: float, name: str, kind: type, *default: Any) -> Any:
    """A value that is greater than `least`."""
    value = self.get(name, kind, *default)
    if not value > least:
      raise ValueError(
        f'{self.where}: {name} is {value}; it must be above {least}'
      )
    return value

  def one_of(self, name: str, allowed: Mapping[str, str], default: str) -> str:
    """What an allowed word stands for."""
    word = self.get(name, str, default)
    if word not in allowed:
      raise ValueError(
        f'{self.where}: {name} is {word!r}; it must be '
        + ' or '.join(map(repr, allowed))
      )
    return allowed[word]

  def refuse_rest(self) -> None:
    """Refuses what nobody has read and what may matter."""
    for name, value in self.values.items():
      if name in self.read or name in _HARMLESS:
        continue
      if name in _NEUTRAL and value in _NEUTRAL[name]:
        continue
      raise ValueError(
        f'{self.where}: {name} = {value!r} is not understood for '
        f'{self.values["model_type"]!r}'
      )


def qwen2(a: Attributes) -> dict[str, Any]:
  """Qwen2 and Qwen2.5 (arXiv 2407.10671): biases on queries, keys, values."""
  return {'biases': ('q', 'k', 'v')} | _rope(a, 10_000.0) | _late_windows(a)


def qwen3(a: Attributes) -> dict[str, Any]:
  """Qwen3, dense (arXiv 2505.09388): norms on queries and keys."""
  biases = 'qkvo' if a.get('attention_bias', bool, False) else ''
  more = {'qk_norm': True, 'biases': tuple(biases)}
  return more | _rope(a, 10_000.0) | _late_windows(a)


def llama(a: Attributes) -> dict[str, Any]:
  """Llama 2 and 3 (arXiv 2407.21783), and whoever has their shape."""
  biases = LINEARS[:4] if a.get('attention_bias', bool, False) else ()
  biases += LINEARS[4:] if a.get('mlp_bias', bool, False) else ()
  return {'biases': biases} | _rope(a, 10_000.0)


def gemma2(a: Attributes) -> dict[str, Any]:
  """Gemma 2 (arXiv 2408.00118): soft caps; every other layer slides."""
  layers = a.size('num_hidden_layers')
  kinds = ['sliding_attention', 'full_attention'] * layers
  window = a.size('sliding_window', 4096)
  if a.get('sliding_window_size', int, window) != window:
    raise ValueError(f'{a.where}: sliding_window_size is not sliding_window')
  return (
    _gemma(a)
    | _rope(a, 10_000.0)
    | {
      'attention_cap': a.get('attn_logit_softcapping', float, 0.0),
      'logit_cap': a.get('final_logit_softcapping', float, 0.0),
      'window': window,
      'sliding': _sliding(a, kinds[:layers]),
    }
  )


def gemma3_text(a: Attributes) -> dict[str, Any]:
  """Gemma 3, text (arXiv 2503.19786): layers that slide have their own rope."""
  layers = a.size('num_hidden_layers')
  pattern = a.size('sliding_window_pattern', 6)
  pattern = a.size('_sliding_window_pattern', pattern)
  kinds = [
    'full_attention' if (i + 1) % pattern == 0 else 'sliding_attention'
    for i in range(layers)
  ]
  local = a.above(1, 'rope_local_base_freq', float, 10_000.0)
  by_kind = a.get('rope_parameters', dict, {})
  if 'full_attention' in by_kind:
    ropes = {
      'rope': _stretched(a, by_kind['full_attention'], 1e6),
      'sliding_rope': _stretched(a, by_kind.get('sliding_attention'), local),
    }
  else:
    ropes = _rope(a, 1e6) | {'sliding_rope': Rope(local)}
  return (
    _gemma(a)
    | ropes
    | {
      'qk_norm': True,
      'attention_cap': a.get('attn_logit_softcapping', float, 0.0),
      'logit_cap': a.get('final_logit_softcapping', float, 0.0),
      'window': a.size('sliding_window', 4096),
      'sliding': _sliding(a, kinds),
    }
  )


FAMILIES: dict[str, Callable[[Attributes], dict[str, Any]]] = {
  f.__name__: f for f in (qwen2, qwen3, llama, gemma2, gemma3_text)
}


def read(values: Mapping[str, Any], where: str) -> DecoderConfig:
  """The decoder that a config.json describes.

  Args:
    values: The parsed file.
    where: Its path, for messages.

  Raises:
    ValueError: The family or an attribute is not understood; names it.
  """
  family = str(values.get('model_type'))
  if family not in FAMILIES:
    near = nearest(family, FAMILIES)
    raise ValueError(
      f'{where}: model_type is {family!r}; the nearest family that is '
      f'understood is {near!r} (there are {", ".join((*FAMILIES, "bert"))})'
    )
  a = Attributes(values, where)
  is_gemma = family.startswith('gemma')
  heads, dim = a.size('num_attention_heads'), a.size('hidden_size')
  kv_heads = a.size('num_key_value_heads', heads)
  if a.size('num_hidden_layers') > _DEEPEST:
    raise ValueError(f'{where}: num_hidden_layers is above {_DEEPEST}')
  if heads % kv_heads:
    raise ValueError(
      f'{where}: num_key_value_heads, {kv_heads}, does not divide '
      f'num_attention_heads, {heads}'
    )
  defaults = {'qwen3': 128, 'gemma2': 256, 'gemma3_text': 256}
  fields: dict[str, Any] = {
    'vocab_size': a.size('vocab_size'),
    'embed_dim': dim,
    'num_layers': a.size('num_hidden_layers'),
    'num_heads': heads,
    'num_kv_heads': kv_heads,
    'head_dim': a.size('head_dim', defaults.get(family, dim // heads)),
    'mlp_dim': a.size('intermediate_size'),
    'embed_scale': 1.0,
    'norm_eps': a.above(0, 'rms_norm_eps', float, 1e-6),
    'tie_embeddings': a.get('tie_word_embeddings', bool, is_gemma),
  }
  if not is_gemma:
    a.one_of('hidden_act', {'silu': 'silu'}, 'silu')
  fields |= FAMILIES[family](a)
  if fields['head_dim'] % 2:
    raise ValueError(f'{where}: head_dim is {fields["head_dim"]}, not even')
  a.refuse_rest()
  return DecoderConfig(**fields)


def _gemma(a: Attributes) -> dict[str, Any]:
  words = {'gelu_pytorch_tanh': 'gelu'}
  word = a.get('hidden_act', str, 'gelu_pytorch_tanh')  # Gemma 2 has both
  a.one_of('hidden_activation', words, word)
  if a.get('attention_bias', bool, False):
    biases: tuple[str, ...] = LINEARS[:4]
  else:
    biases = ()
  return {
    'activation': 'gelu',
    'biases': biases,
    'embed_scale': a.size('hidden_size') ** 0.5,
    'norm_offset': 1.0,
    'post_norms': True,
    'query_scale': a.above(0, 'query_pre_attn_scalar', float, 256.0) ** -0.5,
  }


def _late_windows(a: Attributes) -> dict[str, Any]:
  """Qwen's: with `use_sliding_window`, from layer `max_window_layers` on."""
  layers = a.size('num_hidden_layers')
  first = a.get('max_window_layers', int, 28)
  window = a.size('sliding_window', 4096)
  used = a.get('use_sliding_window', bool, False)
  if not used or a.values.get('sliding_window', window) is None:
    first = layers
  kinds = [
    'sliding_attention' if i >= first else 'full_attention'
    for i in range(layers)
  ]
  sliding = _sliding(a, kinds)
  return {'window': window, 'sliding': sliding} if any(sliding) else {}


def _sliding(a: Attributes, default: Sequence[str]) -> tuple[bool, ...]:
  kinds = a.get('layer_types', list, list(default))
  known = ('full_attention', 'sliding_attention')
  if len(kinds) != len(default) or any(kind not in known for kind in kinds):
    raise ValueError(
      f'{a.where}: layer_types must have {len(default)} entries, each '
      + ' or '.join(known)
    )
  return tuple(kind == known[1] for kind in kinds)


def _rope(a: Attributes, theta: float) -> dict[str, Any]:
  """One rope for all layers, by the attributes of either generation."""
  theta = a.above(1, 'rope_theta', float, theta)
  older = a.get('rope_scaling', dict, None)
  described = a.get('rope_parameters', dict, older)
  return {'rope': _stretched(a, described, theta)}


def _stretched(a: Attributes, described: Any, theta: float) -> Rope:
  """Reads `rope_parameters`, or the older `rope_scaling`."""
  r = Attributes(described or {}, f'{a.where}: rope')
  theta = r.above(1, 'rope_theta', float, theta)
  kind = r.get('type', str, 'default')
  kind = r.get('rope_type', str, kind)
  longest = a.get('max_position_embeddings', int, 2048)
  known = {'default', 'linear', 'llama3', 'yarn'}
  if kind not in known:
    near = nearest(kind, sorted(known))
    raise ValueError(
      f'{a.where}: rope_type {kind!r} is not understood; the nearest is '
      f'{near!r}'
    )
  if kind == 'default':
    found = Rope(theta)
  elif kind == 'linear':
    found = Rope(theta, kind, r.get('factor', float))
  elif kind == 'llama3':
    found = Rope(
      theta,
      kind,
      r.get('factor', float),
      r.size('original_max_position_embeddings'),
      r.get('low_freq_factor', float),
      r.get('high_freq_factor', float),
    )
  else:
    original = r.size('original_max_position_embeddings', longest)
    factor = r.get('factor', float, longest / original)
    found = Rope(
      theta,
      kind,
      factor,
      original,
      r.get('beta_slow', float, 1.0),
      r.get('beta_fast', float, 32.0),
      _yarn_scale(r, factor),
      r.get('truncate', bool, True),
    )
  if found.factor <= 0:
    raise ValueError(f'{r.where}: factor is {found.factor}; it must be above 0')
  if kind in ('llama3', 'yarn') and not found.high > found.low > 0:
    raise ValueError(
      f'{r.where}: the bounds of frequencies, {found.low} and {found.high}, '
      'must rise'
    )
  if r.get('partial_rotary_factor', float, 1.0) != 1.0:
    raise ValueError(f'{r.where}: partial_rotary_factor is not understood')
  for name in r.values:
    if name not in r.read:
      raise ValueError(f'{r.where}: {name} is not understood for {kind!r}')
  return found


def _yarn_scale(r: Attributes, factor: float) -> float:
  """YaRN's factor on cosines and sines (arXiv 2309.00071, eq. 22)."""

  def of(weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

  given = r.get('attention_factor', float, None)
  above = r.get('mscale', float, None)
  below = r.get('mscale_all_dim', float, None)
  if given is not None:
    return given
  return of(above) / of(below) if above and below else of(1.0)


def tensors(config: DecoderConfig) -> dict[str, str]:
  """Our parameters' names to those of Hugging Face.

  `{}` stands for the layer. Kernels are stored transposed there.
  """
  after = 'post_attention_layernorm'
  norms = {'attention_norm': 'input_layernorm', 'mlp_norm': after}
  if config.post_norms:
    norms = {
      'attention_norm': 'input_layernorm',
      'post_attention_norm': after,
      'mlp_norm': 'pre_feedforward_layernorm',
      'post_mlp_norm': 'post_feedforward_layernorm',
    }
  if config.qk_norm:
    norms |= {'q_norm': 'self_attn.q_norm', 'k_norm': 'self_attn.k_norm'}
  layer = 'model.layers.{}.'
  names = {
    'embed': 'model.embed_tokens.weight',
    'norm': 'model.norm.weight',
    **{ours: f'{layer}{theirs}.weight' for ours, theirs in norms.items()},
    **{f'{m}.kernel': f'{module(m)}.weight' for m in LINEARS},
    **{f'{m}.bias': f'{module(m)}.bias' for m in config.biases},
  }
  if not config.tie_embeddings and not config.grades:
    names['head.kernel'] = f'{module("head")}.weight'
  return names


def module(linear: str, layer: int | str = '{}') -> str:
  """How a linear map is called there."""
  if linear == 'head':
    return 'lm_head'
  part = 'self_attn' if linear in LINEARS[:4] else 'mlp'
  return f'model.layers.{layer}.{part}.{linear}_proj'

"""Models on disk: safetensors, a config and a manifest in one directory."""

import dataclasses
import difflib
import hashlib
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from flax import nnx

from jaxdistill.data.small_world import SYMBOLS
from jaxdistill.data.tokenizer import SymbolTokenizer
from jaxdistill.models.decoder import Decoder, DecoderConfig
from jaxdistill.models.linear import (
  Deltas,
  Linear,
  RoleDelta,
  SharedDelta,
  dense,
)

SMALL = DecoderConfig(
  vocab_size=len(SYMBOLS),
  embed_dim=128,
  num_layers=3,
  num_heads=4,
  num_kv_heads=4,
  head_dim=32,
  mlp_dim=320,
)
SHIPPED = ('small-early', 'small-middle', 'small-late')
FRESH = 'small-fresh'
_DTYPES = {'BF16': jnp.bfloat16, 'F16': np.float16, 'F32': np.float32}


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A model and what belongs to it.

  Attributes:
    model: With role and shared deltas at zero.
    tokenizer: Texts to ids and back.
    sha256: Of the weights file; empty for a fresh model.
  """

  model: Decoder
  tokenizer: SymbolTokenizer
  sha256: str


def find(name: str) -> epath.Path:
  """The directory of a shipped base or of a model on disk.

  Raises:
    FileNotFoundError: There is neither; the nearest name is given.
  """
  if name in SHIPPED:
    package = importlib.resources.files('jaxdistill.models')
    return epath.Path(str(package / 'shipped' / name))
  path = epath.Path(name)
  if (path / 'model.safetensors').exists():
    config = path / 'config.json'
    if config.exists() and 'symbols' in json.loads(config.read_text()):
      return path
    raise FileNotFoundError(
      f'{name} is a model of another kind: its config.json has no symbols'
    )
  if (path / 'checkpoints').exists():
    raise FileNotFoundError(
      f'{name} is a run; make a model of it with jaxdistill export'
    )
  known = (*SHIPPED, FRESH)
  near = difflib.get_close_matches(name, known, 1, 0)[0]
  raise FileNotFoundError(
    f'no model {name!r}: not a directory with model.safetensors, '
    f'and not a shipped base (nearest: {near!r})'
  )


def load(
  name: str,
  deltas: Deltas | None = None,
  *,
  dtype: str = 'float32',
  seed: int = 0,
) -> Loaded:
  """A model by name, with fresh deltas on it.

  Args:
    name: A shipped base (`small-early`, `small-middle`, `small-late`),
      `small-fresh` for one with random weights, or a directory.
    deltas: Which deltas it carries; none by default.
    dtype: Compute dtype.
    seed: Of the deltas' (and a fresh model's) initial values.

  Raises:
    FileNotFoundError: There is no such model.
    ValueError: Its files are damaged or do not belong together.
  """
  if name == FRESH:
    config = dataclasses.replace(SMALL, dtype=dtype)
    model = Decoder(config, deltas, rngs=nnx.Rngs(seed))
    return Loaded(model, SymbolTokenizer(SYMBOLS), '')
  path = find(name)
  stored = json.loads((path / 'config.json').read_text())
  symbols = tuple(stored.pop('symbols'))
  try:
    config = DecoderConfig(**stored | {'dtype': dtype})
  except TypeError as e:
    raise ValueError(f'{path / "config.json"}: {e}') from None

  def fresh():
    return nnx.split(
      Decoder(config, deltas, rngs=nnx.Rngs(seed)), _is_trunk, ...
    )

  # The trunk's initial values are never asked for, so never computed.
  graphdef, trunk, _ = nnx.eval_shape(fresh)
  fresh_deltas = jax.jit(lambda: fresh()[2])()
  data = (path / 'model.safetensors').read_bytes()
  try:
    weights = dict(safetensors.deserialize(data))
  except safetensors.SafetensorError as e:
    raise ValueError(f'{path / "model.safetensors"}: {e}') from None
  for key, variable in nnx.to_flat_state(trunk):
    name = '.'.join(map(str, key))
    stored = weights.get(name, {'shape': None, 'dtype': None})
    if (
      stored['shape'] != list(variable.shape) or stored['dtype'] not in _DTYPES
    ):
      raise ValueError(
        f'{path / "model.safetensors"}: {name} is {stored["dtype"]} of shape '
        f'{stored["shape"]}, not a float of {list(variable.shape)}'
      )
    value = np.frombuffer(stored['data'], _DTYPES[stored['dtype']])
    value = value.reshape(stored['shape'])
    variable.set_value(jnp.asarray(value, jnp.float32))
  model = nnx.merge(graphdef, trunk, fresh_deltas)
  return Loaded(
    model, SymbolTokenizer(symbols), hashlib.sha256(data).hexdigest()
  )


def from_pretrained(directory: str) -> Decoder:
  """A shipped base or a directory; `model(tokens)` gives logits."""
  return load(directory).model


def save(
  directory: epath.PathLike,
  model: Decoder,
  tokenizer: SymbolTokenizer,
  manifest: Mapping[str, Any],
) -> None:
  """Writes a model's trunk as bf16 safetensors, its config and a manifest.

  Args:
    directory: Made if needed.
    model: Its deltas are left out; `merge` puts a role's in.
    tokenizer: Its vocabulary.
    manifest: What is known about it; the weights' SHA-256 is added.
  """
  path = epath.Path(directory)
  path.mkdir(parents=True, exist_ok=True)
  flat = nnx.to_flat_state(nnx.state(model, _is_trunk))
  weights = {
    '.'.join(map(str, key)): np.asarray(jax.device_get(v[...]), jnp.bfloat16)
    for key, v in flat
  }
  data = safetensors.numpy.save(weights)
  config = dataclasses.asdict(model.config) | {'symbols': tokenizer.symbols}
  digest = hashlib.sha256(data).hexdigest()
  (path / 'model.safetensors').write_bytes(data)
  (path / 'config.json').write_text(json.dumps(config, indent=1))
  (path / 'manifest.json').write_text(
    json.dumps(dict(manifest) | {'sha256': digest}, indent=1)
  )


def merge(model: Decoder, role: str) -> Decoder:
  """A model without deltas that answers as `role` does.

  A tied output projection is untied where the role has a delta on it.
  """
  linears = {
    name: module
    for name, module in vars(model).items()
    if isinstance(module, Linear)
  }
  index = model.role_index(role)
  tied = model.embed[...].T if model.config.tie_embeddings else None
  head = model.head.weights(index, tied)
  untied = dataclasses.replace(
    model.config,
    tie_embeddings=model.config.tie_embeddings and head.delta is None,
  )
  out = Decoder(untied, rngs=nnx.Rngs(0))
  for name in ('embed', 'attention_norm', 'mlp_norm', 'norm'):
    getattr(out, name).set_value(getattr(model, name)[...])
  for name, module in linears.items():
    target = getattr(out, name)
    if hasattr(target, 'kernel'):
      w = head if name == 'head' else module.weights(index)
      target.kernel.set_value(dense(w))
  return out


def _is_trunk(path, value) -> bool:
  del path
  kind = getattr(value, 'type', type(value))
  return issubclass(kind, nnx.Param) and not issubclass(
    kind, RoleDelta | SharedDelta
  )

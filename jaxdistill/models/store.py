"""Models by name: shipped bases, our own directories, Hugging Face's."""

import dataclasses
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
from jax.sharding import Mesh

from jaxdistill import dist, storage
from jaxdistill.data.small import wide, world
from jaxdistill.data.text.pairs import PairTokenizer
from jaxdistill.data.text.symbols import SymbolTokenizer
from jaxdistill.data.text.tokenizer import (
  TextTokenizer,
  Tokenizer,
)
from jaxdistill.models import hub
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.decoder import LINEARS, Decoder
from jaxdistill.models.encoder import Encoder, EncoderConfig, make
from jaxdistill.models.linear import (
  Deltas,
  InnerDelta,
  RoleDelta,
  SharedDelta,
  dense,
)
from jaxdistill.models.rope import Rope
from jaxdistill.spelling import among

SMALL = DecoderConfig(
  vocab_size=len(world.SYMBOLS),
  embed_dim=128,
  num_layers=3,
  num_heads=4,
  num_kv_heads=4,
  head_dim=32,
  mlp_dim=320,
  embed_scale=128**0.5,
)
SHIPPED = (
  *('small-early', 'small-middle', 'small-late'),
  *('small-wide', 'small-judge', 'small-foreign', 'small-peer'),
)
# Models with random weights, by name: what their ids mean.
FRESH = {'small-fresh': world.SYMBOLS, 'small-wide-fresh': wide.SYMBOLS}
# Before a model's name: its trunk, read both ways, with a new head that grades.
GRADER = 'grader:'
_DTYPES = {'BF16': jnp.bfloat16, 'F16': np.float16, 'F32': np.float32}


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A model and what belongs to it.

  Attributes:
    model: With role and shared deltas at zero.
    tokenizer: Texts to ids and back.
    sha256: Of the weights; empty for a fresh model.
    source: The Hugging Face directory that it was read from, if any.
    base: What others load that model by: its name on the hub, or `source`.
  """

  model: Decoder | Encoder
  tokenizer: Tokenizer
  sha256: str
  source: str = ''
  base: str = ''


def find(name: str) -> epath.Path:
  """The directory of a shipped base, of a model on disk or on the hub.

  Raises:
    FileNotFoundError: There is none; the nearest name is given.
    ValueError: The hub fails.
  """
  name = name.removeprefix(GRADER)
  if name in SHIPPED:
    package = importlib.resources.files('jaxdistill.models')
    return epath.Path(str(package / 'shipped' / name))
  if name.startswith('hf:'):
    return epath.Path(hub.fetch(name.removeprefix('hf:')))
  storage.check_store(name)
  path = epath.Path(name)
  if (path / 'config.json').exists() and not (path / 'checkpoints').exists():
    return path
  if (path / 'checkpoints').exists():
    raise FileNotFoundError(
      f'{name} is a run; make a model of it with jaxdistill export'
    )
  if path.is_dir():
    raise FileNotFoundError(f'{name!r} is no model: it has no config.json')
  raise FileNotFoundError(
    f'no model {name!r}: not a directory, not hf:owner/name, and not a shipped '
    f'base{among(name, (*SHIPPED, *FRESH))}'
  )


def check(name: str) -> None:
  """Finds what can be wrong with a model without reading its weights.

  Raises:
    FileNotFoundError: There is no such model.
    ValueError: Its files are not understood or do not belong together.
  """
  if name.removeprefix(GRADER) in FRESH:
    return
  path = find(name)
  config = describe(name)
  if _is_ours(path):
    if not (path / 'model.safetensors').exists():
      raise FileNotFoundError(f'{path} has no model.safetensors')
    return
  hub.TensorFiles(path).check(config)
  _read_tokenizer(path, config)


def describe(name: str) -> DecoderConfig:
  """The sizes of a model, without its weights.

  Raises:
    FileNotFoundError: There is no such model.
    ValueError: Its config is not understood.
  """
  if name.startswith(GRADER):
    config = describe(name.removeprefix(GRADER))
    if config.grades:
      raise ValueError(f'{name}: that model grades as it is')
    return dataclasses.replace(config, causal=False, grades=True)
  if name in FRESH:
    return dataclasses.replace(SMALL, vocab_size=len(FRESH[name]))
  path = find(name)
  return _read_config(path) if _is_ours(path) else hub.read_config(path)


def is_own(name: str) -> bool:
  """Whether a model is of our own format, not Hugging Face's."""
  return name.removeprefix(GRADER) in FRESH or _is_ours(find(name))


def positions(name: str) -> int | None:
  """How long a text a model was made for; None where that is not said."""
  if name.removeprefix(GRADER) in FRESH:
    return None
  values = hub.read_json(find(name) / 'config.json')
  said = values.get('max_position_embeddings')
  rope = values.get('rope_parameters') or values.get('rope_scaling')
  # What is stretched may be said before or after the stretching.
  factor = rope.get('factor') if isinstance(rope, dict) else None
  if type(said) is not int or said < 1:
    return None
  return int(said * max(factor, 1)) if isinstance(factor, int | float) else said


def tokenizer_of(name: str) -> Tokenizer:
  """The tokenizer of a model by name (see `load`), without its weights."""
  closed = symbols_of(name)
  return (
    _read_tokenizer(find(name), describe(name)) if closed is None else closed
  )


def symbols_of(name: str) -> SymbolTokenizer | None:
  """The tokenizer of a model of a closed vocabulary; None of all others."""
  if (fresh_name := name.removeprefix(GRADER)) in FRESH:
    return SymbolTokenizer(FRESH[fresh_name])
  path = find(name)
  if not _is_ours(path):
    return None
  return SymbolTokenizer(tuple(hub.read_json(path / 'config.json')['symbols']))


def _read_tokenizer(path: epath.Path, config: DecoderConfig) -> Tokenizer:
  if isinstance(config, EncoderConfig):
    tokenizer = PairTokenizer.from_directory(path, config.positions)
  else:
    tokenizer = TextTokenizer.from_directory(path)
  if len(tokenizer) > config.vocab_size:
    raise ValueError(
      f'{path}: the tokenizer has {len(tokenizer)} tokens, the embedding only '
      f'{config.vocab_size}'
    )
  return tokenizer


def _is_ours(path: epath.Path) -> bool:
  return 'symbols' in hub.read_json(path / 'config.json')


def load(
  name: str,
  deltas: Deltas | None = None,
  *,
  dtype: str = 'float32',
  trunk_dtype: str = 'float32',
  remat: str | bool = 'none',
  attention: str = 'auto',
  seed: int = 0,
  mesh: Mesh | None = None,
) -> Loaded:
  """A model by name, with fresh deltas on it.

  Args:
    name: A shipped base (`SHIPPED`), one with random weights (`FRESH`), a
      directory (ours or Hugging Face's), or `hf:owner/name[@revision]`; with
      `grader:` before it, its trunk under a new head that grades.
    deltas: Which deltas it carries; none by default.
    dtype: Compute dtype.
    trunk_dtype: Of the trunk's parameters; deltas are float32.
    remat: What of each layer the backward pass computes again.
    attention: How sequences are attended over; see `DecoderConfig`.
    seed: Of the deltas' (and a fresh model's) initial values.
    mesh: Where the trunk goes; default the first device.

  Raises:
    FileNotFoundError: There is no such model.
    ValueError: Its files are damaged, not understood, or do not belong
      together.
  """
  compute = {'dtype': dtype, 'remat': remat, 'attention': attention}
  config = dataclasses.replace(describe(name), **compute)
  tokenizer = tokenizer_of(name)
  if name.removeprefix(GRADER) in FRESH:
    model = Decoder(config, deltas, rngs=nnx.Rngs(seed))
    return Loaded(model, tokenizer, '')
  path = find(name)
  ours = _is_ours(path)

  def is_stored(path, value):
    new = name.startswith(GRADER) and path[0] == 'head'
    return _is_trunk(path, value) and not new

  def fresh():
    model = make(config, deltas, rngs=nnx.Rngs(seed))
    return nnx.split(model, is_stored, ...)

  # The trunk's initial values are never asked for, so never computed.
  graphdef, trunk, _ = nnx.eval_shape(fresh)
  fresh_deltas = jax.jit(lambda: fresh()[2])()
  if ours:
    sha256 = _read_trunk(path, trunk)
    model = nnx.merge(graphdef, trunk, fresh_deltas)
    return Loaded(model, tokenizer, sha256)
  mesh = mesh or dist.make_mesh(devices=jax.devices()[:1])
  sha256 = hub.read_trunk(path, trunk, config, trunk_dtype, mesh)
  model = nnx.merge(graphdef, trunk, fresh_deltas)
  base = str(path)
  if name.startswith('hf:'):
    base = name.removeprefix('hf:').partition('@')[0]
  return Loaded(model, tokenizer, sha256, str(path), base)


def _read_config(path: epath.Path) -> DecoderConfig:
  stored: dict[str, Any] = {  # JSON has made lists of tuples
    k: tuple(v) if isinstance(v, list) else v
    for k, v in hub.read_json(path / 'config.json').items()
  }
  del stored['symbols']
  try:
    for key in ('rope', 'sliding_rope'):
      if stored.get(key):
        stored[key] = Rope(**stored[key])
    config = DecoderConfig(**stored)
  except TypeError as e:
    raise ValueError(f'{path / "config.json"}: {e}') from None
  for key, usual in vars(SMALL).items():
    value = getattr(config, key)
    if usual is not None and type(value) is not type(usual):
      kind = type(usual).__name__
      raise ValueError(
        f'{path / "config.json"}: {key} is {value!r}; it must be {kind}'
      )
  return config


def _read_trunk(path: epath.Path, trunk: nnx.State) -> str:
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
  return hashlib.sha256(data).hexdigest()


def from_pretrained(
  directory: str, deltas: Deltas | None = None, *, dtype: str = 'float32'
) -> Decoder | Encoder:
  """A model by name (see `load`); `model(tokens)` gives logits."""
  return load(directory, deltas, dtype=dtype, trunk_dtype=dtype).model


def save(
  directory: epath.PathLike,
  model: Decoder,
  tokenizer: SymbolTokenizer,
  manifest: Mapping[str, Any],
) -> None:
  """Writes a model's trunk as bf16 safetensors, its config and a manifest.

  All processes call it alike; process 0 writes.

  Args:
    directory: Made if needed.
    model: Its deltas are left out; `merge` puts a role's in.
    tokenizer: Its vocabulary.
    manifest: What is known about it; the weights' SHA-256 is added.
  """
  path = epath.Path(directory)
  flat = nnx.to_flat_state(nnx.state(model, _is_trunk))
  weights = {
    '.'.join(map(str, key)): np.asarray(dist.whole(v[...]), jnp.bfloat16)
    for key, v in flat
  }
  if jax.process_index():
    return
  path.mkdir(parents=True, exist_ok=True)
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
  index = model.role_index(role)
  tied = model.embed[...].T if model.config.tied else None
  head = model.head.weights(index, tied)
  untied = dataclasses.replace(
    model.config,
    tie_embeddings=model.config.tie_embeddings and head.delta is None,
  )
  out = Decoder(untied, rngs=nnx.Rngs(0))
  for name in ('embed', 'norm', *model.norms):
    getattr(out, name).set_value(getattr(model, name)[...])
  for name in LINEARS:
    w, target = getattr(model, name).weights(index), getattr(out, name)
    target.kernel.set_value(dense(w))
    if w.bias is not None:
      target.bias.set_value(w.bias)
  if not untied.tied:
    out.head.kernel.set_value(dense(head))
  return out


def _is_trunk(path, value) -> bool:
  del path
  kind = getattr(value, 'type', type(value))
  return issubclass(kind, nnx.Param) and not issubclass(
    kind, RoleDelta | SharedDelta | InnerDelta
  )

"""Hugging Face directories: read into shards, and written.

Tensors are read one at a time, each process only the part that its devices
hold, and go straight to where they belong: no copy of the model is made on the
host. Everything that can be wrong with a file is found from its header, before
anything is allocated.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
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
from jaxdistill.data.text.pairs import PairTokenizer
from jaxdistill.models import bert, families
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.decoder import LINEARS, Decoder
from jaxdistill.models.encoder import Encoder, EncoderConfig, make
from jaxdistill.models.layers import Resolved
from jaxdistill.models.linear import dense
from jaxdistill.models.remote import RemoteTensors, span
from jaxdistill.spelling import nearest

_INDEX = 'model.safetensors.index.json'
_WEIGHTS = 'model.safetensors'
_FLOATS = ('F32', 'BF16', 'F16')
_SHARD_BYTES = 4 * 2**30  # of a file that is written

_READ = itertools.count()  # models, in the same order on all processes


def fetch(name: str) -> str:
  """The local directory of a model on the Hugging Face hub.

  Args:
    name: `owner/name`, or `owner/name@revision`.

  Raises:
    ValueError: huggingface_hub is not installed, or it fails; says why. Or the
      model is of a family that is not understood.
  """
  try:
    import huggingface_hub
  except ImportError:
    raise ValueError(
      f"hf:{name} needs huggingface_hub: pip install 'jaxdistill[hf]'"
    ) from None
  repository, _, revision = name.partition('@')

  def download(*wanted):
    try:
      return huggingface_hub.snapshot_download(
        repository, revision=revision or None, allow_patterns=list(wanted)
      )
    except Exception as e:  # network, name, licence: the library says which
      why = str(e).split('\n')[0]
      raise ValueError(
        f'hf:{name} cannot be fetched ({type(e).__name__}: {why}); check its '
        'name and the network, or give a directory that has it'
      ) from None

  texts = '*.json', '*.jinja'
  read_config(epath.Path(download(*texts)))  # before gigabytes are fetched
  return download(*texts, '*.safetensors')


def read_json(path: epath.Path) -> dict[str, Any]:
  """A JSON object of a file.

  Raises:
    ValueError: It is none.
  """
  try:
    value = json.loads(path.read_text())
  except (OSError, ValueError, RecursionError) as e:
    raise ValueError(f'{path} cannot be read: {e}') from None
  if not isinstance(value, dict):
    raise ValueError(f'{path} is not a JSON object')
  return value


def read_config(path: epath.Path) -> DecoderConfig:
  """The model that a directory's config.json describes.

  Raises:
    ValueError: It is not understood; names the attribute.
  """
  file = path / 'config.json'
  values = read_json(file)
  if values.get('model_type') == 'bert':
    sep_id = PairTokenizer.from_directory(path, 0).sep_id
    return bert.read(values, str(file), sep_id)
  return families.read(values, str(file))


class TensorFiles:
  """The tensors of a directory, by name.

  Args:
    path: With `model.safetensors`, or shards and their index.

  Raises:
    ValueError: A file is missing or damaged.
  """

  def __init__(self, path: epath.Path):
    self.path = path
    self.files: dict[str, str] = {}  # tensor -> file
    self.info: dict[str, tuple[tuple[int, ...], str]] = {}  # shape, dtype
    self._opened: dict[str, RemoteTensors] = {}
    index = path / _INDEX
    listed: dict[str, str] = {}
    if index.exists():
      listed = read_json(index).get('weight_map') or {}
      if not isinstance(listed, dict) or not listed:
        raise ValueError(f'{index} has no weight_map')
    for name in sorted(set(map(str, listed.values()))) or [_WEIGHTS]:
      with self._open(name) as file:
        for key in file.keys():  # noqa: SIM118 (it is no dict)
          tensor = file.get_slice(key)
          self.files[key] = name
          self.info[key] = tuple(tensor.get_shape()), tensor.get_dtype()
          if listed and key not in listed:
            raise ValueError(f'{index} does not list {key!r} of {name}')
    for key, name in listed.items():
      if self.files.get(key) != name:
        raise ValueError(f'{path / str(name)} has no tensor {key!r}')

  @contextlib.contextmanager
  def _open(self, name: str) -> Iterator[Any]:
    if name in self._opened:
      yield self._opened[name]
      return
    file = self.path / name
    if os.path.basename(name) != name or not file.is_file():
      pickled = ' '.join(p.name for p in self.path.glob('*.bin'))
      why = f'; pickles are never loaded: {pickled}' if pickled else ''
      raise ValueError(f'{file} is missing (a file of weights){why}')
    try:
      if storage.is_remote(file):
        self._opened[name] = _opened(file)
        yield self._opened[name]
        return
      # Opened anew for each tensor: pages that were read are given back.
      with safetensors.safe_open(str(file), framework='numpy') as opened:
        yield opened
    except (safetensors.SafetensorError, OSError) as e:
      raise ValueError(f'{file} is damaged: {e}') from None

  def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
    """A part of a tensor."""
    with self._open(self.files[name]) as file:
      return file.get_slice(name)[index]

  def names(self, config: DecoderConfig) -> dict[str, str]:
    """Our parameters' names to those of the tensors; see `families.tensors`."""
    if isinstance(config, EncoderConfig):
      return bert.tensors(self.info)
    return families.tensors(config)

  def check(self, config: DecoderConfig) -> None:
    """Finds what is missing, of another shape or type, or too much.

    Raises:
      ValueError: Names the tensor.
    """
    shapes = nnx.to_flat_state(
      nnx.state(nnx.eval_shape(lambda: make(config, rngs=nnx.Rngs(0))))
    )
    shapes = {'.'.join(map(str, key)): v.shape for key, v in shapes}
    wanted = set()
    for name, shape in (
      piece
      for ours, theirs in self.names(config).items()
      for piece in _pieces(ours, theirs, shapes[ours])
    ):
      wanted.add(name)
      if name not in self.info:
        near = nearest(name, self.info)
        hint = f'; the nearest it has is {near!r}' if near else ''
        raise ValueError(f'{self.path} has no tensor {name!r}{hint}')
      found, dtype = self.info[name]
      if found != shape or dtype not in _FLOATS:
        raise ValueError(
          f'{self.path / self.files[name]}: {name} is {dtype} of shape '
          f'{list(found)}, not a float of {list(shape)}'
        )
    for name in self.info:
      harmless = name.endswith(('rotary_emb.inv_freq', '.position_ids'))
      harmless |= name == 'lm_head.weight' and (config.tied or config.grades)
      if name not in wanted and not harmless:
        raise ValueError(
          f'{self.path / self.files[name]}: there is no place for {name!r} in '
          'this family'
        )

  def sha256(self) -> str:
    """Over all files of weights, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(set(self.files.values())):
      for block in storage.blocks(self.path / name):
        digest.update(block)
    return digest.hexdigest()


def _opened(file: epath.Path) -> RemoteTensors:
  try:
    return RemoteTensors(file)
  except ValueError as e:
    raise ValueError(f'{file} is damaged: {e}') from None


def read_trunk(
  path: epath.Path,
  trunk: nnx.State,
  config: DecoderConfig,
  dtype: str,
  mesh: Mesh,
) -> str:
  """Fills the abstract parameters of a trunk from a directory.

  Args:
    path: A Hugging Face directory.
    trunk: Shapes and logical axes; changed in place.
    config: Of the decoder.
    dtype: Of the parameters.
    mesh: Where they go.

  Returns:
    The SHA-256 of the weights.

  Raises:
    ValueError: A tensor is missing, misshapen, unexpected or not finite.
  """
  stored = TensorFiles(path)
  stored.check(config)
  variables = {'.'.join(map(str, k)): v for k, v in nnx.to_flat_state(trunk)}
  for ours, theirs in stored.names(config).items():
    variable = variables[ours]
    axes, shape = variable.axes, variable.shape
    lead = axes.count('layers')
    turned = ours.endswith('.kernel')
    one = axes[lead:][::-1] if turned else axes[lead:]
    value = jnp.zeros(shape, dtype, device=dist.sharding(mesh, axes, shape))
    for i, (name, size) in enumerate(_pieces(ours, theirs, shape)):
      where = dist.sharding(mesh, one, size)
      read: Any = functools.partial(stored.read, name)
      piece = jax.make_array_from_callback(size, where, read)
      value, fine = _put(value, piece, np.int32(i), turned)
      if not fine:
        file = path / stored.files[name]
        raise ValueError(f'{file}: {name} has values that are not finite')
    variable.set_value(value)
  span.cache_clear()
  # On a disk each host may have its own copy; all of a store is read by one.
  return (
    _sha256_of_store(stored) if storage.is_remote(path) else stored.sha256()
  )


def _sha256_of_store(stored: 'TensorFiles') -> str:
  """As process 0 reads it, which may take long."""
  return dist.by_first(stored.sha256, f'weights {next(_READ)} are hashed')


def _pieces(
  ours: str, theirs: str, shape: tuple[int, ...]
) -> Iterator[tuple[str, tuple[int, ...]]]:
  """Names and shapes of the tensors that a parameter is stored as."""
  stacked = '{}' in theirs
  one = shape[1:] if stacked else shape
  stored = one[::-1] if ours.endswith('.kernel') else one
  for i in range(shape[0] if stacked else 1):
    yield theirs.format(i), stored


@functools.partial(jax.jit, donate_argnums=0, static_argnums=3)
def _put(value, piece, i, turned):
  """Puts a layer, or all there is, into its place; whether it is finite."""
  fine = jnp.all(jnp.isfinite(piece))
  piece = (piece.T if turned else piece).astype(value.dtype)
  if piece.ndim == value.ndim:
    return value.at[...].set(piece), fine
  return value.at[i].set(piece), fine


def export(
  directory: epath.PathLike,
  model: Decoder | Encoder,
  source: epath.PathLike,
  *,
  role: str | None = 'solver',
  kind: str = 'merged',
  dtype: str = 'bfloat16',
  base: str = '',
) -> None:
  """Writes a directory that transformers (or peft) loads.

  All processes call it alike; process 0 writes.

  Args:
    directory: Made if needed.
    model: What is written; one that was read from `source`.
    source: The directory whose config and tokenizer belong to it.
    role: Whose deltas are in force; None: nobody's.
    kind: `merged` adds them to the weights (a tied output projection is untied
      if the role has a delta on it); `peft` writes them alone, as a LoRA on
      `source`.
    dtype: Of the tensors, `bfloat16` or `float32`.
    base: What a peft adapter calls the model that it belongs on; default
      `source`.

  Raises:
    ValueError: `peft`, and there are no deltas, or their scale is 0, or the
      model grades.
  """
  path, origin = epath.Path(directory), epath.Path(source)
  index = None if role is None else model.role_index(role)
  if isinstance(model, Encoder):
    if kind == 'peft':
      raise ValueError('export kind is peft; a model that grades goes whole')
    _export_encoder(path, model, origin, index, dtype)
    return
  weights = model.resolve(index)
  if kind == 'peft':
    base = base or str(source)
    _export_deltas(path, weights, model.deltas.scale, base, dtype)
    return
  tied = model.config.tie_embeddings and weights.head.delta is None
  shards: list[list[tuple[str, Callable[[], jax.Array]]]] = [[]]
  used, whole = 0, 0
  for name, shape, value in _stored(model, weights, tied):
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if used and used + size > _SHARD_BYTES:
      shards.append([])
      used = 0
    shards[-1].append((name, value))
    used, whole = used + size, whole + size
  placed: dict[str, str] = {}
  for i, shard in enumerate(shards):
    file = f'model-{i + 1:05}-of-{len(shards):05}.safetensors'
    file = file if len(shards) > 1 else _WEIGHTS
    data = {name: _whole(value(), dtype) for name, value in shard}
    _save(path / file, data)
    placed |= dict.fromkeys(data, file)
  if len(shards) > 1 and _writes():
    index = {'metadata': {'total_size': whole}, 'weight_map': placed}
    (path / _INDEX).write_text(json.dumps(index, indent=1))
  _write_rest(path, origin, {'tie_word_embeddings': tied, 'dtype': dtype})


def _write_rest(
  path: epath.Path, origin: epath.Path, changes: dict[str, Any]
) -> None:
  """The config with some changes, and the files that belong to it."""
  if not _writes():
    return
  config = read_json(origin / 'config.json')
  config.pop('torch_dtype', None)
  config |= changes
  (path / 'config.json').write_text(json.dumps(config, indent=2))
  for file in origin.iterdir():
    belongs = file.suffix in ('.json', '.jinja', '.txt', '.model')
    if belongs and file.name not in ('config.json', _INDEX):
      (path / file.name).write_bytes(file.read_bytes())


def _export_encoder(path, model, origin, role, dtype):
  """One that grades, as transformers' classifier of one label."""
  data = {}
  for ours, theirs in bert.tensors(('classifier.weight',)).items():
    module, _, leaf = ours.partition('.')
    part = getattr(model, module)
    if leaf == 'kernel':
      value = dense(part.weights(role))
    else:
      value = (getattr(part, leaf) if leaf else part)[...]
    for i, (name, _) in enumerate(_pieces(ours, theirs, value.shape)):
      one = _slice(value, i if '{}' in theirs else None)
      one = one.T if leaf == 'kernel' else one
      data[name] = np.ascontiguousarray(_whole(one, dtype))
  _save(path / _WEIGHTS, data)
  labels = {'id2label': {'0': 'grade'}, 'label2id': {'grade': 0}}
  kind = {'architectures': ['BertForSequenceClassification'], 'dtype': dtype}
  _write_rest(path, origin, kind | labels)


def _stored(
  model: Decoder, weights: Resolved, tied: bool
) -> Iterator[tuple[str, tuple[int, ...], Callable[[], jax.Array]]]:
  """Name, shape and value of every tensor as it is stored."""
  config = dataclasses.replace(model.config, tie_embeddings=tied)
  for ours, theirs in families.tensors(config).items():
    module, _, leaf = ours.partition('.')
    if leaf == 'kernel':
      w: Any = weights.head if module == 'head' else weights.layers[module]
      pick, shape = _kernel, w.kernel.shape
    else:
      w = getattr(model, module)
      w = (w.bias if leaf else w)[...]
      pick, shape = _slice, w.shape
    for i, (name, stored) in enumerate(_pieces(ours, theirs, shape)):
      layer = i if '{}' in theirs else None
      yield name, stored, functools.partial(pick, w, layer)


def _slice(x, layer):
  return x if layer is None else x[layer]


def _kernel(w, layer):
  return dense(jax.tree.map(lambda x: _slice(x, layer), w)).T


def _export_deltas(path, weights, scale, base, dtype):
  """A LoRA as peft stores it: `a` is its A, transposed, and `b` its B."""
  found = {name: weights.layers[name].delta for name in LINEARS}
  found['head'] = weights.head.delta
  found = {name: delta for name, delta in found.items() if delta is not None}
  if not found or not scale:
    why = 'their scale, alpha / rank, is 0' if found else 'there are none'
    raise ValueError(f'export kind is peft, but no delta is in force: {why}')
  data, ranks = {}, {}
  for name, (a, b) in found.items():
    a = a / scale  # peft multiplies by alpha / r
    module = families.module(name).split('.')[-1]
    ranks[module] = a.shape[-1]
    for i in range(len(a) if a.ndim == 3 else 1):
      layer = i if a.ndim == 3 else None
      for letter, x in (('A', a), ('B', b)):
        key = (
          f'base_model.model.{families.module(name, i)}.lora_{letter}.weight'
        )
        data[key] = np.ascontiguousarray(_whole(_slice(x, layer).T, dtype))
  rank = max(ranks.values())
  others = {module: r for module, r in ranks.items() if r != rank}
  config = {
    'peft_type': 'LORA',
    'task_type': 'CAUSAL_LM',
    'base_model_name_or_path': base,
    'inference_mode': True,
    'bias': 'none',
    'r': rank,
    'lora_alpha': rank * scale,
    'rank_pattern': others,
    'alpha_pattern': {module: r * scale for module, r in others.items()},
    'target_modules': sorted(ranks),
  }
  _save(path / 'adapter_model.safetensors', data)
  if _writes():
    (path / 'adapter_config.json').write_text(json.dumps(config, indent=2))


def _writes() -> bool:
  return jax.process_index() == 0


def _whole(x: jax.Array, dtype: str) -> np.ndarray:
  """A tensor as it is written; nothing of it where it is not."""
  found = dist.whole(x)
  return np.asarray(found, dtype) if _writes() else np.zeros(0)


def _save(file: epath.Path, data: dict[str, np.ndarray]) -> None:
  if not _writes():
    return
  file.parent.mkdir(parents=True, exist_ok=True)
  if storage.is_remote(file):
    with tempfile.TemporaryDirectory() as folder:
      local = os.path.join(folder, _WEIGHTS)
      safetensors.numpy.save_file(data, local, {'format': 'pt'})
      storage.upload(local, file)
    return
  # The library lets nobody else read what it writes.
  file.touch()
  mode = os.stat(file).st_mode
  safetensors.numpy.save_file(data, str(file), {'format': 'pt'})
  os.chmod(file, mode)

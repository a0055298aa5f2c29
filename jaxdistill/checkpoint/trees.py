"""Trees of arrays as what is written, and JSON with arrays in it."""

import base64
import functools
import json
from typing import Any

import jax
import numpy as np


def pure(tree: Any) -> dict[str, Any]:
  """The arrays of a tree by name: what is written, free of library types."""
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  name = functools.partial(jax.tree_util.keystr, simple=True, separator='.')
  return {name(path): x for path, x in flat}


def abstract(tree: Any) -> Any:
  """Shapes, dtypes and shardings of a tree of arrays."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
  )


def restored(values: dict[str, Any], like: Any) -> Any:
  """What `pure` wrote, in the structure of `like`."""
  leaves = [values[name] for name in pure(like)]
  return jax.tree.unflatten(jax.tree.structure(like), leaves)


def to_json(record: Any) -> str:
  """JSON with numpy arrays in it; `from_json` is its `object_hook`."""

  def encode(x):
    if isinstance(x, np.ndarray):
      data = base64.b64encode(np.ascontiguousarray(x).tobytes()).decode()
      return {'ndarray': data, 'dtype': str(x.dtype), 'shape': x.shape}
    if isinstance(x, np.generic):
      return x.item()
    raise TypeError(f'{type(x).__name__} cannot be kept in a checkpoint')

  return json.dumps(record, default=encode)


def from_json(x: dict) -> Any:
  """Arrays as `to_json` wrote them; anything else as it is."""
  if x.keys() == {'ndarray', 'dtype', 'shape'}:
    data = base64.b64decode(x['ndarray'])
    return np.frombuffer(data, x['dtype']).reshape(x['shape']).copy()
  return x

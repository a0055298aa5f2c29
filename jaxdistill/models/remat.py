"""What the backward pass keeps of a block, and what it computes again."""

from collections.abc import Callable
from typing import Any

import jax

from jaxdistill.dist import SUMMED, shards_of

_KEEP = jax.checkpoint_policies


def _gathers_again(block: Callable) -> Callable:
  """Keeps all but what is only laid out otherwise: gathered weights.

  Where nothing is gathered there is nothing to leave out, and a block that is
  plain keeps no copy of its weights.
  """
  if shards_of(jax.sharding.get_abstract_mesh(), 'embed') == 1:
    return block
  return jax.checkpoint(block, policy=_but_layouts, prevent_cse=False)


def _but_layouts(primitive: Any, *_, **__) -> bool:
  # Where a weight is frozen, its gathering stands as a whole.
  names = 'sharding_constraint', 'custom_vjp_call'
  return not primitive.name.startswith(names)


# The less is kept, the more is computed: `dots` keeps the products with
# weights, so that norms, activations and attention are what is done twice.
REMAT: dict[Any, Callable[[Callable], Callable]] = {
  'none': _gathers_again,
  'dots': lambda block: jax.checkpoint(
    block,
    policy=_KEEP.save_from_both_policies(
      _KEEP.dots_with_no_batch_dims_saveable,
      _KEEP.save_only_these_names(SUMMED),
    ),
  ),
  'full': jax.checkpoint,
}


def named(remat: Any) -> Any:
  """The name of a policy; it was a truth value once, also on disk."""
  return ('none', 'full')[remat] if isinstance(remat, bool) else remat

"""What the backward pass keeps of a block, and what it computes again."""

from collections.abc import Callable
from typing import Any

import jax

from jaxdistill.dist import SUMMED

_KEEP = jax.checkpoint_policies


def _but_layouts(primitive: Any, *_, **__) -> bool:
  """All is kept but what is only laid out otherwise: gathered weights."""
  return primitive.name != 'sharding_constraint'


# The less is kept, the more is computed: `dots` keeps the products with
# weights, so that norms, activations and attention are what is done twice.
REMAT: dict[Any, Callable[[Callable], Callable]] = {
  'none': lambda block: jax.checkpoint(
    block, policy=_but_layouts, prevent_cse=False
  ),
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

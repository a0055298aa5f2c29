"""What the backward pass keeps of a block, and what it computes again."""

from collections.abc import Callable
from typing import Any

import jax

# The less is kept, the more is computed: `dots` keeps the products with
# weights, so that norms, activations and attention are what is done twice.
REMAT: dict[Any, Callable[[Callable], Callable]] = {
  'none': lambda block: block,
  'dots': lambda block: jax.checkpoint(
    block, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  ),
  'full': jax.checkpoint,
}


def named(remat: Any) -> Any:
  """The name of a policy; it was a truth value once, also on disk."""
  return ('none', 'full')[remat] if isinstance(remat, bool) else remat

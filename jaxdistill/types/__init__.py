"""The nouns that all folders share: frozen, host side, free of JAX.

Data flows through them in this order:

  Problem -> Prompt -> Rollout -> Row -> (arrays, made in `batch/`)

One alphabet of axes, in shapes (`Float[Array, 'B T']`) and as suffixes of
ragged lists (`rollouts_PG`); a letter is one thing everywhere:

  P problems       G samples of one   T tokens        R scored tokens of them
  B sequences, or pages of keys   M microbatches
  C of a chunk, or choices
  E candidates of inner trainings     X steps of these
  L layers         D width            N query heads   K key-value heads
  H width of one   F angles of one    V vocabulary    I, O sides of a linear
  A rank           S slots of a page of keys
  Q queries of a page, or blocks  Y blocks of keys
  W shards         J samples on one   U rows on one: samples alike so far
  Z whatever axes there are
"""

from jaxdistill.types.collected import Anchor, Collected, Records
from jaxdistill.types.rollouts import Message, Prompt, Rollout
from jaxdistill.types.rows import Field, Row, RowSet, Update, response_row
from jaxdistill.types.tasks import Hint, Problem, Problems, Task
from jaxdistill.types.wordings import WORDINGS, Wording

__all__ = [
  'WORDINGS',
  'Anchor',
  'Collected',
  'Field',
  'Hint',
  'Message',
  'Problem',
  'Problems',
  'Prompt',
  'Records',
  'Rollout',
  'Row',
  'RowSet',
  'Task',
  'Update',
  'Wording',
  'response_row',
]

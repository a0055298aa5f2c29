"""Mesh, sharding by logical name, and agreement between hosts."""

from jaxdistill.dist.hosts import (
  agree_max,
  barrier,
  by_first,
  gather_texts,
  meet,
  start_hosts,
  sum_over_hosts,
  together,
)
from jaxdistill.dist.mesh import make_mesh
from jaxdistill.dist.axes import (
  DECODE_RULES,
  DRAWN,
  READ,
  RULES,
  constrain,
  local_part,
  parts,
  pinned,
  put_local,
  replicated,
  sharding,
  shards_of,
)
from jaxdistill.dist.watch import closing, ended

__all__ = [
  'DECODE_RULES',
  'DRAWN',
  'READ',
  'RULES',
  'agree_max',
  'barrier',
  'by_first',
  'closing',
  'constrain',
  'ended',
  'gather_texts',
  'local_part',
  'make_mesh',
  'meet',
  'parts',
  'pinned',
  'put_local',
  'replicated',
  'sharding',
  'shards_of',
  'start_hosts',
  'sum_over_hosts',
  'together',
]

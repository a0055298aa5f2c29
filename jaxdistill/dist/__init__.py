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
  BATCH_AXES,
  DECODE_RULES,
  RULES,
  batch_shards,
  constrain,
  local_part,
  pinned,
  put_local,
  replicated,
  sharding,
  whole,
)
from jaxdistill.dist.watch import closing, ended

__all__ = [
  'BATCH_AXES',
  'DECODE_RULES',
  'RULES',
  'agree_max',
  'barrier',
  'batch_shards',
  'by_first',
  'closing',
  'constrain',
  'ended',
  'gather_texts',
  'local_part',
  'make_mesh',
  'meet',
  'pinned',
  'put_local',
  'replicated',
  'sharding',
  'start_hosts',
  'sum_over_hosts',
  'together',
  'whole',
]

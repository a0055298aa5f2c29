"""Rows to packed, bucketed, sharded arrays."""

from jaxdistill.batch.arrays import (
  Batch,
  Reading,
  make_batch,
  make_minibatches,
  stack,
  take_rows,
)
from jaxdistill.batch.packing import Place, Shapes, bucket, common, pack

__all__ = [
  'Batch',
  'Place',
  'Reading',
  'Shapes',
  'bucket',
  'common',
  'make_batch',
  'make_minibatches',
  'pack',
  'stack',
  'take_rows',
]

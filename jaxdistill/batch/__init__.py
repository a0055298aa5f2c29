"""Rows to packed, bucketed, sharded arrays."""

from jaxdistill.batch.arrays import (
  Batch,
  Reading,
  dealt,
  fill,
  make_batch,
  make_minibatches,
  stack,
  take_rows,
)
from jaxdistill.batch.layout import Shapes, bucket, lay_out
from jaxdistill.batch.packing import Place, common, pack

__all__ = [
  'Batch',
  'Place',
  'Reading',
  'Shapes',
  'bucket',
  'common',
  'dealt',
  'fill',
  'lay_out',
  'make_batch',
  'make_minibatches',
  'pack',
  'stack',
  'take_rows',
]

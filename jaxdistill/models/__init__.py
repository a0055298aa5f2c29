"""Who answers: one shared decoder, role deltas, and models on disk."""

from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.decoder import Decoder
from jaxdistill.models.hub import export
from jaxdistill.models.linear import Deltas
from jaxdistill.models.store import from_pretrained, load, merge, save

__all__ = [
  'Decoder',
  'DecoderConfig',
  'Deltas',
  'export',
  'from_pretrained',
  'load',
  'merge',
  'save',
]

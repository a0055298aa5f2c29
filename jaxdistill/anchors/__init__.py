"""Frozen selves: when they move, and where they are kept."""

from jaxdistill.anchors.bank import Bank
from jaxdistill.anchors.keeper import Anchors
from jaxdistill.anchors.rules import (
  Best,
  Ema,
  Every,
  External,
  League,
  Rule,
  Trust,
  parse_rule,
)

__all__ = [
  'Anchors',
  'Bank',
  'Best',
  'Ema',
  'Every',
  'External',
  'League',
  'Rule',
  'Trust',
  'parse_rule',
]

"""Frozen selves: when they are taken, and where they are kept."""

from jaxdistill.anchors.bank import Bank
from jaxdistill.anchors.rules import Rule, parse_rule

__all__ = ['Bank', 'Rule', 'parse_rule']

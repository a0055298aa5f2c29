"""Is it better, and is it still itself?"""

from jaxdistill.eval.accuracy import (
  METRICS,
  accuracy,
  calibration_error,
  pass_at,
)
from jaxdistill.eval.alarms import (
  PROBED,
  Alarm,
  Alarms,
  Fired,
  GuardConfig,
  parse_alarm,
)
from jaxdistill.eval.fit import divergence, perplexity
from jaxdistill.eval.guard import Decision, decide

__all__ = [
  'METRICS',
  'PROBED',
  'Alarm',
  'Alarms',
  'Decision',
  'Fired',
  'GuardConfig',
  'accuracy',
  'calibration_error',
  'decide',
  'divergence',
  'parse_alarm',
  'pass_at',
  'perplexity',
]

"""Is it better, and is it still itself?"""

from jaxdistill.eval.accuracy import METRICS, accuracy, pass_at

__all__ = ['METRICS', 'accuracy', 'pass_at']

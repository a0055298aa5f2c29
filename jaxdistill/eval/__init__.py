"""Is it better, and is it still itself?"""

from jaxdistill.eval.accuracy import accuracy

__all__ = ['accuracy']

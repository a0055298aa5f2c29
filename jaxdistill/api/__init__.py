"""The Python interface, as `import jaxdistill as jd` has it."""

from jaxdistill.api.comparing import Compared, compare
from jaxdistill.api.gaps import Gap, gap
from jaxdistill.api.model import Answers, Model, Proposals, load
from jaxdistill.api.model import find_task as task
from jaxdistill.api.result import Result, plot
from jaxdistill.api.training import Steps, steps, train
from jaxdistill.config import Comparison, ConfigError, base_config
from jaxdistill.run.stopping import Stopped

__all__ = [
  'Answers',
  'Compared',
  'Comparison',
  'ConfigError',
  'Gap',
  'Model',
  'Proposals',
  'Result',
  'Steps',
  'Stopped',
  'base_config',
  'compare',
  'gap',
  'load',
  'plot',
  'steps',
  'task',
  'train',
]

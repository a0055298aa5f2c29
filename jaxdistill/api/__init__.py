"""The Python interface, as `import jaxdistill as jd` has it."""

from jaxdistill.api.comparing import Compared, compare
from jaxdistill.api.gaps import Gap, gap
from jaxdistill.api.ladders import Ladder, context
from jaxdistill.api.model import Answers, Model, Proposals, load
from jaxdistill.api.model import find_task as task
from jaxdistill.api.result import Result, plot
from jaxdistill.api.teaching import targets
from jaxdistill.api.training import Steps, steps, train
from jaxdistill.config import Comparison, ConfigError, base_config
from jaxdistill.data.targets import Targets
from jaxdistill.run.stopping import Stopped

__all__ = [
  'Answers',
  'Compared',
  'Comparison',
  'ConfigError',
  'Gap',
  'Ladder',
  'Model',
  'Proposals',
  'Result',
  'Steps',
  'Stopped',
  'Targets',
  'base_config',
  'compare',
  'context',
  'gap',
  'load',
  'plot',
  'steps',
  'targets',
  'task',
  'train',
]

"""What a run takes on devices that need not be here: memory, time, cost."""

import dataclasses
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jaxdistill import dist
from jaxdistill.anchors import External, parse_rule
from jaxdistill.batch import Shapes, dealt
from jaxdistill.config import ConfigError
from jaxdistill.config.parts import deltas_of, formats_of, method_of, refusing
from jaxdistill.data.tasks import load_task
from jaxdistill.dist.chips import GIB, Chip, chip_of
from jaxdistill.methods.method import Method, anchors_of
from jaxdistill.models import DecoderConfig, store
from jaxdistill.models.linear import precise
from jaxdistill.optimizer import OptimizerConfig
from jaxdistill.plan import hlo, programs, published
from jaxdistill.plan.rehearsal import Asked, Rehearsed, rehearse
from jaxdistill.rollout.budget import rows_within, weight_bytes
from jaxdistill.run.pool import shuffled
from jaxdistill.types import RowSet

_OUT = re.compile(r'memory required for .*? \(([\d.]+)([KMG])\)')
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30}


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled program on a device.

  Attributes:
    name: What it does.
    held: Bytes that are there while it runs, its own arguments included.
    needs: Bytes besides: results and what is between.
    cost: What it computes, reads and sends; None where it did not fit.
    times: Seconds that each of these takes at best, by cause; empty where the
      chip is not known.
    compiled_s: Compiling took.
  """

  name: str
  held: float
  needs: float
  cost: hlo.Cost | None
  times: Mapping[str, float]
  compiled_s: float

  @property
  def peak(self) -> float:
    """Bytes."""
    return self.held + self.needs

  @property
  def seconds(self) -> float:
    """Of a round at best: its slowest cause, as if all went at once."""
    return max(self.times.values(), default=0.0)

  @property
  def bound(self) -> str:
    """Its slowest cause."""
    return max(self.times, key=lambda cause: self.times[cause], default='')


class Held(NamedTuple):
  """Bytes on a device that are there throughout."""

  parameters: float
  moments: float
  frozen: float
  anchors: float
  teachers: float


@dataclasses.dataclass(frozen=True)
class Plan:
  """A run on some devices.

  Attributes:
    name: Of the devices.
    chips: How many.
    mesh: Sizes of its axes.
    chip: What is published of one; None where nothing is.
    held: What stays.
    programs: In the order in which a step runs them.
    phases: Seconds of a step whose answers are all of full length, at best, by
      what for.
    tokens: That such a step draws.
    steps: Of the run.
    evaluations: Seconds of all of them, at best.
    alone: Whether a device trains on one sequence at a time: then it holds less
      of it only by `mesh.context`.
  """

  name: str
  chips: int
  mesh: Mapping[str, int]
  chip: Chip | None
  held: Held
  programs: tuple[Program, ...]
  phases: Mapping[str, float]
  tokens: int
  steps: int
  evaluations: float
  alone: bool = False

  @property
  def worst(self) -> Program:
    return max(self.programs, key=lambda p: p.peak)

  @property
  def misfits(self) -> tuple[Program, ...]:
    """Programs that do not fit; none is known where memory is not."""
    room = self.chip.memory if self.chip else math.inf
    return tuple(p for p in self.programs if not p.cost or p.peak > room)

  @property
  def fits(self) -> bool:
    """Whether every program does."""
    return not self.misfits

  @property
  def seconds(self) -> float:
    """Of a step, at best."""
    return sum(self.phases.values())

  @property
  def hours(self) -> float:
    """Of the run, at best."""
    return (self.steps * self.seconds + self.evaluations) / 3600


def plan(
  config: Any,
  devices: Sequence[Any],
  name: str,
  tell: Callable[[str], None] = lambda text: None,
) -> Plan:
  """What a run takes.

  Args:
    config: Of the run, complete.
    devices: That it is to run on; they need not be here.
    name: What to call them.
    tell: Is given the name of each program before it is compiled.

  Raises:
    ConfigError: The mesh does not fit the devices, or the model is not known.
  """
  with refusing():
    mesh = dist.make_mesh(**config.mesh, devices=devices)
    method = method_of(config)
    optimizer = OptimizerConfig(**config.optimizer)
    model = decoder_of(config, config.model)
  placed = programs.describe(
    *(model, deltas_of(config), config.trainable, optimizer, mesh)
  )
  sizes = {
    name: decoder_of(config, rule.model)
    for name, anchor in anchors_of(method).items()
    if isinstance(rule := parse_rule(anchor.rule), External)
  }
  teachers = {n: programs.describe_teacher(x, mesh) for n, x in sizes.items()}
  held = _held(placed, method, config, teachers)
  asked = rehearsed(config, method, model)
  chip = chip_of(devices[0].device_kind)
  builder = _Builder(mesh, chip, config.dtype, held, tell)
  models = {'policy': (model, placed.player)}
  models |= {name: (sizes[name], teachers[name]) for name in sizes}
  calls = [
    call._replace(who=call.who if call.who in models else 'policy')
    for call in asked.asked
    if call.prompts
  ]
  with jax.set_mesh(mesh), precise(config.dtype):
    updates = _Updates(builder, placed, method, optimizer, teachers)
    trained, alone = updates.taken(asked, Shapes(**config.batch))
    drawn = {
      call.who: _draw(builder, *models[call.who], call, config)
      for call in _largest(calls)
    }
  read = sum(
    2 * programs.count_of(models.get(x.who, models['policy'])[1][1]) * x.tokens
    for x in asked.scored
  )
  phases = {
    'draw': sum(drawn[call.who].seconds(call) for call in calls),
    'score': read / len(devices) / chip.flops if chip else 0.0,
    'train': trained,
  }
  evaluations = 0.0
  if 'policy' in drawn and method.answers:
    answers = config.eval.problems * (config.eval.samples + 1)
    waves = math.ceil(answers * len(config.eval.splits) / drawn['policy'].rows)
    each = waves * config.eval.max_tokens * drawn['policy'].token
    evaluations = each * (config.steps // config.eval_every + 1)
  return Plan(
    *(name, len(devices), dict(mesh.shape), chip, held),
    tuple(builder.programs),
    phases,
    sum(call.tokens for call in calls),
    config.steps,
    evaluations,
    alone,
  )


def decoder_of(config: Any, name: str) -> DecoderConfig:
  """The sizes of a model, computed as a config says.

  Raises:
    ConfigError: They are not known.
  """
  with refusing():
    found = published if published.known(name) else store
    return dataclasses.replace(
      found.describe(name),
      dtype=config.dtype,
      remat=config.remat,
      attention=config.attention,
    )


def rehearsed(config: Any, method: Method, model: DecoderConfig) -> Rehearsed:
  """A step of the run, without a model."""
  with refusing():
    task = load_task(config.task)
    tokenizer = published.Rough(model.vocab_size)
    if not published.known(config.model):
      tokenizer = store.tokenizer_of(config.model)
    tokenizer = tokenizer.ending_at(task.ends)
    problems = shuffled(task, config.pool, config.seed)
    first = [
      dataclasses.replace(problems[i], address=i)
      for i in range(method.problems)
    ]
    return rehearse(method, first, model, tokenizer)


def _held(
  placed: programs.Placed, method: Method, config: Any, teachers: Mapping
) -> Held:
  params = programs.bytes_of(placed.state.params)
  moments = 0.0
  if not config.optimizer.offload:
    moments = programs.bytes_of(
      (placed.state.shared_opt, placed.state.role_opts)
    )
  selves = len(anchors_of(method)) - len(teachers)
  return Held(
    parameters=params,
    moments=moments,
    frozen=programs.bytes_of(placed.frozen),
    anchors=selves * params,
    teachers=sum(programs.bytes_of(t[1]) for t in teachers.values()),
  )


class _Builder:
  """Compiles programs and notes what they take."""

  def __init__(
    self,
    mesh: Mesh,
    chip: Chip | None,
    dtype: str,
    held: Held,
    tell: Callable[[str], None],
  ):
    self.mesh, self.chip, self.held, self.tell = mesh, chip, held, tell
    # A product of float32 is made of six of bfloat16.
    self.passes = 6 if dtype == 'float32' else 1
    self.programs: list[Program] = []

  def compile(self, name: str, lowered: Any, held: float) -> Any:
    """A compiled program; None if it does not fit.

    Args:
      name: What it does.
      lowered: It.
      held: Bytes on the device while it runs, its arguments included.
    """
    self.tell(name)
    begin = time.perf_counter()
    try:
      compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as e:
      found = _OUT.search(str(e))
      if 'RESOURCE_EXHAUSTED' not in str(e) or not found:
        raise
      needs = float(found[1]) * _UNITS[found[2]]
      took = time.perf_counter() - begin
      self.programs.append(Program(name, held, needs, None, {}, took))
      return None
    took = time.perf_counter() - begin
    memory = compiled.memory_analysis()
    needs = memory.temp_size_in_bytes + memory.output_size_in_bytes
    needs -= memory.alias_size_in_bytes
    cost = hlo.cost(compiled.as_text(), dict(self.mesh.shape))
    times = self.times(cost)
    self.programs.append(Program(name, held, needs, cost, times, took))
    return compiled

  def times(self, cost: hlo.Cost) -> dict[str, float]:
    """Seconds that each cause takes at best."""
    if not self.chip:
      return {}
    traffic = cost.traffic()
    between = sum(v for axes, v in traffic.items() if 'slice' in axes)
    inside = sum(traffic.values()) - between
    return {
      'computing': self.passes * cost.flops / self.chip.flops,
      'memory': cost.bytes / self.chip.memory_rate,
      'links': inside / self.chip.links_rate,
      'network': between / self.chip.network_rate,
    }

  def seconds(self, rounds: float = 1) -> float:
    """Of the newest program, with so many rounds of what is not known."""
    cost = self.programs[-1].cost
    if cost is None:
      return 0.0
    return max(self.times(cost.rounds(rounds)).values(), default=0.0)


class _Updates(NamedTuple):
  """What a step trains."""

  builder: _Builder
  placed: programs.Placed
  method: Method
  optimizer: OptimizerConfig
  teachers: Mapping

  def taken(self, asked: Rehearsed, shapes: Shapes) -> tuple[float, bool]:
    """Compiles the steps of all updates: seconds of all, and `Plan.alone`."""
    prompt = max((max(a.prompts, default=1) for a in asked.asked), default=1)
    response = max((a.sampling.max_tokens for a in asked.asked), default=1)
    total, alone, known = 0.0, False, {}
    shards = dist.shards_of(self.builder.mesh, 'batch')
    for update in asked.updates:
      # Of minibatches the first stands for all.
      first = [
        dealt(_long(s, prompt, response), update.minibatches)[0]
        for s in update.sets
      ]
      made = [programs.batch_of(s, self.builder.mesh, shapes) for s in first]
      key = tuple((batch.kind, layout) for batch, layout in made)
      if key not in known:
        batches = tuple(batch for batch, _ in made)
        rounds = sum(layout.used for _, layout in made) / len(made)
        lowered = programs.train(
          *(self.placed, self.method, self.optimizer, batches, self.teachers)
        )
        held = sum(self.builder.held) + programs.bytes_of(batches)
        self.builder.compile('train', lowered, held)
        known[key] = self.builder.seconds(rounds)
      alone |= any(layout.sequences <= shards for _, layout in made)
      total += known[key] * update.epochs * update.minibatches
    return total, alone


def _long(row_set: RowSet, prompt: int, response: int) -> RowSet:
  """A set as long as what was rehearsed, or as what may be drawn."""
  if row_set.rows:
    prompt = max(len(r.prompt_T) for r in row_set.rows)
    response = max(len(r.response_R) for r in row_set.rows)
  return programs.longest_of(row_set, prompt, response)


def _largest(calls: Sequence[Asked]) -> list[Asked]:
  """Of each model the call that draws most."""
  by: dict[str, Asked] = {}
  for call in calls:
    if call.who not in by or call.tokens > by[call.who].tokens:
      by[call.who] = call
  return [*by.values()]


class _Drawn(NamedTuple):
  """What drawing takes.

  Attributes:
    rows: In flight at most.
    begin: Seconds before the first token.
    token: Seconds of a token of all rows.
  """

  rows: int
  begin: float
  token: float

  def seconds(self, call: Asked) -> float:
    """Of a call whose answers are all as long as may be."""
    answers = len(call.prompts) * call.sampling.samples
    waves = math.ceil(answers / self.rows)
    return self.begin + waves * call.sampling.max_tokens * self.token


def _draw(
  builder: _Builder,
  model: DecoderConfig,
  player: tuple,
  call: Asked,
  config: Any,
) -> _Drawn:
  """Compiles what draws."""
  formats, who = formats_of(config), ''
  if call.who != 'policy':
    who = f'{call.who}: '
  held = sum(builder.held)
  weights = weight_bytes(player[1], model, builder.mesh, formats)
  gib = config.rollout.cache_gib
  if builder.chip:  # as a run finds it there
    room = builder.chip.memory
    gib = gib or max(room - held - weights, room / 20) * 0.7 / GIB
  try:
    most = rows_within(
      *(model, call.sampling, max(call.prompts), builder.mesh),
      *(gib, formats.cache, weights),
    )
  except ValueError as e:
    raise ConfigError(str(e)) from None
  made = programs.generation(
    *(player, model, builder.mesh, call, most, formats)
  )
  begin = token = 0.0
  layer = builder.compile(f'{who}lay a layer out', made.lay_out, held + weights)
  begin += builder.seconds() * model.num_layers
  ends = builder.compile(f'{who}lay the ends out', made.ends, held + weights)
  begin += builder.seconds()
  there = held + weights + made.cache
  if made.read is not None:
    builder.compile(f'{who}read prompts', made.read, there)
    begin += builder.seconds() * made.reads
  if layer is not None and ends is not None:
    lowered = made.advance(programs.weights_of(layer, ends, model))
    builder.compile(f'{who}draw a token', lowered, there)
    token = builder.seconds()
  return _Drawn(made.rows, begin, token)

"""What a run takes on devices that need not be here: memory, time, cost."""

import dataclasses
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jaxdistill import dist
from jaxdistill.anchors import External, parse_rule
from jaxdistill.batch import Shapes
from jaxdistill.config import ConfigError
from jaxdistill.config.parts import deltas_of, formats_of, method_of, refusing
from jaxdistill.data.tasks import load_task
from jaxdistill.methods.method import Method, anchors_of
from jaxdistill.models import DecoderConfig, store
from jaxdistill.models.int8 import Formats
from jaxdistill.optimizer import OptimizerConfig
from jaxdistill.plan import hlo, programs
from jaxdistill.plan.chips import GIB, Chip, chip_of
from jaxdistill.plan.rehearsal import Asked, Rehearsed, rehearse
from jaxdistill.rollout.budget import rows_within, weight_bytes
from jaxdistill.run.pool import shuffled

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
    seconds: It takes at best; None where the chip is not known.
    compiled_s: Compiling took.
  """

  name: str
  held: float
  needs: float
  cost: hlo.Cost | None
  seconds: float | None
  compiled_s: float

  @property
  def peak(self) -> float:
    """Bytes."""
    return self.held + self.needs


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
    phases: Seconds of a step at best, by what for.
    tokens: Drawn in a step at most.
    steps: Of the run.
    evaluations: Seconds of all of them, at best.
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

  @property
  def worst(self) -> Program:
    return max(self.programs, key=lambda p: p.peak)

  @property
  def fits(self) -> bool:
    """Whether every program does; True where memory is not known."""
    room = self.chip.memory if self.chip else math.inf
    return all(p.cost and p.peak <= room for p in self.programs)

  @property
  def seconds(self) -> float:
    """Of a step, at best."""
    return sum(self.phases.values())

  @property
  def hours(self) -> float:
    """Of the run, at best."""
    return (self.steps * self.seconds + self.evaluations) / 3600


def plan(config: Any, devices: Sequence[Any], name: str) -> Plan:
  """What a run takes.

  Args:
    config: Of the run, complete.
    devices: That it is to run on; they need not be here.
    name: What to call them.

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
  teachers = {
    name: decoder_of(config, rule.model)
    for name, anchor in anchors_of(method).items()
    if isinstance(rule := parse_rule(anchor.rule), External)
  }
  others = {
    name: programs.describe_teacher(teacher, mesh)
    for name, teacher in teachers.items()
  }
  held = _held(placed, method, config, others)
  asked = rehearsed(config, method, model)
  chip = chip_of(devices[0])
  builder = _Builder(mesh, chip, held)
  with jax.set_mesh(mesh):
    shapes = Shapes(**config.batch)
    trained = _train(builder, placed, method, optimizer, asked, shapes)
    formats = formats_of(config)
    models = {**{n: (model, placed.player) for n in ('policy', 'self')}}
    models |= {n: (teachers[n], others[n]) for n in teachers}
    drawn: dict[str, float] = {}
    for call in _largest(asked.asked, teachers):
      who = models.get(call.who, models['policy'])
      drawn |= _draw(builder, *who, call, config.rollout.cache_gib, formats)
  phases = {'draw': 0.0, 'train': trained}
  for call in asked.asked:
    phases['draw'] += _seconds_to_draw(call, drawn, teachers)
  rows = drawn.get('policy rows', 0)
  evaluations = 0.0
  if rows and method.answers:
    answers = config.eval.problems * (config.eval.samples + 1)
    waves = math.ceil(answers * len(config.eval.splits) / rows)
    each = waves * config.eval.max_tokens * drawn['policy token']
    evaluations = each * (config.steps // config.eval_every + 1)
  return Plan(
    *(name, len(devices), dict(mesh.shape), chip, held),
    tuple(builder.programs),
    phases,
    sum(call.tokens for call in asked.asked),
    config.steps,
    evaluations,
  )


def decoder_of(config: Any, name: str) -> DecoderConfig:
  """The sizes of a model, computed as a config says.

  Raises:
    ConfigError: They are not known.
  """
  with refusing():
    return dataclasses.replace(
      store.describe(name),
      dtype=config.dtype,
      remat=config.remat,
      attention=config.attention,
    )


def rehearsed(config: Any, method: Method, model: DecoderConfig) -> Rehearsed:
  """A step of the run, without a model."""
  with refusing():
    task = load_task(config.task)
    tokenizer = store.tokenizer_of(config.model).ending_at(task.ends)
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

  def __init__(self, mesh: Mesh, chip: Chip | None, held: Held):
    self.mesh, self.chip, self.held = mesh, chip, held
    self.programs: list[Program] = []

  def compile(self, name: str, lowered: Any, beside: float) -> Any:
    """A compiled program; None if it does not fit.

    Args:
      name: What it does.
      lowered: It.
      beside: Bytes on the device that are none of its arguments.
    """
    begin = time.perf_counter()
    try:
      compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as e:
      found = _OUT.search(str(e))
      if 'RESOURCE_EXHAUSTED' not in str(e) or not found:
        raise
      needs = float(found[1]) * _UNITS[found[2]]
      took = time.perf_counter() - begin
      self.programs.append(Program(name, beside, needs, None, None, took))
      return None
    took = time.perf_counter() - begin
    memory = compiled.memory_analysis()
    given = memory.argument_size_in_bytes
    needs = memory.temp_size_in_bytes + memory.output_size_in_bytes
    needs -= memory.alias_size_in_bytes
    cost = hlo.cost(compiled.as_text(), dict(self.mesh.shape))
    self.programs.append(
      Program(name, beside + given, needs, cost, self.at_best(cost), took)
    )
    return compiled

  def at_best(self, cost: hlo.Cost) -> float | None:
    """Seconds: the slowest of computing, reading and sending, all at once."""
    if not self.chip:
      return None
    traffic = cost.traffic()
    between = sum(v for axes, v in traffic.items() if 'slice' in axes)
    return max(
      cost.flops / self.chip.flops,
      cost.bytes / self.chip.memory_rate,
      (sum(traffic.values()) - between) / self.chip.links_rate,
      between / self.chip.network_rate,
    )

  def seconds(self) -> float:
    """Of the newest program; 0 where they are not known."""
    return self.programs[-1].seconds or 0.0


def _train(builder, placed, method, optimizer, asked, shapes) -> float:
  """Compiles the steps of all updates; seconds of all of them."""
  prompt = max((max(a.prompts, default=1) for a in asked.asked), default=1)
  response = max((a.sampling.max_tokens for a in asked.asked), default=1)
  total, known = 0.0, {}
  for update in asked.updates:
    sets = [_long(s, prompt, response) for s in update.sets]
    made = [programs.batch_of(s, builder.mesh, shapes) for s in sets]
    key = tuple((b.kind, layout._replace(used=0)) for b, layout in made)
    if key not in known:
      batches = tuple(b for b, _ in made)
      lowered = programs.train(placed, method, optimizer, batches)
      held = builder.held
      inside = any(a.in_loss for a in anchors_of(method).values())
      beside = held.teachers + (0 if inside else held.anchors)
      builder.compile('train', lowered, beside)
      known[key] = builder.seconds()
    rounds = sum(layout.used for _, layout in made) / len(made)
    total += known[key] * rounds * update.epochs
  return total


def _long(row_set, prompt, response):
  """A set as long as what was rehearsed, or as what may be drawn."""
  if row_set.rows:
    prompt = max(len(r.prompt_T) for r in row_set.rows)
    response = max(len(r.response_R) for r in row_set.rows)
  return programs.longest_of(row_set, prompt, response)


def _largest(asked: Sequence[Asked], teachers: Mapping) -> list[Asked]:
  """Of each model the call that draws most."""
  by: dict[str, Asked] = {}
  for call in asked:
    who = call.who if call.who in teachers else 'policy'
    if call.prompts and (who not in by or call.tokens > by[who].tokens):
      by[who] = call._replace(who=who)
  return [*by.values()]


def _draw(builder, model, player, call, gib, formats: Formats) -> dict:
  """Compiles what draws; seconds by what for, and how many rows."""
  held, who = builder.held, '' if call.who == 'policy' else f'{call.who}: '
  weights = weight_bytes(player[1], model, builder.mesh, formats)
  there = builder.chip.memory if builder.chip else 16 * GIB
  left = max(there - sum(held) - weights, there / 20) * 0.7
  try:
    most = rows_within(
      *(model, call.sampling, max(call.prompts), builder.mesh),
      *(gib or left / GIB, formats.cache),
    )
  except ValueError as e:
    raise ConfigError(str(e)) from None
  made = programs.generation(
    *(player, model, builder.mesh, call, most, formats)
  )
  own = programs.bytes_of(player[1])
  found = {f'{call.who} rows': made.rows}
  layer = builder.compile(
    f'{who}lay a layer out', made.lay_out, sum(held) - own + weights
  )
  found[f'{call.who} begin'] = builder.seconds() * model.num_layers
  ends = made.ends.compile()
  if made.read is not None:
    builder.compile(
      f'{who}read prompts', made.read, sum(held) - own + weights + made.cache
    )
    found[f'{call.who} begin'] += builder.seconds() * made.reads
  if layer is not None:
    lowered = made.advance(programs.weights_of(layer, ends, model))
    builder.compile(f'{who}draw a token', lowered, sum(held))
    found[f'{call.who} token'] = builder.seconds()
  return found


def _seconds_to_draw(call: Asked, drawn: Mapping, teachers: Mapping) -> float:
  who = call.who if call.who in teachers else 'policy'
  rows = drawn.get(f'{who} rows')
  if not rows or not call.prompts:
    return 0.0
  waves = math.ceil(len(call.prompts) * call.sampling.samples / rows)
  each = drawn.get(f'{who} token', 0.0) * call.sampling.max_tokens
  return waves * each + drawn[f'{who} begin']

"""A model that can be asked: of a run, or by name."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath
from flax import nnx
from ml_collections import ConfigDict

from jaxdistill import config as configs
from jaxdistill import rewards
from jaxdistill.api.refusing import in_one_line
from jaxdistill.config import ConfigError
from jaxdistill.config.keys import flat
from jaxdistill.data.tasks import SmallTask, load_task
from jaxdistill.data.text.symbols import SymbolTokenizer
from jaxdistill.models.store import is_own
from jaxdistill.plots.files import read_json
from jaxdistill.rollout import Sampling
from jaxdistill.rollout.player import Player
from jaxdistill.run import caches, stored, workdir
from jaxdistill.run.ask import evaluate, make_player
from jaxdistill.run.run import Run
from jaxdistill.run.step import Params, param_shardings, place, split_params
from jaxdistill.types import Problem, Prompt, Rollout, Task


def find_task(name: epath.PathLike | Task) -> Task:
  """A task by its name, from a file, or as it is.

  Args:
    name: `small`, `arithmetic:add:3,3`, a `.jsonl`, `.parquet` or `.py` file;
      see the README's table of tasks.

  Raises:
    ConfigError: There is no such task; the nearest is named.
  """
  if isinstance(name, Task):
    return name
  with in_one_line():
    return load_task(os.fspath(name))


@dataclasses.dataclass(frozen=True)
class Answers:
  """What a model answers to one problem, and how it votes.

  Attributes:
    problem: What was asked.
    rollouts_G: The samples, with their tokens and log-probs.
    answers_G: The answer of each; None where there is none, or it was cut.
    vote: The majority.
  """

  problem: Problem
  rollouts_G: Sequence[Rollout]
  answers_G: Sequence[str | None]
  vote: rewards.Vote

  @property
  def lines(self) -> list[str]:
    """Each response, and the vote, for people."""
    won = f'{self.vote.answer} ({self.vote.count} of {len(self.answers_G)})'
    if self.vote.answer is None:
      won = 'no majority'
    return [*map(_shown, self.rollouts_G), f'vote: {won}']

  def __str__(self) -> str:
    return '\n'.join(self.lines)


@dataclasses.dataclass(frozen=True)
class Proposals:
  """Problems that a model writes on one topic.

  Attributes:
    topic: What was asked for.
    rollouts_G: The samples, with their tokens and log-probs.
    problems_G: Each as a problem; None where it cannot be asked.
  """

  topic: str
  rollouts_G: Sequence[Rollout]
  problems_G: Sequence[Problem | None]

  @property
  def lines(self) -> list[str]:
    """Each proposal, for people."""
    return [*map(_shown, self.rollouts_G)]

  def __str__(self) -> str:
    return '\n'.join(self.lines)


def _shown(rollout: Rollout) -> str:
  return rollout.text + (' ... (cut)' if rollout.finish == 'length' else '')


@dataclasses.dataclass(frozen=True)
class Model:
  """A model that can be asked.

  All processes call its methods alike.

  Attributes:
    name: Which it is, in words.
    run: What it is asked with: seed, lengths, mesh, tokenizer.
    player: Who answers.
    default_task: Whose problems it is asked; None for a Hugging Face model that
      was given no task.
  """

  name: str
  run: Run = dataclasses.field(repr=False)
  player: Player = dataclasses.field(repr=False)
  default_task: Task | None = dataclasses.field(repr=False)

  @property
  def task(self) -> Task:
    """The task whose problems it is asked.

    Raises:
      ConfigError: It has been given none.
    """
    if self.default_task is None:
      raise ConfigError(
        f'{self.name} needs a --task, for example arithmetic:add:3,3'
      )
    return self.default_task

  @property
  def decoder(self) -> nnx.Module:
    """The model itself, with its role deltas."""
    return nnx.merge(self.player.graphdef, *self.player.params)

  def on(self, name: epath.PathLike | Task) -> 'Model':
    """The same, asked the problems of another task."""
    found = find_task(name)
    player = self.player.ending_at(found.ends)
    return dataclasses.replace(self, player=player, default_task=found)

  def example(self) -> Problem:
    """A problem that it may be asked."""
    if isinstance(self.task, SmallTask):
      return Problem('47+85', self.task, topic='add')
    with in_one_line():
      return self.task.problems('train')[0]

  def problem(self, text: str) -> Problem:
    """A text as a problem of its task; a model of text can be asked anything.

    Raises:
      ConfigError: It is no problem of the task; one that is, is named.
    """
    problem = self.task.parse_problem(text)
    if problem is None and not self.run.loaded.source:
      raise ConfigError(
        f'{text!r} is not a problem of {self.task.name}: a problem, e.g. '
        f'{self.example().text}'
      )
    return problem or Problem(text, self.task, topic=text)

  def ask(
    self,
    problem: str | Problem,
    samples: int = 8,
    *,
    temperature: float = 1.0,
    max_tokens: int = 0,
    seed: int = 0,
  ) -> Answers:
    """Answers to a problem, and their vote.

    Args:
      problem: A text, or a problem of any task.
      samples: How many answers.
      temperature: Of sampling; 0 takes the likeliest token.
      max_tokens: Longest answer; 0 is the run's own.
      seed: Another one draws other answers.

    Raises:
      ConfigError: It cannot be asked.
    """
    if isinstance(problem, str):
      problem = self.problem(problem)
    other = problem.task is not self.default_task
    player = self.on(problem.task).player if other else self.player
    prompt = Prompt('solver', problem.task.solver_prompt(problem), seed)
    sampling = samples, max_tokens, temperature
    rollouts_G = self._generate(player, prompt, sampling)
    answers_G = rewards.answers(problem.task, rollouts_G)
    return Answers(problem, rollouts_G, answers_G, rewards.majority(answers_G))

  def propose(
    self,
    topic: str,
    samples: int = 8,
    *,
    temperature: float = 1.0,
    max_tokens: int = 0,
    seed: int = 0,
  ) -> Proposals:
    """Problems that it writes on a topic; arguments as for `ask`.

    Raises:
      ConfigError: The task has no prompt for proposers.
    """
    with in_one_line():
      text = self.task.proposer_prompt(Problem(topic, self.task, topic=topic))
    prompt = Prompt('proposer', text, seed)
    sampling = samples, max_tokens, temperature
    rollouts_G = self._generate(self.player, prompt, sampling)
    problems_G = [self.task.parse_problem(r.text) for r in rollouts_G]
    return Proposals(topic, rollouts_G, problems_G)

  def _generate(self, player, prompt, sampling):
    samples, max_tokens, temperature = sampling
    key = jax.random.key(self.run.seed)
    with self.run.computing(), in_one_line():
      longest = max_tokens or self.run.eval.max_tokens
      drawn = Sampling(samples, longest, temperature)
      (rollouts_G,) = player.generate([prompt], drawn, key)
    return rollouts_G

  def problems(self, split: str = 'test', most: int = 0) -> list[Problem]:
    """The first problems of a split that `evaluate` asks.

    Args:
      split: Of its task.
      most: How many at most; 0 is the run's own `eval.problems`.

    Raises:
      ConfigError: There is no such split, or it has no symbol for one of them.
    """
    with in_one_line():
      found = self.task.problems(split)
      n = min(len(found), most or self.run.eval.problems)
      if isinstance(self.run.loaded.tokenizer, SymbolTokenizer):
        for i in range(n):
          self.run.loaded.tokenizer.encode(self.task.solver_prompt(found[i]))
      return [found[i] for i in range(n)]

  def evaluate(
    self,
    split: str = 'test',
    samples: int = 8,
    *,
    problems: int = 0,
    max_tokens: int = 0,
    pass_k: Sequence[int] = (),
  ) -> dict[str, float]:
    """Accuracy on held-out problems: greedy, sampled, by vote.

    Args:
      split: `dev`, `test` or `ood`.
      samples: Answers to each problem.
      problems: How many at most; 0 is the run's own `eval.problems`.
      max_tokens: Longest answer; 0 is the run's own.
      pass_k: Which `pass_at/K` to add, each at most `samples`.

    Returns:
      `eval/<split>/<metric>`.

    Raises:
      ConfigError: There is no such split, or too few samples.
    """
    check_pass_k(pass_k, samples)
    n = len(self.problems(split, problems))
    wanted = dataclasses.replace(
      self.run.eval,
      splits=(split,),
      samples=samples,
      problems=n,
      max_tokens=max_tokens or self.run.eval.max_tokens,
    )
    run = dataclasses.replace(self.run, eval=wanted, task=self.task)
    with run.computing():
      return evaluate(run, self.player, pass_k)


def check_pass_k(pass_k: Sequence[int], samples: int) -> None:
  """Refuses a K that there are not so many samples for."""
  if max(pass_k, default=0) > samples:
    raise ConfigError(
      f'--pass_k {max(pass_k)} needs as many --samples; it has {samples}'
    )


def load(
  model: epath.PathLike,
  *,
  anchor: str | None = None,
  task: epath.PathLike | Task | None = None,
  mesh: Mapping[str, int] | None = None,
) -> Model:
  """A model that can be asked.

  All processes call it alike, once they are joined (`dist.start_hosts`).

  Args:
    model: A run's folder, a shipped base (`small-early`, `small-middle`,
      `small-late`, `small-wide`, `small-judge`, `small-foreign`, `small-peer`),
      a directory, or `hf:owner/name`.
    anchor: Of a run: a past version, such as `base@0`; the newest checkpoint if
      None.
    task: Whose problems it is asked; if None the run's own, or `small` for a
      model of our own format.
    mesh: How devices share it, keys of `config.mesh`; whole on each if None.

  Raises:
    ConfigError: There is no such model, version or task, or the devices make
      no such mesh.
  """
  named = None if task is None else find_task(task)
  name = os.fspath(model)
  if _is_run(name):
    found = load_run(name, anchor, **mesh or {})
  elif anchor:
    raise ConfigError(f'anchor {anchor!r} is of a run, and {name} is none')
  else:
    found = load_base(name, **mesh or {})
  return found if named is None else found.on(named)


def load_base(name: str, **mesh: int) -> Model:
  """A model by name, see `load`; `mesh` are keys of `config.mesh`."""
  config = base_config(name)
  config.mesh.update(mesh)
  run = _build(config)
  graphdef, params = _placed(run)
  own = None if run.loaded.source else run.task
  return Model(name, run, make_player(run, graphdef, params), own)


def load_run(
  folder: epath.PathLike, anchor: str | None = None, **mesh: int
) -> Model:
  """A version of a run's model; see `load_base`."""
  config = run_config(folder, anchor)
  config.mesh.update(mesh)
  run = _build(config)
  graphdef, params = _placed(run)
  with run.computing(), in_one_line():
    like = Params(*params[:2])
    version = stored.stored_params(folder, anchor, like)
  player = make_player(run, graphdef, (*version, params[2]))
  name = f'{folder} {anchor or "(newest checkpoint)"}'
  return Model(name, run, player, run.task)


def _build(config: Any) -> Run:
  caches.cache_compilations()
  if jax.process_count() > 1 and is_own(config.model):
    configs.make_data(config)  # its symbols are looked for there
  return configs.build(config)


def _placed(run: Run) -> tuple[nnx.GraphDef, tuple]:
  """A run's model, on its mesh."""
  graphdef, moving, frozen = split_params(run.loaded.model, run.trainable)
  params = (*moving, frozen)
  with run.computing():
    return graphdef, place(params, param_shardings(params, run.mesh))


def base_config(name: str) -> Any:
  """The checked config by which a model of that name is asked."""
  config = configs.base_config('sft')
  config.model, config.roles = name, 'shared'
  configs.check(config)
  return config


def run_config(folder: epath.PathLike, anchor: str | None = None) -> Any:
  """The checked config of a run, for this machine; its version is there."""
  with in_one_line():
    read = workdir.read_config(folder)
  config: Any = ConfigDict(read, convert_dict=True)
  config.mesh = {'data': -1, 'fsdp': 1, 'tensor': 1, 'context': 1}
  _complete(config)
  configs.check(config)
  with in_one_line():
    stored.check_stored(folder, anchor)
  return config


def _complete(config: Any) -> None:
  """Gives a run's config what has come since and changes nothing it does."""
  configs.check_frame(config)
  there = flat(config)
  for key, value in flat(configs.base_config(config.method.name)).items():
    section, _, name = key.rpartition('.')
    if key in workdir.MAY_CHANGE and key not in there and section in config:
      config[section][name] = value


def _is_run(name: str) -> bool:
  with in_one_line():
    path = epath.Path(name)
    run = 'method' in read_json(path / 'config.json')
    return run or (path / 'checkpoints').exists()

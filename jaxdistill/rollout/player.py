"""A player is anyone who can answer: the policy, an anchor, a teacher."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array

from jaxdistill import dist
from jaxdistill.batch import (
  Shapes,
  common,
  make_batch,
  stack,
  take_rows,
)
from jaxdistill.data.text.tokenizer import Tokenizer
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.int8 import Formats
from jaxdistill.models.linear import place_of
from jaxdistill.optimizer import OptimizerConfig
from jaxdistill.rollout import adapt
from jaxdistill.rollout.budget import rows_within, weight_bytes
from jaxdistill.rollout.dispatch import Response
from jaxdistill.rollout.engine import generate
from jaxdistill.rollout.markers import MARKERS
from jaxdistill.rollout.samplers import Sampling, withhold
from jaxdistill.rollout.score import Entropy, Grade, Of, Own, Top, score
from jaxdistill.types import Field, Prompt, Rollout, Row, RowSet


@dataclasses.dataclass(frozen=True)
class Player:
  """Parameters that can be asked.

  All processes call the same verbs in the same order, each with its own
  prompts; a process may have none.

  Attributes:
    graphdef: Of a `Decoder`.
    params: Its parameters, in any number of parts.
    roles: Names of its roles, by index.
    tokenizer: Texts to ids and back.
    mesh: Where the parameters live.
    shapes: Layout of scored sequences.
    cache_gib: What each device gives to what it generates, in GiB; 0: most of
      what it has left.
    formats: How generation keeps weights, keys and values; the log-probs of
      what it draws are those that it draws by. Nothing else depends on it.
    markers: The words of doubt that are counted in what it says.
    programs: Of the run, if there is one: what is compiled ahead.
  """

  graphdef: nnx.GraphDef
  params: tuple[nnx.State, ...]
  roles: tuple[str, ...]
  tokenizer: Tokenizer
  mesh: Mesh
  shapes: Shapes
  cache_gib: float = 0.0
  formats: Formats = Formats()  # noqa: RUF009
  markers: tuple[str, ...] = MARKERS
  programs: dist.Programs = dist.Programs()  # noqa: RUF009

  def ending_at(self, text: str) -> 'Player':
    """The same whose responses also end at a text, if it is not empty."""
    tokenizer = self.tokenizer.ending_at(text)
    return dataclasses.replace(self, tokenizer=tokenizer)

  def adapted(
    self,
    sets_E: Sequence[RowSet],
    loss: Callable,
    optimizer: OptimizerConfig,
    steps: int | Sequence[int],
    *,
    key: Array,
    rank: int = 16,
    alpha: float = 16.0,
    scales: Sequence[float] | None = None,
  ) -> 'list[Player]':
    """What this player would be if it learned each of several sets of rows.

    Each candidate trains an adapter of its own, on every linear map of every
    layer, while all else stands still; all of them in one program. Every
    process calls it with as many sets, each with its share of the rows.

    Args:
      sets_E: One per candidate, of one role, the same fields and kind.
      loss: A method's `loss`, given no anchors.
      optimizer: Of each; its schedule counts these steps.
      steps: Optimizer steps, for all or by candidate.
      key: Of the adapters' beginnings: one, from which all begin alike, or one
        by candidate, `[E]`.
      rank: Of the adapters.
      alpha: They are scaled by `alpha / rank`.
      scales: Of the learning rate, by candidate; 1 if not given.

    Returns:
      A player per candidate. They share this one's parameters.

    Raises:
      ValueError: The sets are of several roles, there are more or fewer keys,
        or this is adapted already.
    """
    model = nnx.merge(self.graphdef, *self.params)
    if model.deltas.inner:
      raise ValueError('an adapted player is not adapted again; merge it first')
    if len({(s.role, s.kind, s.fields) for s in sets_E}) > 1:
      raise ValueError('candidates of one call differ in role, kind or fields')
    deltas = dataclasses.replace(model.deltas, inner=rank, inner_alpha=alpha)
    graphdef = adapt.widened(model.config, deltas)
    keys = key if key.ndim else jnp.repeat(key[None], len(sets_E), 0)
    if len(keys) != len(sets_E):
      raise ValueError(f'{len(sets_E)} candidates have {len(keys)} keys')
    role = place_of(sets_E[0].role, self.roles)
    trunk = nnx.state(model)
    adapters, _ = adapt.train(
      graphdef,
      adapt.fresh_adapters(model.config, deltas, keys),
      trunk,
      stack(sets_E, role, self.mesh, self.shapes),
      adapt.rates_of(optimizer, len(sets_E), steps, scales),
      loss=loss,
      optimizer=optimizer,
    )
    players_E: list[Player] = [
      dataclasses.replace(
        self,
        graphdef=graphdef,
        params=(adapt.one_of(adapters, e), trunk),
      )
      for e in range(len(sets_E))
    ]
    return players_E

  def encode(self, prompt: Prompt) -> np.ndarray:
    """Prompt token ids, as the model is asked, int32[P]."""
    return np.array(
      self.tokenizer.prompt(prompt.messages, prompt.think), np.int32
    )

  def written(self, prompt: Prompt, response: str) -> Rollout:
    """A response that was given rather than sampled, as a rollout."""
    ids = [*self.tokenizer.encode(response), self.tokenizer.eos_ids[0]]
    tokens = np.array(ids, np.int32)
    zeros = np.zeros(len(ids), np.float32)
    return Rollout(
      prompt=prompt,
      prompt_T=self.encode(prompt),
      tokens_T=tokens,
      logp_T=zeros,
      kept_T=zeros,
      finish='stop',
      text=response,
      vocabulary=self.tokenizer.vocabulary,
      markers=self.markers,
    )

  def generate(
    self,
    prompts_P: Sequence[Prompt],
    sampling: Sampling,
    key: Array,
    expected: int = 0,
  ) -> list[list[Rollout]]:
    """Samples responses.

    Args:
      prompts_P: This host's prompts, all of one role over all hosts.
      sampling: How to draw; `sampling.samples` responses each.
      key: Sample g of a prompt depends on (key, its address, g)
        and not on what else is asked.
      expected: Prompts of this host that another such call may have, if they
        are more than these: sizes, and so programs, are chosen for so many.

    Returns:
      rollouts_PG.

    Raises:
      ValueError: The prompts are of several roles, or of one that there is not.
    """
    ids_P = dist.together(lambda: [self.encode(p) for p in prompts_P])
    return self._generate(prompts_P, ids_P, sampling, key, expected)

  def withheld(self, share: float, key: Array) -> np.ndarray:
    """The tokens that `generate` withholds, bool[V].

    Args:
      share: The `dropout` of its sampling.
      key: Its key.
    """
    ends = self.tokenizer.eos_ids
    return np.asarray(withhold(key, self.config.vocab_size, share, ends))

  def follow_up(
    self,
    rollouts: Sequence[Rollout],
    observations: Sequence[str],
    sampling: Sampling,
    key: Array,
  ) -> list[list[Rollout]]:
    """Goes on after responses: another turn of each.

    The model reads the very tokens that were sampled, not their text. A
    response that the length limit cut cannot be gone on from and stays as it
    is.

    Args:
      rollouts: This host's, of one role over all hosts.
      observations: What the model is told after each.
      sampling: How to draw; `sampling.samples` continuations each.
      key: As for `generate`; siblings of one prompt draw each for themselves.

    Returns:
      By rollout its continuations, each with all turns so far.
    """
    dist.together(lambda: self._check_vocabulary(rollouts))
    siblings = Counter(r.prompt.address for r in rollouts)
    (most,) = dist.agree_max(max(siblings.values(), default=1))
    before: Counter[int] = Counter()
    prompts, ids = [], []
    between = dist.together(lambda: self._turns(rollouts, observations))
    for i, rollout in enumerate(rollouts):
      prompt, place = rollout.prompt, before[rollout.prompt.address]
      before[prompt.address] += 1
      if i in between:
        address = prompt.address * most + place
        prompts.append(dataclasses.replace(prompt, address=address))
        ids.append(
          np.concatenate([rollout.prompt_T, rollout.tokens_T, between[i]])
        )
    new = self._generate(prompts, ids, sampling, key)
    went_on = dict(zip(between, new, strict=True))
    return [
      [_joined(rollout, between[i], r) for r in went_on[i]]
      if i in went_on
      else [rollout] * sampling.samples
      for i, rollout in enumerate(rollouts)
    ]

  def _turns(
    self, rollouts: Sequence[Rollout], observations: Sequence[str]
  ) -> dict[int, np.ndarray]:
    """Ids of what is said after those responses that can be gone on from."""
    pairs = enumerate(zip(rollouts, observations, strict=True))
    return {
      i: np.array(self.tokenizer.turn(said, r.prompt.think), np.int32)
      for i, (r, said) in pairs
      if r.finish == 'stop'
    }

  def _generate(
    self, prompts_P, ids_P, sampling, key, expected=0
  ) -> list[list[Rollout]]:
    """Rollouts that go on after the ids of each prompt."""
    if self.grades:
      raise ValueError('this model grades texts; it cannot write any')
    prefix, role = _prefix(ids_P), self.role_of(prompts_P)
    (longest,) = dist.agree_max(max(map(len, ids_P), default=1))
    responses = generate(
      self.graphdef,
      self.params,
      prefix,
      [ids[len(prefix) :] for ids in ids_P],
      [prompt.address for prompt in prompts_P],
      key,
      role,
      mesh=self.mesh,
      most=rows_within(
        *(self.config, sampling, longest, self.mesh, self.cache_gib),
        self.formats.cache,
        weight_bytes(self.params, self.config, self.mesh, self.formats),
      ),
      sampling=sampling,
      eos_ids=self.tokenizer.eos_ids,
      formats=self.formats,
      expected=expected,
      programs=self.programs,
    )
    return [
      [self._rollout(prompt, ids, r) for r in responses_G]
      for prompt, ids, responses_G in zip(
        prompts_P, ids_P, responses, strict=True
      )
    ]

  @property
  def config(self) -> DecoderConfig:
    return nnx.merge(self.graphdef, *self.params).config

  def _rollout(self, prompt: Prompt, ids: np.ndarray, r: Response) -> Rollout:
    return Rollout(
      prompt=prompt,
      prompt_T=ids,
      tokens_T=r.tokens,
      logp_T=r.logp,
      kept_T=r.kept,
      finish='stop' if r.stopped else 'length',
      text=self.tokenizer.decode(r.tokens.tolist()),
      vocabulary=self.tokenizer.vocabulary,
      markers=self.markers,
    )

  def role_of(self, prompts: Sequence[Prompt]) -> int:
    """The index of the one role that all hosts' prompts are of."""
    places = dist.together(
      lambda: [place_of(p.role, self.roles) for p in prompts]
    )
    most, least = dist.agree_max(
      max(places, default=0), -min(places, default=len(self.roles))
    )
    if -least < most:
      names = sorted({self.roles[i] for i in (most, -least)})
      raise ValueError(f'prompts of one call are of roles {", ".join(names)}')
    return most

  def logprobs(
    self, rollouts: Sequence[Rollout], temperature: float = 1.0
  ) -> list[np.ndarray]:
    """log p(token) of each response token, full softmax, float32[T] each.

    Args:
      rollouts: This host's, all of one role over all hosts.
      temperature: Divides the logits.

    Raises:
      ValueError: They are of several roles, or of another tokenizer.
    """
    return self._score(rollouts, Own(), temperature)

  def logprobs_of(
    self,
    rollouts: Sequence[Rollout],
    ids: Sequence[np.ndarray],
    temperature: float = 1.0,
  ) -> list[np.ndarray]:
    """log p of given tokens in the place of each, float32[T, k] by rollout.

    Args:
      rollouts: This host's, all of one role over all hosts.
      ids: By rollout, int32[T, k] of one k on all hosts.
      temperature: Divides the logits.
    """
    return self._score(rollouts, Of(), temperature, ids)

  def top(
    self, rollouts: Sequence[Rollout], k: int, temperature: float = 1.0
  ) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The k likeliest tokens in the place of each, and their log p.

    Args:
      rollouts: This host's, all of one role over all hosts.
      k: How many.
      temperature: Divides the logits.

    Returns:
      By rollout int32[T, k], likeliest first, and float32[T, k].
    """
    return self._score(rollouts, Top(k), temperature)

  @property
  def grades(self) -> bool:
    """Whether it reads texts and grades them, and writes none."""
    return self.config.grades

  def grade(self, prompts: Sequence[Prompt]) -> np.ndarray:
    """What each text is worth, read as a whole, float32[B].

    Args:
      prompts: This host's, all of one role over all hosts.
    """
    read = dist.together(lambda: [self.written(p, '') for p in prompts])
    grades = self._score(read, Grade(), 1.0)
    return np.array([grade[0] for grade in grades], np.float32)

  def entropies(
    self, rollouts: Sequence[Rollout], temperature: float = 1.0
  ) -> list[np.ndarray]:
    """Entropy of what may come in the place of each token, nats, float32[T]."""
    return self._score(rollouts, Entropy(), temperature)

  def asked(self, rollout: Rollout, prompt: Prompt) -> Rollout:
    """A response as if it had been given to another prompt."""
    return dataclasses.replace(
      rollout, prompt=prompt, prompt_T=self.encode(prompt)
    )

  def _score(self, rollouts, what, temperature, ids=None) -> Any:
    dist.together(lambda: self._check_vocabulary(rollouts))
    read = [{}] * len(rollouts) if ids is None else [{'ids': i} for i in ids]
    rows = [
      Row(r.prompt_T, r.tokens_T, np.zeros(len(r.tokens_T)), 0, fields)
      for r, fields in zip(rollouts, read, strict=True)
    ]
    specs = ()
    if ids is not None:
      (k,) = dist.agree_max(max((i.shape[1] for i in ids), default=1))
      specs = (Field('ids', (k,), 'int32'),)
    role = self.role_of([r.prompt for r in rollouts])
    batch, places = make_batch(
      RowSet('', rows, specs, apart=not self.config.causal),
      *(role, self.mesh, self.shapes),
    )
    values = self.programs(
      *(score, self.params, batch, np.float32(temperature)),
      graphdef=self.graphdef,
      what=what,
    )
    if isinstance(values, tuple):
      return tuple(take_rows(v, places, rows) for v in values)
    return take_rows(values, places, rows)

  def _check_vocabulary(self, rollouts: Sequence[Rollout]) -> None:
    for r in rollouts:
      if r.vocabulary not in ('', self.tokenizer.vocabulary):
        raise ValueError(
          'a response of one tokenizer cannot be read by a model of another; '
          'write it anew: player.written(prompt, rollout.text)'
        )

  def choose(
    self, prompts: Sequence[Prompt], choices: Sequence[str]
  ) -> np.ndarray:
    """Log-probs of given continuations, float32[B, C].

    Each is the sum over a choice's own tokens, without the end mark.
    """
    shown = dist.together(
      lambda: [self.written(p, choice) for p in prompts for choice in choices]
    )
    sums = [logp[:-1].sum() for logp in self.logprobs(shown)]
    return np.array(sums, np.float32).reshape(len(prompts), len(choices))


def _prefix(ids_P: Sequence[np.ndarray]) -> np.ndarray:
  """What all prompts of all hosts begin with, at least a token short of any.

  Its length is a multiple of 4: a token more in common by chance compiles
  nothing anew.
  """
  mine = []
  if ids_P:
    shared = _common_to(ids_P)[: min(map(len, ids_P)) - 1]
    mine = [','.join(map(str, shared))]
  everyones = [
    np.array([int(x) for x in text.split(',') if x], np.int32)
    for text in dist.gather_texts(mine)
  ]
  prefix = _common_to(everyones) if everyones else np.zeros(0, np.int32)
  return prefix[: len(prefix) // 4 * 4]


def _common_to(ids_P: Sequence[np.ndarray]) -> np.ndarray:
  """What all of them begin with: what the least and the greatest do."""
  least, greatest = (f(ids_P, key=lambda x: x.tolist()) for f in (min, max))
  return least[: common(least, greatest)]


def _joined(before: Rollout, said: np.ndarray, after: Rollout) -> Rollout:
  """A rollout with one more turn, after an observation."""
  zeros = np.zeros(len(said), np.float32)
  turn = before.turn_T.max(initial=0) + 1
  turns = np.repeat([-1, turn], [len(said), len(after.tokens_T)])
  return Rollout(
    prompt=before.prompt,
    prompt_T=before.prompt_T,
    tokens_T=np.concatenate([before.tokens_T, said, after.tokens_T]),
    logp_T=np.concatenate([before.logp_T, zeros, after.logp_T]),
    kept_T=np.concatenate([before.kept_T, zeros, after.kept_T]),
    finish=after.finish,
    text=after.text,
    turn_T=np.concatenate([before.turn_T, turns.astype(np.int32)]),
    earlier=(*before.earlier, before.text),
    vocabulary=before.vocabulary,
    markers=before.markers,
  )

"""A player is anyone who can answer: the policy, an anchor, a teacher."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array

from jaxdistill import dist
from jaxdistill.batch import Shapes, bucket, make_batch, take_rows
from jaxdistill.data.text.tokenizer import Tokenizer
from jaxdistill.rollout.engine import generate, lay_out
from jaxdistill.rollout.samplers import Sampling
from jaxdistill.types import Prompt, Rollout, Row, RowSet


@dataclasses.dataclass(frozen=True)
class Player:
  """Parameters that can be asked.

  All processes call the same verbs in the same order, each with its own
  prompts; a process may have none.

  Attributes:
    graphdef: Of a `Decoder`.
    params: Its parameters, in any number of parts.
    roles: Names of its roles, by index; a role without deltas needs no name.
    tokenizer: Texts to ids and back.
    mesh: Where the parameters live.
    shapes: Layout of scored sequences.
    max_prompts: Most prompts in one compiled call, over all hosts.
  """

  graphdef: nnx.GraphDef
  params: tuple[nnx.State, ...]
  roles: tuple[str, ...]
  tokenizer: Tokenizer
  mesh: Mesh
  shapes: Shapes
  max_prompts: int

  def ending_at(self, text: str) -> 'Player':
    """The same whose responses also end at a text, if it is not empty."""
    tokenizer = self.tokenizer.ending_at(text)
    return dataclasses.replace(self, tokenizer=tokenizer)

  def encode(self, prompt: Prompt) -> np.ndarray:
    """Prompt token ids, as the model is asked, int32[P]."""
    return np.array(self.tokenizer.prompt(prompt.text), np.int32)

  def written(self, prompt: Prompt, response: str) -> Rollout:
    """A response that was given rather than sampled, as a rollout."""
    ids = [*self.tokenizer.encode(response), self.tokenizer.eos_ids[0]]
    tokens = np.array(ids, np.int32)
    zeros = np.zeros(len(ids), np.float32)
    prompt_ids = self.encode(prompt)
    return Rollout(prompt, prompt_ids, tokens, zeros, zeros, 'stop', response)

  def generate(
    self, prompts_P: Sequence[Prompt], sampling: Sampling, key: Array
  ) -> list[list[Rollout]]:
    """Samples responses.

    Args:
      prompts_P: This host's prompts, all of one role over all hosts.
      sampling: How to draw; `sampling.samples` responses each.
      key: Sample g of the prompt at address `row` depends on (key, row, g)
        and not on what else is asked.

    Returns:
      rollouts_PG.
    """
    ids_P = [self.encode(prompt) for prompt in prompts_P]
    prefix = _prefix(ids_P)
    shards = dist.batch_shards(self.mesh)
    longest = max((len(ids) for ids in ids_P), default=1) - len(prefix)
    count, longest, role = dist.agree_max(
      len(prompts_P), longest, max(map(self._role, prompts_P), default=0)
    )
    hosts = jax.process_count()
    most = max(self.max_prompts // shards, 1) * shards // hosts
    size = min(_power(count, max(shards // hosts, 1)), most)
    width = bucket(longest, 4)
    if not count:
      return []
    weights = lay_out(self.graphdef, self.params, np.int32(role))
    ask = functools.partial(
      self._ask, weights, prefix, (size, width), role, sampling, key
    )
    rollouts_PG = []
    for start in range(0, count, size):
      chunk = slice(start, start + size)
      rollouts_PG += ask(prompts_P[chunk], ids_P[chunk])
    return rollouts_PG

  def _role(self, prompt: Prompt) -> int:
    return self.roles.index(prompt.role) if prompt.role in self.roles else 0

  def _ask(self, weights, prefix, shape, role, sampling, key, prompts_P, ids_P):
    """Rollouts of at most `shape[0]` prompts, in one go."""
    tokens, lengths = np.zeros(shape, np.int32), np.zeros(shape[0], np.int32)
    rows = np.zeros(shape[0], np.int32)
    for i, (prompt, ids) in enumerate(zip(prompts_P, ids_P, strict=True)):
      rest = ids[len(prefix) :]
      tokens[i, shape[1] - len(rest) :] = rest
      lengths[i], rows[i] = len(rest), prompt.row
    put = functools.partial(dist.put_local, self.mesh)
    out = generate(
      self.graphdef,
      self.params,
      weights,
      prefix,
      put(tokens),
      put(lengths),
      put(rows),
      key,
      np.int32(role),
      shards=dist.batch_shards(self.mesh),
      sampling=sampling,
      eos_ids=self.tokenizer.eos_ids,
    )
    tokens, logp, kept, stopped = map(dist.local_part, out)
    rollouts_PG = []
    for i, prompt in enumerate(prompts_P):
      group = []
      for g in range(sampling.samples):
        ends = np.flatnonzero(np.isin(tokens[i, g], self.tokenizer.eos_ids))
        n = ends[0] + 1 if stopped[i, g] else sampling.max_tokens
        group.append(
          Rollout(
            prompt=prompt,
            prompt_T=ids_P[i],
            tokens_T=tokens[i, g, :n],
            logp_T=logp[i, g, :n],
            kept_T=kept[i, g, :n],
            finish='stop' if stopped[i, g] else 'length',
            text=self.tokenizer.decode(tokens[i, g, :n].tolist()),
          )
        )
      rollouts_PG.append(group)
    return rollouts_PG

  def logprobs(
    self, rollouts: Sequence[Rollout], temperature: float = 1.0
  ) -> list[np.ndarray]:
    """log p(token) of each response token, full softmax, float32[T] each.

    Args:
      rollouts: This host's, all of one role over all hosts.
      temperature: Divides the logits.
    """
    rows = [
      Row(r.prompt_T, r.tokens_T, np.zeros(len(r.tokens_T), np.float32), 0)
      for r in rollouts
    ]
    roles = [self._role(r.prompt) for r in rollouts]
    (role,) = dist.agree_max(max(roles, default=0))
    batch, places = make_batch(RowSet('', rows), role, self.mesh, self.shapes)
    values = score(self.graphdef, self.params, batch, np.float32(temperature))
    return take_rows(values, places, rows)

  def choose(
    self, prompts: Sequence[Prompt], choices: Sequence[str]
  ) -> np.ndarray:
    """Log-probs of given continuations, float32[B, C].

    Each is the sum over a choice's own tokens, without the end mark.
    """
    shown = [self.written(p, choice) for p in prompts for choice in choices]
    sums = [logp[:-1].sum() for logp in self.logprobs(shown)]
    return np.array(sums, np.float32).reshape(len(prompts), len(choices))


def _power(n: int, least: int) -> int:
  """The smallest `least * 2**k` that is at least `n`: few programs."""
  return least << max(-(-n // least) - 1, 0).bit_length()


def _prefix(ids_P: Sequence[np.ndarray]) -> np.ndarray:
  """What all prompts of all hosts begin with, at least a token short of any.

  Its length is a multiple of 4: a token more in common by chance compiles
  nothing anew.
  """
  mine = []
  if ids_P:
    shared = _shared(ids_P)[: min(map(len, ids_P)) - 1]
    mine = [','.join(map(str, shared))]
  everyones = [
    np.array([int(x) for x in text.split(',') if x], np.int32)
    for text in dist.gather_texts(mine)
  ]
  prefix = _shared(everyones) if everyones else np.zeros(0, np.int32)
  return prefix[: len(prefix) // 4 * 4]


def _shared(ids_P: Sequence[np.ndarray]) -> np.ndarray:
  """What all of them begin with."""
  least, greatest = (f(ids_P, key=lambda x: x.tolist()) for f in (min, max))
  n = min(len(least), len(greatest))
  differs = np.flatnonzero(least[:n] != greatest[:n])
  return least[: differs[0]] if len(differs) else least[:n]


@functools.partial(jax.jit, static_argnames='graphdef')
def score(graphdef, params, batch, temperature):
  """Log-probs of every scored token of a packed batch, float32[M, B, R]."""
  model = nnx.merge(graphdef, *params)

  def one(i, out):
    logp = batch.microbatch(i).logprobs(model, temperature)
    return out.at[i].set(logp)

  start = dist.constrain(batch.weight * 0, None, 'batch', None)
  out = jax.lax.fori_loop(0, batch.microbatches, one, start)
  return dist.constrain(out, None, 'batch', None)

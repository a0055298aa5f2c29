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
from jaxdistill.data.tokenizer import SymbolTokenizer
from jaxdistill.rollout.engine import generate
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
  tokenizer: SymbolTokenizer
  mesh: Mesh
  shapes: Shapes
  max_prompts: int

  def encode(self, prompt: Prompt) -> np.ndarray:
    """Prompt token ids, the begin mark first, int32[P]."""
    ids = [self.tokenizer.bos_id, *self.tokenizer.encode(prompt.text)]
    return np.array(ids, np.int32)

  def written(self, prompt: Prompt, response: str) -> Rollout:
    """A response that was given rather than sampled, as a rollout."""
    ids = [*self.tokenizer.encode(response), self.tokenizer.eos_id]
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
    shards = dist.batch_shards(self.mesh)
    longest = max((len(ids) for ids in ids_P), default=1)
    count, longest, role = dist.agree_max(
      len(prompts_P), longest, max(map(self._role, prompts_P), default=0)
    )
    hosts = jax.process_count()
    most = max(self.max_prompts // shards, 1) * shards // hosts
    size = min(bucket(count, max(shards // hosts, 1)), most)
    width = bucket(longest, 8)
    rollouts_PG = []
    for start in range(0, count, size):
      chunk = slice(start, start + size)
      rollouts_PG += self._generate_chunk(
        prompts_P[chunk], ids_P[chunk], (size, width), role, sampling, key
      )
    return rollouts_PG

  def _role(self, prompt: Prompt) -> int:
    return self.roles.index(prompt.role) if prompt.role in self.roles else 0

  def _generate_chunk(self, prompts_P, ids_P, shape, role, sampling, key):
    tokens, lengths = np.zeros(shape, np.int32), np.zeros(shape[0], np.int32)
    rows = np.zeros(shape[0], np.int32)
    for i, (prompt, ids) in enumerate(zip(prompts_P, ids_P, strict=True)):
      tokens[i, shape[1] - len(ids) :] = ids
      lengths[i], rows[i] = len(ids), prompt.row
    out = generate(
      self.graphdef,
      self.params,
      *(dist.put_local(self.mesh, x) for x in (tokens, lengths, rows)),
      key,
      np.int32(role),
      sampling=sampling,
      eos_id=self.tokenizer.eos_id,
    )
    tokens, logp, kept, stopped = map(dist.local_part, out)
    rollouts_PG = []
    for i, prompt in enumerate(prompts_P):
      group = []
      for g in range(sampling.samples):
        ends = np.flatnonzero(tokens[i, g] == self.tokenizer.eos_id)
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
      Row(
        tokens_T=np.concatenate([r.prompt_T, r.tokens_T]),
        weight_T=np.zeros(len(r.prompt_T) + len(r.tokens_T), np.float32),
        total=0,
      )
      for r in rollouts
    ]
    roles = [self._role(r.prompt) for r in rollouts]
    (role,) = dist.agree_max(max(roles, default=0))
    batch, places = make_batch(RowSet('', rows), role, self.mesh, self.shapes)
    values = score(self.graphdef, self.params, batch, np.float32(temperature))
    return [
      logp[len(r.prompt_T) :]
      for r, logp in zip(rollouts, take_rows(values, places, rows), strict=True)
    ]

  def choose(
    self, prompts: Sequence[Prompt], choices: Sequence[str]
  ) -> np.ndarray:
    """Log-probs of given continuations, float32[B, C].

    Each is the sum over a choice's own tokens, without the end mark.
    """
    shown = [self.written(p, choice) for p in prompts for choice in choices]
    sums = [logp[:-1].sum() for logp in self.logprobs(shown)]
    return np.array(sums, np.float32).reshape(len(prompts), len(choices))


@functools.partial(jax.jit, static_argnames='graphdef')
def score(graphdef, params, batch, temperature):
  """Log-probs of every token of a packed batch, float32[M, B, T]."""
  model = nnx.merge(graphdef, *params)

  def one(i, out):
    micro = batch.microbatch(i)
    logp = model.logprobs(
      micro.tokens,
      micro.positions,
      micro.segments,
      role=batch.role,
      temperature=temperature,
    )
    return out.at[i].set(logp)

  start = dist.constrain(batch.weight * 0, None, 'batch', None)
  out = jax.lax.fori_loop(0, batch.microbatches, one, start)
  return dist.constrain(out, None, 'batch', None)

"""Generation: one compiled loop from prompts to finished responses."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxdistill.dist import constrain
from jaxdistill.rollout.samplers import Draw, Sampling, draw

Responses = tuple[
  Int[Array, 'B G T'],
  Float[Array, 'B G T'],
  Float[Array, 'B G T'],
  Bool[Array, 'B G'],
]


@functools.partial(jax.jit, static_argnames=('graphdef', 'sampling', 'eos_id'))
def generate(
  graphdef: nnx.GraphDef,
  params: tuple[nnx.State, ...],
  tokens: Int[Array, 'B S'],
  lengths: Int[Array, 'B'],
  rows: Int[Array, 'B'],
  key: Array,
  role: Int[Array, ''],
  *,
  sampling: Sampling,
  eos_id: int,
) -> Responses:
  """Draws `sampling.samples` responses to each prompt.

  A prompt is read once for all its samples, which then share its cache. The
  loop ends when every sample has ended or the longest is reached.

  Args:
    graphdef: Of a `Decoder`.
    params: Its parameters, in any number of parts.
    tokens: Left-padded prompts.
    lengths: Of the prompts; 0 marks an empty row, which ends at once.
    rows: Global addresses: sample g of row r draws from (key, r, g) whatever
      else is in the batch.
    key: PRNG key.
    role: Index of the role that answers.
    sampling: How to draw.
    eos_id: The end mark.

  Returns:
    Tokens, log-probs, log kept mass (each 0 after the end), and which samples
    ended by themselves.
  """
  model = nnx.merge(graphdef, *params)
  weights = model.resolve(role)
  b, g, limit = tokens.shape[0], sampling.samples, sampling.max_tokens
  logits, prompt, mask = model.prefill(weights, tokens, jnp.maximum(lengths, 1))
  # Here, once: slices inside the loop would copy weights at every token.
  weights = model.unroll(weights)
  uniforms = _uniforms(key, rows, g, limit)

  def body(carry):
    t, logits, cache, done, out = carry
    new = draw(logits, uniforms[..., t], sampling)
    new = Draw(*(jnp.where(done, 0, x) for x in new))
    out = jax.tree.map(
      lambda o, x: jax.lax.dynamic_update_slice_in_dim(
        o, x[..., None].astype(o.dtype), t, axis=2
      ),
      out,
      new,
    )
    done = done | (new.token == eos_id)
    logits, cache = model.decode(
      weights, new.token, lengths, prompt, mask, cache, t
    )
    return t + 1, logits, cache, done, out

  def going_on(carry):
    t, _, _, done, _ = carry
    return (t < limit) & ~jnp.all(done)

  empty = jnp.zeros((b, g, limit))
  cache = jax.tree.map(
    lambda x: constrain(x, 'batch', None, 'kv_heads', None, None),
    model.empty_cache(b, g, limit),
  )
  start = (
    jnp.zeros((), jnp.int32),
    jnp.broadcast_to(logits[:, None], (b, g, logits.shape[-1])),
    cache,
    jnp.broadcast_to((lengths == 0)[:, None], (b, g)),
    Draw(empty.astype(jnp.int32), empty, empty),
  )
  *_, out = jax.lax.while_loop(going_on, body, start)
  out = jax.tree.map(lambda x: constrain(x, 'batch', None, None), out)
  ended = jnp.any(out.token == eos_id, -1)
  return *out, constrain(ended, 'batch', None)


def _uniforms(key, rows, samples, limit) -> Float[Array, 'B G T']:
  """One number per token, addressed by row, sample and place."""

  def of_sample(row, sample):
    k = jax.random.fold_in(jax.random.fold_in(key, row), sample)
    return jax.random.uniform(k, (limit,))

  over_samples = jax.vmap(of_sample, (None, 0))
  return jax.vmap(over_samples, (0, None))(rows, jnp.arange(samples))

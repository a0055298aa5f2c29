"""A small random player, and what it should say by its own logits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdistill.batch import Shapes
from jaxdistill.data.text.symbols import SymbolTokenizer
from jaxdistill.models import Decoder, DecoderConfig, Deltas
from jaxdistill.models.rope import Rope
from jaxdistill.rollout import Player, Sampling
from jaxdistill.run.step import split_params
from jaxdistill.types import Prompt

TOKENIZER = SymbolTokenizer(
  ('<pad>', '<bos>', '<eos>', *'0123456789', *'+-*/=?!')
)
CONFIG = DecoderConfig(
  vocab_size=len(TOKENIZER),
  embed_dim=32,
  embed_scale=32**0.5,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_dim=32,
  tie_embeddings=False,
  rope=Rope(100.0),
)
BASE = Sampling(samples=3, max_tokens=10)
KEY = jax.random.key(7)
# All as the proposer, whose deltas are not zero: the role must get through.
PROMPTS = [
  Prompt('proposer', '3+4=', address=11),
  Prompt('proposer', '1234567890+987*65=', address=4),
  Prompt('proposer', '', address=0),
  Prompt('proposer', '9-8/2?', address=7),
  Prompt('proposer', '00112233445566=', address=3),
  Prompt('proposer', '3+4=', address=12),
  Prompt('proposer', '!', address=2**20),
]
LONG = Sampling(samples=3, max_tokens=22)
MANY = [
  dataclasses.replace(prompt, address=prompt.address + 100 * i)
  for i in range(2)
  for prompt in PROMPTS
]


def make_player(mesh, seed=0, **changes):
  """A random model: sharp, and sensitive to where its tokens stand."""
  deltas = Deltas(per_role='heads', rank=2, alpha=2.0)
  empty = nnx.eval_shape(lambda: Decoder(CONFIG, deltas, rngs=nnx.Rngs(0)))
  graphdef, moving, frozen = split_params(empty, 'full')
  params = (*moving, frozen)
  draw = np.random.default_rng(seed)

  def fill(path, x):
    fan_in = (
      x.shape[-1] if 'embed' in path else x.shape[-2] if x.ndim > 1 else 1
    )
    value = draw.standard_normal(x.shape) * fan_in**-0.5
    value = value * 2 if {'q', 'k'} & set(path) else value
    value = np.full(x.shape, 1.5) if 'norm' in path[0] else value
    return jnp.asarray(value, jnp.float32)

  for state in params:
    for path, variable in nnx.to_flat_state(state):
      variable.set_value(fill(path, variable))
  player = Player(
    graphdef, params, deltas.roles, TOKENIZER, mesh, Shapes(64, 16)
  )
  return dataclasses.replace(player, **changes)


def endless(player):
  """The same that hardly ends by itself."""
  state = jax.tree.map(lambda x: x, player.params)
  model = nnx.merge(player.graphdef, *state)
  head = model.head.kernel[...]
  model.head.kernel.set_value(head.at[:, TOKENIZER.eos_id].mul(0.1))
  params = nnx.split(model, lambda path, x: True)[1:]
  return dataclasses.replace(player, params=params)


@nnx.jit
def _logits(model, tokens, role):
  return model(tokens, role=role)


def logits_of(player, sequences, role=1):
  """Logits of whole sequences, float64, in one forward pass each."""
  tokens = np.zeros((48, 48), np.int32)
  for i, sequence in enumerate(sequences):
    tokens[i, : len(sequence)] = sequence
  model = nnx.merge(player.graphdef, *player.params)
  out = np.asarray(_logits(model, tokens, np.int32(role)), np.float64)
  return [out[i, : len(s)] for i, s in enumerate(sequences)]


def teacher_forced(player, rollouts):
  """Logits from which each response token was drawn."""
  sequences = [np.concatenate([r.prompt_T, r.tokens_T]) for r in rollouts]
  logits = logits_of(player, sequences)
  return [
    x[len(r.prompt_T) - 1 : -1] for r, x in zip(rollouts, logits, strict=True)
  ]


def softmax(logits):
  p = np.exp(logits - logits.max(-1, keepdims=True))
  return p / p.sum(-1, keepdims=True)


def flat(rollouts_PG):
  return [rollout for rollouts_G in rollouts_PG for rollout in rollouts_G]


def assert_same(first, second, atol=1e-4):
  for a, b in zip(first, second, strict=True):
    np.testing.assert_array_equal(a.tokens_T, b.tokens_T)
    np.testing.assert_allclose(a.logp_T, b.logp_T, atol=atol)
    np.testing.assert_allclose(a.kept_T, b.kept_T, atol=atol)
    assert (a.finish, a.text, a.prompt) == (b.finish, b.text, b.prompt)

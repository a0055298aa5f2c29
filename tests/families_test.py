"""Checkpoints of every family against what transformers makes of them."""

import dataclasses
import functools
import pathlib

import checkpoints
import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from etils import epath
from flax import nnx

from jaxdistill.batch import Shapes
from jaxdistill.data.text.symbols import SymbolTokenizer
from jaxdistill.models import Decoder, from_pretrained, hub, load
from jaxdistill.models.families import FAMILIES
from jaxdistill.rollout import Player, Sampling
from jaxdistill.types import Prompt

LENGTH = 512
DRAW = np.random.default_rng(3)
TOKENS = DRAW.integers(3, checkpoints.VOCAB, (3, LENGTH))
# One row whole, one padded on the left, one on the right.
REAL = np.ones((3, LENGTH), int)
REAL[1, :199] = 0
REAL[2, -150:] = 0
POSITIONS = np.maximum(np.cumsum(REAL, 1) - 1, 0)
# What follows a token ends with its row; padding is seen by nobody.
UNTIL = np.where(REAL, LENGTH, np.arange(LENGTH) + 1)
UNTIL[2, :-150] = LENGTH - 150
README = pathlib.Path(__file__).parents[1] / 'README.md'


@pytest.fixture(scope='module')
def folder_of(tmp_path_factory):
  return checkpoints.folders(tmp_path_factory.mktemp('families'))


@nnx.jit
def _read(model, tokens, positions, segments, until):
  logits = model(tokens, positions=positions, segments=segments)
  sources = jnp.broadcast_to(jnp.arange(LENGTH - 1), tokens[:, 1:].shape)
  logp = model.logprobs(tokens, positions, until, sources, tokens[:, 1:])
  return logits, logp


def read(model):
  """Our logits of `TOKENS`, and log-probs of all but the first of a row."""
  arrays = TOKENS, POSITIONS, REAL, UNTIL
  arrays = (jnp.asarray(x, jnp.int32) for x in arrays)
  return map(np.asarray, _read(model, *arrays))


@functools.cache
def expected_of(folder):
  model = checkpoints.reference(folder)
  return checkpoints.reference_logits(model, TOKENS, REAL, POSITIONS)


def gap(a, b):
  """Largest difference on real tokens."""
  return np.abs(a - b)[REAL == 1].max()


def log_softmax(logits):
  logits = logits.astype(np.float64)
  logits = logits - logits.max(-1, keepdims=True)
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_every_family_has_a_case():
  cases = {family for family, _ in checkpoints.CASES.values()}
  assert cases == {*FAMILIES}


@pytest.mark.parametrize('case', checkpoints.CASES)
def test_logits_and_logprobs_are_those_of_transformers(folder_of, case):
  folder = folder_of(case)
  expected = expected_of(folder)
  logits, logp = read(from_pretrained(folder))
  assert logits.dtype == np.float32
  assert gap(logits, expected) <= 1e-4

  scores = np.take_along_axis(
    log_softmax(expected)[:, :-1], TOKENS[:, 1:, None], -1
  )[..., 0]
  inside = (REAL[:, 1:] & REAL[:, :-1]) == 1
  assert np.abs(logp - scores)[inside].max() <= 1e-4


@pytest.mark.parametrize('case', ['qwen2-window', 'llama', 'gemma3_text'])
def test_branches_are_read_as_if_alone(folder_of, case):
  """Two texts with one beginning: windows count tokens, not places."""
  folder, stem, leaf = folder_of(case), 40, 30
  end = stem + 2 * leaf
  tokens = TOKENS[:1, :end]
  positions = np.array([[*range(stem + leaf), *range(stem, stem + leaf)]])
  until = np.array([[end] * stem + [stem + leaf] * leaf + [end] * leaf])
  branches = [
    np.r_[0:stem, begin : begin + leaf] for begin in (stem, stem + leaf)
  ]
  sources = np.concatenate([branch[:-1] for branch in branches])[None]
  targets = np.concatenate([tokens[0, branch[1:]] for branch in branches])[None]
  arrays = tokens, positions, until, sources, targets
  logp = nnx.jit(Decoder.logprobs)(
    from_pretrained(folder), *(jnp.asarray(x, jnp.int32) for x in arrays)
  )
  model, expected = checkpoints.reference(folder), []
  for branch in branches:
    alone = tokens[:, branch]
    scores = log_softmax(checkpoints.reference_logits(model, alone)[0, :-1])
    expected += [
      s[token] for s, token in zip(scores, alone[0, 1:], strict=True)
    ]
  assert np.abs(np.asarray(logp)[0] - expected).max() <= 1e-4


FULL = {'rope_type': 'default', 'rope_theta': 1e4}


def _rope_of(case, **changes):
  family, options = checkpoints.CASES[case]
  known = (checkpoints.FAMILIES[family] | options)['rope_parameters']
  return {'rope_parameters': known | changes}


# What the case before is about, turned off or turned a little.
CHANGES = [
  ('qwen2', {'rms_norm_eps': 1e-6}),
  ('qwen2', _rope_of('qwen2', rope_theta=2e4)),
  ('qwen2-window', {'layer_types': ['full_attention'] * 3}),
  ('qwen2-window', {'layer_types': ['sliding_attention'] * 3}),
  ('qwen2-window', {'sliding_window': 25}),
  ('qwen2-yarn', {'rope_parameters': FULL}),
  ('qwen2-yarn', _rope_of('qwen2-yarn', factor=4.0)),
  ('qwen2-yarn', _rope_of('qwen2-yarn', attention_factor=1.0)),
  (
    'qwen2-yarn',
    _rope_of('qwen2-yarn', original_max_position_embeddings=256),
  ),
  ('qwen3-yarn', _rope_of('qwen3-yarn', beta_fast=32.0)),
  ('qwen3-yarn', _rope_of('qwen3-yarn', beta_slow=1.0)),
  ('qwen3-yarn', _rope_of('qwen3-yarn', attention_factor=1.0)),
  ('qwen3-yarn', _rope_of('qwen3-yarn', truncate=True)),
  ('llama-linear', {'rope_parameters': FULL}),
  ('llama-llama3', {'rope_parameters': FULL}),
  ('llama-llama3', _rope_of('llama-llama3', low_freq_factor=2.0)),
  ('llama-llama3', _rope_of('llama-llama3', high_freq_factor=8.0)),
  (
    'llama-llama3',
    _rope_of('llama-llama3', original_max_position_embeddings=128),
  ),
  ('gemma2', {'attn_logit_softcapping': None}),
  ('gemma2', {'final_logit_softcapping': None}),
  ('gemma2', {'query_pre_attn_scalar': 24}),
  ('gemma2', {'sliding_window': 21}),
  ('gemma2', {'layer_types': ['full_attention'] * 3}),
  ('gemma2', {'hidden_activation': 'silu'}),
  ('gemma3_text', {'query_pre_attn_scalar': 24}),
  ('gemma3_text', {'sliding_window': 21}),
  ('gemma3_text', {'layer_types': ['full_attention'] * 4}),
  ('gemma3_text', _rope_of('gemma3_text', full_attention=FULL)),
  ('gemma3_text', _rope_of('gemma3_text', sliding_attention=FULL)),
]


@pytest.mark.parametrize(
  ('case', 'change'),
  CHANGES,
  ids=[f'{case}-{next(iter(change))}' for case, change in CHANGES],
)
def test_every_option_shows(folder_of, tmp_path, case, change):
  """Else agreement with the reference would not show that it is read."""
  folder = folder_of(case)
  changed = checkpoints.copy_of(folder, tmp_path / 'changed')
  checkpoints.edit_config(changed, **change)
  assert gap(expected_of(folder), expected_of(changed)) > 1e-2


@pytest.mark.parametrize(
  'case', ['qwen2', 'qwen3-bias', 'llama-bias', 'gemma2', 'gemma3_text']
)
def test_every_norm_and_bias_shows(folder_of, case):
  model = checkpoints.reference(folder_of(case))
  tokens = TOKENS[:1, :64]
  expected = checkpoints.reference_logits(model, tokens)
  small = [p for p in model.parameters() if p.ndim == 1]
  assert len(small) >= 5
  for parameter in small:
    kept = parameter.data.clone()
    parameter.data.fill_(0.0 if case.startswith('gemma') else 1.0)
    without = checkpoints.reference_logits(model, tokens)
    parameter.data.copy_(kept)
    assert np.abs(without - expected).max() > 1e-2


@pytest.mark.parametrize('case', checkpoints.CASES)
def test_both_ways_to_write_a_config_are_one(folder_of, tmp_path, case):
  folder = folder_of(case)
  older = checkpoints.copy_of(folder, tmp_path / 'older')
  written = checkpoints.as_version_4(checkpoints.read_config(folder))
  assert not {'rope_parameters', 'layer_types', 'dtype'} & written.keys()
  checkpoints.write_config(older, written)
  np.testing.assert_array_equal(  # the older file says the same
    expected_of(older), expected_of(folder)
  )
  read_config = hub.read_config
  assert read_config(epath.Path(older)) == read_config(epath.Path(folder))
  if case in ('qwen2-yarn', 'gemma3_text'):  # the rest would say no more
    models = from_pretrained(older), from_pretrained(folder)
    for ours, theirs in zip(*map(read, models), strict=True):
      np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
  ('case', 'added'),
  [
    ('qwen2', {'use_mrope': False}),
    ('gemma2', {'sliding_window_size': 20}),
  ],
)
def test_what_some_published_configs_repeat(folder_of, tmp_path, case, added):
  folder = folder_of(case)
  other = checkpoints.copy_of(folder, tmp_path / 'other')
  checkpoints.edit_config(other, **added)
  assert hub.read_config(epath.Path(other)) == hub.read_config(
    epath.Path(folder)
  )
  checkpoints.edit_config(other, **{name: 7 for name in added})
  with pytest.raises(ValueError, match=next(iter(added))):
    hub.read_config(epath.Path(other))


def test_no_window_is_no_window_whatever_else_is_said(folder_of, tmp_path):
  folder = checkpoints.copy_of(folder_of('qwen2-window'), tmp_path / 'other')
  checkpoints.edit_config(folder, sliding_window=None, layer_types=...)
  assert not hub.read_config(epath.Path(folder)).window
  logits, _ = read(from_pretrained(folder))
  assert gap(logits, expected_of(folder)) <= 1e-4


@pytest.mark.parametrize('kind', ['yarn', 'llama3', 'linear'])
def test_scaling_by_its_oldest_name(folder_of, tmp_path, kind):
  folder = folder_of(f'{"qwen2" if kind == "yarn" else "llama"}-{kind}')
  older = checkpoints.copy_of(folder, tmp_path / 'older')
  written = checkpoints.as_version_4(checkpoints.read_config(older))
  scaling = written['rope_scaling']
  scaling['type'] = scaling.pop('rope_type')
  checkpoints.write_config(older, written)
  read_config = hub.read_config
  assert read_config(epath.Path(older)) == read_config(epath.Path(folder))


def test_what_the_hub_does_not_give(monkeypatch):
  def fails(*_, **__):
    raise OSError('no route\nto host')

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', fails)
  said = r'hf:a/b cannot be fetched \(OSError: no route\); check .* directory'
  with pytest.raises(ValueError, match=said):
    hub.fetch('a/b')


@pytest.mark.parametrize('case', ['qwen2', 'llama-tied', 'gemma3_text'])
def test_bfloat16_is_read_into_float32(folder_of, case):
  folder = folder_of(case, dtype='bfloat16')
  logits, _ = read(from_pretrained(folder))
  assert gap(logits, expected_of(folder)) <= 1e-4
  assert gap(logits, expected_of(folder_of(case))) > 1e-2


@pytest.mark.parametrize('case', ['qwen2', 'gemma2'])
def test_shards_are_put_together(folder_of, case):
  sharded = folder_of(case, shard='50KB')
  files = list(pathlib.Path(sharded).glob('*.safetensors'))
  assert len(files) > 2
  ours = nnx.state(from_pretrained(sharded), nnx.Param)
  whole = nnx.state(from_pretrained(folder_of(case)), nnx.Param)
  pairs = zip(nnx.to_flat_state(ours), nnx.to_flat_state(whole), strict=True)
  for (path, a), (same, b) in pairs:
    assert path == same
    np.testing.assert_array_equal(a[...], b[...])


def _word(i):
  return chr(97 + i // 26) + chr(97 + i % 26)


WORDS = SymbolTokenizer(
  ('<pad>', '<bos>', '<eos>', *map(_word, range(checkpoints.VOCAB - 3)))
)
GREEDY = Sampling(samples=1, max_tokens=64, temperature=0.0)
# Of a few tokens only, shorter than the windows, and longer than them.
PROMPTS = [
  Prompt('solver', WORDS.decode(DRAW.integers(3, 300, n).tolist()), address=n)
  for n in (3, 17, 45)
]
STEM = WORDS.decode(DRAW.integers(3, 300, 30).tolist())
ALIKE = [Prompt(p.role, f'{STEM} {p.text}', p.address) for p in PROMPTS]


def player_of(model, tokenizer, mesh):
  graphdef, params = nnx.split(model)
  shapes = Shapes(64, 16)
  return Player(graphdef, (params,), ('solver',), tokenizer, mesh, shapes, 8)


def continuation(model, prompt_T, ends, most=GREEDY.max_tokens):
  """Greedy tokens of transformers, up to the end mark, or `most`."""
  out = model.generate(
    torch.tensor(prompt_T, dtype=torch.long)[None],
    do_sample=False,
    max_new_tokens=most,
    eos_token_id=list(ends),
    pad_token_id=ends[0],
  )
  return out[0, len(prompt_T) :].tolist()


@pytest.mark.parametrize(
  ('case', 'prompts'),
  [
    *(('qwen2-window', PROMPTS), ('qwen2-window', ALIKE)),
    *(('qwen2-yarn', PROMPTS), ('qwen3-bias', PROMPTS)),
    *(('llama-llama3', PROMPTS), ('gemma2', PROMPTS)),
    *(('gemma3_text', PROMPTS), ('gemma3_text', ALIKE)),
  ],
  ids=lambda x: (
    x if isinstance(x, str) else 'apart' if x is PROMPTS else 'stem'
  ),
)
def test_greedy_answers_are_those_of_transformers(
  one_device, folder_of, case, prompts
):
  folder = folder_of(case)
  player = player_of(from_pretrained(folder), WORDS, one_device)
  answers = player.generate(prompts, GREEDY, jax.random.key(0))
  assert len({len(answer.prompt_T) for (answer,) in answers}) == 3
  model = checkpoints.reference(folder)
  seen = set()
  for (answer,) in answers:
    expected = continuation(model, answer.prompt_T, WORDS.eos_ids)
    assert answer.tokens_T.tolist() == expected
    whole = np.concatenate([answer.prompt_T, expected])[None]
    scores = log_softmax(checkpoints.reference_logits(model, whole)[0])
    scores = scores[len(answer.prompt_T) - 1 : -1]
    scores = np.take_along_axis(scores, np.array(expected)[:, None], -1)
    assert np.abs(answer.logp_T - scores[:, 0]).max() <= 1e-4
    seen |= set(expected)
  assert len(seen) > 5


@pytest.fixture(scope='module')
def real():
  return checkpoints.real_model()


def test_a_real_model_reads_english_alike(real):
  tokenizer = transformers.AutoTokenizer.from_pretrained(real)
  ids = np.array([tokenizer(README.read_text())['input_ids'][:LENGTH]])
  assert ids.shape == (1, LENGTH)
  expected = checkpoints.reference_logits(checkpoints.reference(real), ids)[0]
  model = from_pretrained(real)
  logits = np.asarray(
    nnx.jit(lambda m, x: m(x))(model, jnp.asarray(ids, jnp.int32))
  )[0]
  assert np.abs(logits - expected).max() <= 2e-3
  second, first = np.sort(expected, -1)[:, -2:].T
  decided = first - second > 2e-3
  assert decided.mean() > 0.95
  np.testing.assert_array_equal(
    logits.argmax(-1)[decided], expected.argmax(-1)[decided]
  )
  right = (expected.argmax(-1)[:-1] == ids[0, 1:]).mean()
  assert right > 0.2  # it is a language model, not noise


def test_a_real_model_answers_alike(real, one_device):
  loaded = load(real)
  asked = Prompt('solver', 'What is the capital of France?')
  player = player_of(loaded.model, loaded.tokenizer, one_device)
  few = dataclasses.replace(GREEDY, max_tokens=32)
  ((answer,),) = player.generate([asked], few, jax.random.key(0))

  tokenizer = transformers.AutoTokenizer.from_pretrained(real)
  messages = [{'role': 'user', 'content': asked.text}]
  ids = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_dict=False
  )
  assert answer.prompt_T.tolist() == ids
  model = checkpoints.reference(real)
  expected = continuation(model, ids, loaded.tokenizer.eos_ids, 32)
  assert answer.tokens_T.tolist() == expected
  assert answer.text == tokenizer.decode(expected, skip_special_tokens=True)
  assert 'Paris' in answer.text and answer.finish == 'stop'

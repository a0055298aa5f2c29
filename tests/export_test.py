"""Models written out: what transformers and PEFT make of them."""

import json
import pathlib

import checkpoints
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from flax import nnx

from jaxdistill import models
from jaxdistill.models import Deltas, from_pretrained, hub
from jaxdistill.models.linear import RoleDelta, SharedDelta

TOKENS = np.random.default_rng(5).integers(3, checkpoints.VOCAB, (2, 64))
CASES = (
  *('qwen2', 'qwen2-tied', 'qwen2-window', 'qwen3-bias', 'qwen3-yarn'),
  *('llama-bias', 'llama-llama3', 'gemma2', 'gemma3_text'),
)


@pytest.fixture(scope='module')
def folder_of(tmp_path_factory):
  return checkpoints.folders(tmp_path_factory.mktemp('export'))


@nnx.jit
def _logits(model, tokens, role):
  return model(tokens, role=role)


def logits_of(model, role=None):
  role = None if role is None else np.int32(role)
  return np.asarray(_logits(model, jnp.asarray(TOKENS, jnp.int32), role))


def expected_of(folder):
  return checkpoints.reference_logits(checkpoints.reference(folder), TOKENS)


def tensors_of(folder):
  """Every tensor of every file of weights."""
  files = pathlib.Path(folder).glob('model*.safetensors')
  return {
    name: value
    for file in files
    for name, value in checkpoints.tensors.load_file(file).items()
  }


def adapted(folder, dtype='float32', **deltas):
  """A model whose deltas all do something."""
  deltas = Deltas(rank=3, alpha=6.0, **deltas)
  model = from_pretrained(folder, deltas=deltas, dtype=dtype)
  draw = np.random.default_rng(7)
  for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
    if issubclass(variable.type, RoleDelta | SharedDelta) and path[-1] == 1:
      noise = 0.1 * draw.standard_normal(variable.shape)
      variable.set_value(jnp.asarray(noise, variable.dtype))
      nnx.update(model, nnx.from_flat_state([(path, variable)]))
  return model


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('case', CASES)
def test_what_is_read_is_written_again(folder_of, tmp_path, case, dtype):
  folder, out = folder_of(case, dtype=dtype), tmp_path / 'out'
  model = from_pretrained(folder)
  models.export(out, model, folder, role=None, dtype=dtype)

  before, after = tensors_of(folder), tensors_of(out)
  assert before.keys() == after.keys()
  for name, value in before.items():
    assert value.dtype == after[name].dtype
    assert torch.equal(value, after[name])
  again = from_pretrained(str(out))
  assert again.config == model.config
  pairs = zip(
    nnx.to_flat_state(nnx.state(model, nnx.Param)),
    nnx.to_flat_state(nnx.state(again, nnx.Param)),
    strict=True,
  )
  for (path, a), (same, b) in pairs:
    assert path == same
    np.testing.assert_array_equal(a[...], b[...])

  source = checkpoints.read_config(folder)
  assert checkpoints.read_config(out) == source | {'dtype': dtype}
  for name in (
    *('tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja'),
    'generation_config.json',
  ):
    written = (out / name).read_bytes()
    assert written == (pathlib.Path(folder) / name).read_bytes()
  if dtype == 'float32':
    assert np.abs(expected_of(out) - expected_of(folder)).max() == 0
    assert np.abs(expected_of(out) - logits_of(model)).max() <= 1e-4


def test_older_configs_stay_as_they_are(folder_of, tmp_path):
  folder = checkpoints.copy_of(folder_of('gemma3_text'), tmp_path / 'older')
  older = checkpoints.as_version_4(checkpoints.read_config(folder))
  checkpoints.write_config(folder, older)
  model, out = from_pretrained(folder), tmp_path / 'out'
  models.export(out, model, folder, role=None, dtype='float32')
  written = checkpoints.read_config(out)
  assert written.pop('dtype') == older.pop('torch_dtype') == 'float32'
  assert written == older | {'tie_word_embeddings': True}
  assert np.abs(expected_of(out) - logits_of(model)).max() <= 1e-4


def test_bfloat16_is_what_is_written_by_default(folder_of, tmp_path):
  folder, out = folder_of('qwen2'), tmp_path / 'out'
  models.export(out, from_pretrained(folder), folder, role=None)
  source = tensors_of(folder)
  for name, value in tensors_of(out).items():
    assert torch.equal(value, source[name].to(torch.bfloat16))
  assert checkpoints.read_config(out)['dtype'] == 'bfloat16'


def test_large_models_go_into_several_files(folder_of, tmp_path, monkeypatch):
  monkeypatch.setattr(hub, '_SHARD_BYTES', 60_000)
  folder, out = folder_of('qwen2'), tmp_path / 'out'
  model = from_pretrained(folder)
  models.export(out, model, folder, role=None, dtype='float32')
  files = sorted(file.name for file in out.glob('*.safetensors'))
  n = len(files)
  assert n > 3
  assert files == [f'model-{i + 1:05}-of-{n:05}.safetensors' for i in range(n)]
  index = json.loads((out / 'model.safetensors.index.json').read_text())
  before, after = tensors_of(folder), tensors_of(out)
  assert before.keys() == after.keys() == index['weight_map'].keys()
  assert all(torch.equal(value, after[name]) for name, value in before.items())
  bytes_of = {name: value.nbytes for name, value in after.items()}
  assert index['metadata']['total_size'] == sum(bytes_of.values())
  for file in files:
    held = checkpoints.tensors.load_file(out / file)
    size = sum(bytes_of[name] for name in held)
    assert len(held) == 1 or size <= 60_000
  assert np.abs(expected_of(out) - expected_of(folder)).max() == 0


PLACES = [
  {'per_role': 'heads', 'lora': True},
  {'per_role': 'heads', 'lora': False},
  {'per_role': 'adapter', 'lora': True},
  {'per_role': 'shared', 'lora': True},
]


def place(deltas):
  return deltas['per_role'] + ('-lora' if deltas['lora'] else '')


@pytest.mark.parametrize('deltas', PLACES, ids=place)
@pytest.mark.parametrize('case', ['qwen3-bias', 'qwen2-tied', 'gemma2'])
def test_a_merged_role_answers_alike(folder_of, tmp_path, case, deltas):
  folder = folder_of(case)
  model = adapted(folder, **deltas)
  trunk, roles = logits_of(model), []
  for index, role in enumerate(model.deltas.roles):
    out = tmp_path / role
    models.export(out, model, folder, role=role, dtype='float32')
    roles.append(logits_of(model, index))
    assert np.abs(expected_of(out) - roles[-1]).max() <= 1e-4
    assert np.abs(roles[-1] - trunk).max() > 1e-2
    tied = model.config.tie_embeddings and deltas['per_role'] == 'shared'
    assert checkpoints.read_config(out)['tie_word_embeddings'] == tied
    assert ('lm_head.weight' in tensors_of(out)) != tied
  differ = np.abs(roles[0] - roles[1]).max() > 1e-2
  assert differ == (deltas['per_role'] != 'shared')


def test_deltas_on_a_bfloat16_trunk_are_not_rounded_away(folder_of, tmp_path):
  folder = folder_of('qwen2')
  model = adapted(folder, 'bfloat16', per_role='shared', lora=True)
  models.export(tmp_path / 'out', model, folder, dtype='float32')
  trunk, merged = tensors_of(folder), tensors_of(tmp_path / 'out')
  name = 'model.layers.1.mlp.up_proj.weight'
  a, b = (np.asarray(x[...][1]) for x in model.up.deltas[0])
  delta = torch.tensor((2.0 * a @ b).T)
  expected = trunk[name].bfloat16().float() + delta
  assert torch.allclose(merged[name], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize('case', ['qwen2-tied', 'gemma3_text'])
def test_only_a_delta_on_the_head_unties_it(folder_of, tmp_path, case):
  folder = folder_of(case)
  model = adapted(folder, per_role='heads')
  models.export(tmp_path / 'tied', model, folder, role=None, dtype='float32')
  models.export(tmp_path / 'own', model, folder, role='solver', dtype='float32')
  tied, own = tensors_of(tmp_path / 'tied'), tensors_of(tmp_path / 'own')
  assert checkpoints.read_config(tmp_path / 'tied')['tie_word_embeddings']
  assert own.keys() - tied.keys() == {'lm_head.weight'}
  for name, value in tied.items():
    assert torch.equal(value, own[name])
  again = from_pretrained(str(tmp_path / 'own'))
  assert not again.config.tie_embeddings
  np.testing.assert_allclose(logits_of(again), logits_of(model, 0), atol=1e-4)


def test_untying_an_older_config_that_does_not_say(folder_of, tmp_path):
  """Gemma's published files leave `tie_word_embeddings` to its default."""
  folder = checkpoints.copy_of(folder_of('gemma2'), tmp_path / 'older')
  older = checkpoints.as_version_4(checkpoints.read_config(folder))
  assert 'tie_word_embeddings' not in older
  checkpoints.write_config(folder, older)
  model, out = adapted(folder, per_role='heads'), tmp_path / 'out'
  models.export(out, model, folder, role='proposer', dtype='float32')
  assert np.abs(expected_of(out) - logits_of(model, 1)).max() <= 1e-4


@pytest.mark.parametrize('deltas', PLACES, ids=place)
@pytest.mark.parametrize('case', ['qwen3-bias', 'qwen2-tied', 'gemma3_text'])
def test_peft_reads_an_adapter(folder_of, tmp_path, case, deltas):
  folder, out = folder_of(case), tmp_path / 'adapter'
  model = adapted(folder, **deltas)
  models.export(
    out, model, folder, role='proposer', kind='peft', dtype='float32'
  )
  settings = json.loads((out / 'adapter_config.json').read_text())
  assert settings['base_model_name_or_path'] == folder
  assert not list(out.glob('model*'))

  base = checkpoints.reference(folder)
  loaded = peft.PeftModel.from_pretrained(base, str(out)).eval()
  logits = checkpoints.reference_logits(loaded, TOKENS)
  assert np.abs(logits - logits_of(model, 1)).max() <= 1e-4
  assert np.abs(logits - logits_of(model)).max() > 1e-2
  with loaded.disable_adapter():
    plain = checkpoints.reference_logits(loaded, TOKENS)
  assert np.abs(plain - logits_of(model)).max() <= 1e-4


def test_an_adapter_of_nothing_is_refused(folder_of, tmp_path):
  folder = folder_of('qwen2')
  model = from_pretrained(folder)
  with pytest.raises(ValueError, match=r'delta|adapter'):
    models.export(tmp_path, model, folder, role='solver', kind='peft')

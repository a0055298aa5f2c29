"""Directories that are damaged or mean harm: one line, before any work."""

import json
import os
import pathlib
import pickle
import re
import tracemalloc

import checkpoints
import jax
import pytest
from harms import CONFIGS, GATE, WEIGHT_FILES, WEIGHTS, put, tensor
from tokenizers import AddedToken, Tokenizer

from jaxdistill import models
from jaxdistill.cli.main import main


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
  """Sound checkpoints: in one file, in several, and of another family."""
  root = tmp_path_factory.mktemp('sound')
  return {
    'whole': checkpoints.make(root / 'whole', 'qwen2'),
    'sharded': checkpoints.make(root / 'sharded', 'qwen2', shard='50KB'),
    'yarn': checkpoints.make_case(root / 'yarn', 'qwen2-yarn'),
    'gemma': checkpoints.make(root / 'gemma', 'gemma3_text'),
    'bf16': checkpoints.make(root / 'bf16', 'qwen2', dtype='bfloat16'),
    'narrow': checkpoints.make(root / 'narrow', 'qwen2', vocab_size=280),
  }


@pytest.fixture
def compiled():
  """What is compiled during a test."""
  events = []

  def listen(event, duration, **more):
    del duration, more
    if 'backend_compile' in event:
      events.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield events
  jax.monitoring.unregister_event_duration_listener(listen)


def refusal(folder, capsys):
  """The one line in which a model is refused."""
  capsys.readouterr()
  assert main(['eval', '--model', str(folder), '--problems', '1']) == 2
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1, lines
  assert lines[0].startswith('jaxdistill: ')
  return lines[0]


@pytest.mark.parametrize('name', ['whole', 'sharded', 'yarn', 'gemma', 'bf16'])
def test_the_sound_ones_are_read(sources, name):
  assert models.load(sources[name]).model.config.vocab_size == checkpoints.VOCAB


@pytest.mark.parametrize('case', [*CONFIGS, *WEIGHT_FILES])
def test_refused_in_one_line(sources, tmp_path, capsys, compiled, case):
  harm, named = (CONFIGS | WEIGHT_FILES)[case]
  source = sources[getattr(harm, 'source', 'whole')]
  folder = pathlib.Path(checkpoints.copy_of(source, tmp_path / 'model'))
  harm(folder)
  compiled.clear()
  line = refusal(folder, capsys)
  assert re.search(named, line), line
  assert not compiled


@pytest.mark.parametrize(
  'harm',
  [
    tensor(put(float('nan'))),
    tensor(put(float('-inf'))),
    tensor(put(float('nan')), 'bf16'),
  ],
  ids=['nan', 'infinite', 'nan-in-bf16'],
)
def test_weights_that_are_no_numbers(sources, tmp_path, capsys, harm):
  source = sources[harm.source]
  folder = pathlib.Path(checkpoints.copy_of(source, tmp_path / 'model'))
  harm(folder)
  assert GATE in refusal(folder, capsys)


def test_a_claim_takes_no_memory(sources, tmp_path):
  """What a config says of sizes is held against the files before it counts."""
  folder = checkpoints.copy_of(sources['whole'], tmp_path / 'model')
  peaks = []
  for layers in (3, 100_000):
    checkpoints.edit_config(folder, num_hidden_layers=layers, layer_types=...)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r'model\.layers\.2\.|num_hidden_l'):
      models.load(folder)
    peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
  assert peaks[1] < peaks[0] + 20e6


def test_a_tokenizer_larger_than_the_embedding(sources, capsys, compiled):
  size = len(
    json.loads(
      (pathlib.Path(sources['narrow']) / 'tokenizer.json').read_text()
    )['model']['vocab']
  )
  assert size > 280
  line = refusal(sources['narrow'], capsys)
  assert str(size) in line and '280' in line and 'tokenizer' in line
  assert not compiled


@pytest.mark.parametrize('verb', ['eval', 'chat'])
def test_a_model_of_text_is_asked_a_named_task(sources, capsys, verb):
  assert main([verb, '--model', sources['whole']]) == 2
  assert 'needs a --task' in capsys.readouterr().err


@pytest.mark.parametrize('special', [True, False])
def test_a_mark_that_no_prompt_has_may_lie_beyond(
  sources, tmp_path, capsys, special
):
  """Published Gemma 3 1B has one for images there."""
  folder = checkpoints.copy_of(sources['whole'], tmp_path / 'model')
  file = pathlib.Path(folder) / 'tokenizer.json'
  tokenizer = Tokenizer.from_file(str(file))
  more = checkpoints.VOCAB + 1 - tokenizer.get_vocab_size()
  tokenizer.add_tokens(
    [AddedToken(f'<|{i}|>', special=special) for i in range(more)]
  )
  tokenizer.save(str(file))
  if special:
    models.load(folder)
  else:
    line = refusal(folder, capsys)
    assert f'{checkpoints.VOCAB + 1} tokens' in line


class Harm:
  """What a pickle may do: here, make a file."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (self.path,)


@pytest.mark.parametrize('name', ['pytorch_model.bin', 'model.safetensors'])
def test_pickles_are_never_loaded(sources, tmp_path, capsys, name):
  source = sources['whole']
  folder = pathlib.Path(checkpoints.copy_of(source, tmp_path / 'model'))
  (folder / WEIGHTS).unlink()
  (folder / name).write_bytes(pickle.dumps(Harm(str(tmp_path / 'harmed'))))
  assert name in refusal(folder, capsys)
  assert not (tmp_path / 'harmed').exists()
  pickle.loads((folder / name).read_bytes())
  assert (tmp_path / 'harmed').exists()  # it would have


@pytest.mark.parametrize(
  'template',
  [
    "{% include 'SECRET' %}",
    "{{ cycler.__init__.__globals__.os.mkdir('HARMED') }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    '{{ messages.append({}) }}{{ messages.clear() }}',
    '{% for i in range(10 ** 12) %}{% endfor %}',
    "{{ raise_exception('no system prompts here') }}",
    '{% for m in messages %}',
  ],
  ids=['include', 'globals', 'classes', 'lists', 'long', 'raises', 'syntax'],
)
def test_templates_only_write_text(sources, tmp_path, capsys, template):
  secret, harmed = tmp_path / 'secret', tmp_path / 'harmed'
  secret.write_text('xyzzy')
  template = template.replace('SECRET', str(secret))
  template = template.replace('HARMED', str(harmed))
  source = sources['whole']
  folder = pathlib.Path(checkpoints.copy_of(source, tmp_path / 'model'))
  (folder / 'chat_template.jinja').write_text(template)
  line = refusal(folder, capsys)
  assert 'chat_template' in line.replace(' ', '_')
  assert 'xyzzy' not in line and not harmed.exists()


def test_answers_longer_than_what_it_has_positions_for(
  sources, tmp_path, capsys, compiled
):
  folder = checkpoints.copy_of(sources['whole'], tmp_path / 'model')
  checkpoints.edit_config(folder, max_position_embeddings=40)
  configs = pathlib.Path(__file__).parents[1] / 'configs'
  said = main(
    [
      *('train', '--config', str(configs / 'sqlm_small.py')),
      *('--workdir', str(tmp_path / 'w'), f'--config.model={folder}'),
      *('--config.task=arithmetic:add:3,3', '--config.eval.max_tokens=40'),
      *('--config.method.name=grpo', '--config.method.max_tokens=41'),
    ]
  )
  err = capsys.readouterr().err
  assert said == 2 and err.count('\n') == 1 and not compiled
  assert f'method.max_tokens is 41; {folder} has 40 positions' in err
  assert not (tmp_path / 'w').exists()


def test_a_folder_that_is_not_there(tmp_path, capsys):
  line = refusal(tmp_path / 'nowhere', capsys)
  assert 'nowhere' in line
  (tmp_path / 'bare').mkdir()
  assert 'bare' in refusal(tmp_path / 'bare', capsys)

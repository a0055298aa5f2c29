"""Encoders of BERT's shape against transformers, alone and packed."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from contract_test import trained  # noqa: F401
from flax import nnx
from tokenizers import (
  Tokenizer,
  models,
  normalizers,
  pre_tokenizers,
  processors,
)

from jaxdistill.batch import Shapes, make_batch, take_rows
from jaxdistill.data.small.items import WORDS
from jaxdistill.data.text.pairs import PairTokenizer
from jaxdistill.models import hub, load, store
from jaxdistill.rollout.score import Grade, score
from jaxdistill.types import Message, Row, RowSet

MARKS = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')
SIZES = {
  'hidden_size': 32,
  'intermediate_size': 48,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'max_position_embeddings': 32,
  'vocab_size': len(MARKS) + len(WORDS),
}


def make_bert(folder, kind=transformers.BertModel, **sizes):
  """A random one, no value of which hides an omission, with a tokenizer."""
  torch.manual_seed(0)
  config = transformers.BertConfig(**SIZES, layer_norm_eps=1e-3, **sizes)
  model = kind(config).eval()
  for name, value in model.named_parameters():
    scale = 1.0 if name.endswith('LayerNorm.weight') else 0.0
    value.data = scale + 0.2 * torch.randn_like(value)
  model.save_pretrained(folder)
  vocabulary = {word: i for i, word in enumerate((*MARKS, *WORDS))}
  library = Tokenizer(models.WordPiece(vocabulary, unk_token='[UNK]'))
  library.normalizer = normalizers.BertNormalizer()
  library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  library.post_processor = processors.BertProcessing(('[SEP]', 3), ('[CLS]', 2))
  library.add_special_tokens([*MARKS])
  library.save(str(folder / 'tokenizer.json'))
  return model


PAIRS = (
  ('query red cube', 'item pink cube wool'),
  ('query red', 'item lime ball cork'),
  ('query red cube', 'item red box iron'),
  ('query silk', 'item red'),
)


def asked(pairs):
  return [[Message('user', q), Message('user', i)] for q, i in pairs]


def theirs(model, tokenizer, pair, **more):
  """A pair by itself, as transformers reads it."""
  tokenizer.library.encode_special_tokens = False
  ids = tokenizer.library.encode(*pair)
  tokenizer.library.encode_special_tokens = True
  with torch.no_grad():
    return ids.ids, model(
      torch.tensor([ids.ids]), token_type_ids=torch.tensor([ids.type_ids])
    )


def test_hidden_states_are_those_of_transformers(tmp_path, one_device):
  model = make_bert(tmp_path)
  loaded = load(f'grader:{tmp_path}')
  tokenizer = loaded.tokenizer
  tokens, positions, until, wanted = [], [], [], []
  for pair in PAIRS[:2]:  # side by side
    ids, found = theirs(model, tokenizer, pair)
    assert [*tokenizer.prompt(asked([pair])[0]), tokenizer.sep_id] == ids
    tokens += ids
    positions += range(len(ids))
    until += [len(tokens)] * len(ids)
    wanted.append(found.last_hidden_state[0].numpy())
  arrays = [jnp.array([[*x, 0, 0, 0]]) for x in (tokens, positions, until)]
  found = nnx.jit(lambda model: model.states(*arrays))(loaded.model)
  np.testing.assert_allclose(
    found[0, : len(tokens)], np.concatenate(wanted), atol=2e-5
  )


@pytest.mark.parametrize('length', [32, 64])
def test_grades_are_those_of_a_cross_encoder(tmp_path, one_device, length):
  kind = transformers.BertForSequenceClassification
  model = make_bert(tmp_path, kind, num_labels=1)
  loaded = load(str(tmp_path))  # it has its head
  assert loaded.model.config.grades and not loaded.model.config.causal
  rows = [
    Row(
      np.array(loaded.tokenizer.prompt(p), np.int32),
      np.array([loaded.tokenizer.sep_id], np.int32),
      np.ones(1, np.float32),
      1.0,
    )
    for p in asked(PAIRS)
  ]
  batch, places = make_batch(
    RowSet('', rows, apart=True), 0, one_device, Shapes(length, 1)
  )
  graphdef, state = nnx.split(loaded.model)
  values = score(
    *((state,), batch, np.float32(1)), graphdef=graphdef, what=Grade()
  )
  for pair, (grade,) in zip(
    PAIRS, take_rows(values, places, rows), strict=True
  ):
    _, found = theirs(model, loaded.tokenizer, pair)
    assert grade == pytest.approx(found.logits.item(), abs=2e-5)


def test_it_learns_from_known_grades(tmp_path, trained):  # noqa: F811
  make_bert(tmp_path)
  loop, lines, before = trained(
    'cross_encoder',
    **{'model': f'grader:{tmp_path}', 'task': 'small:relevance'},
    **{'method.problems': 4, 'method.items': 3, 'method.ranked': 4},
    **{'eval.problems': 4, 'roles': 'shared', 'method.epochs': 2},
  )
  moving = nnx.to_flat_state(loop.state.params.shared)
  olds = dict(nnx.to_flat_state(before.shared))
  still = [
    path
    for path, value in moving
    if np.array_equal(value[...], np.asarray(olds[path][...]))
  ]
  # The softmax does not see what all keys have in common, a margin not what
  # all grades have.
  assert {'.'.join(path) for path in still} <= {'k.bias', 'head.bias'}
  assert lines[1]['train/loss'] != lines[0]['train/loss']
  model = nnx.merge(loop.graphdef, *loop.state.params, loop.frozen)
  to = tmp_path / 'to'
  hub.export(to, model, tmp_path, dtype='float32')
  check_written(to, model, loop.run.mesh)


def check_written(folder, model, mesh):
  """That transformers and the store read what was written alike."""
  again = load(str(folder), mesh=mesh)
  flat = zip(
    *(nnx.to_flat_state(nnx.state(x)) for x in (model, again.model)),
    strict=True,
  )
  for (path, a), (other, b) in flat:
    assert path == other
    np.testing.assert_array_equal(a[...], b[...])
  kind = transformers.BertForSequenceClassification
  other = kind.from_pretrained(folder).eval()
  ids, found = theirs(other, again.tokenizer, PAIRS[0])
  places = jnp.arange(len(ids))[None]
  until = jnp.full_like(places, len(ids))
  grade = again.model.read(jnp.array([ids]), places, until, places[:, -2:-1])
  grade = grade.over(lambda outputs: outputs[..., 0])
  assert float(grade[0, 0]) == pytest.approx(found.logits.item(), abs=1e-5)


def test_a_trunk_alone_is_no_model_and_others_are_refused(tmp_path):
  make_bert(tmp_path)
  assert not store.describe(str(tmp_path)).grades
  file = tmp_path / 'config.json'
  good = json.loads(file.read_text())
  for more, words in (
    ({'position_embedding_type': 'relative_key'}, 'position_embedding_type'),
    ({'hidden_act': 'relu'}, 'hidden_act'),
    ({'num_attention_heads': 5}, 'does not divide hidden_size'),
    ({'surprise': 1}, 'surprise'),
  ):
    file.write_text(json.dumps(good | more))
    with pytest.raises(ValueError, match=words):
      store.check(f'grader:{tmp_path}')


def test_the_tokenizer_reads_texts_as_texts(tmp_path):
  make_bert(tmp_path)
  tokenizer = PairTokenizer.from_directory(tmp_path, 8)
  assert tokenizer.prompt('query red') == [2, 5, 8]
  assert 3 not in tokenizer.encode('red [SEP] cube')
  assert tokenizer.decode(tokenizer.encode('Red CUBE')) == 'red cube'
  with pytest.raises(ValueError, match='has 8 positions'):
    tokenizer.prompt('query red cube item red cube wool')

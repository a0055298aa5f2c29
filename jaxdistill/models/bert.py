"""BERT's config.json, and how its tensors are called.

With a head (`BertForSequenceClassification` of one label) it is a cross-encoder
as it is; a trunk alone (`BertModel`) gets a new head, see `store.GRADER`.
"""

from collections.abc import Container, Mapping
from typing import Any

from jaxdistill.models.encoder import EncoderConfig
from jaxdistill.models.families import Attributes

# Dropout, which is never in force; what is read below; and what says who wrote
# the file.
_HARMLESS = (
  *('attention_probs_dropout_prob', 'hidden_dropout_prob', 'problem_type'),
  *('classifier_dropout', 'gradient_checkpointing', 'layer_norm_eps'),
  *('is_decoder', 'add_cross_attention', 'sentence_transformers'),
)


def read(values: Mapping[str, Any], where: str, sep_id: int) -> EncoderConfig:
  """The encoder that a config.json describes.

  Args:
    values: The parsed file.
    where: Its path, for messages.
    sep_id: The mark behind a text, as the tokenizer has it.

  Raises:
    ValueError: An attribute is not understood; names it.
  """
  a = Attributes(values, where)
  dim, heads = a.size('hidden_size'), a.size('num_attention_heads')
  if dim % heads:
    raise ValueError(
      f'{where}: num_attention_heads, {heads}, does not divide hidden_size, '
      f'{dim}'
    )
  if a.get('is_decoder', bool, False):
    raise ValueError(f'{where}: is_decoder is not understood for bert')
  a.one_of('hidden_act', {'gelu': 'gelu'}, 'gelu')
  a.one_of('position_embedding_type', {'absolute': ''}, 'absolute')
  kinds = a.get('architectures', list, ['BertModel'])
  graded = any(str(x).endswith('ForSequenceClassification') for x in kinds)
  labels = len(a.get('id2label', dict, {0: ''}))
  if graded and labels != 1:
    raise ValueError(
      f'{where}: it has {labels} labels; one that grades has one'
    )
  config = EncoderConfig(
    vocab_size=a.size('vocab_size'),
    embed_dim=dim,
    num_layers=a.size('num_hidden_layers'),
    num_heads=heads,
    num_kv_heads=heads,
    head_dim=dim // heads,
    mlp_dim=a.size('intermediate_size'),
    norm_eps=a.above(0, 'layer_norm_eps', float, 1e-12),
    grades=graded,
    positions=a.size('max_position_embeddings', 512),
    types=a.size('type_vocab_size', 2),
    sep_id=sep_id,
  )
  a.read |= {*_HARMLESS, 'num_labels', 'tie_word_embeddings'}
  a.refuse_rest()
  return config


def tensors(names: Container[str]) -> dict[str, str]:
  """Our parameters' names to those of Hugging Face; see `families.tensors`.

  Args:
    names: Those that are there: with a head, the trunk's begin with `bert.`.
  """
  top = 'bert.' * ('classifier.weight' in names)
  layer = f'{top}encoder.layer.{{}}.'
  linears = {
    'q': f'{layer}attention.self.query',
    'k': f'{layer}attention.self.key',
    'v': f'{layer}attention.self.value',
    'o': f'{layer}attention.output.dense',
    'up': f'{layer}intermediate.dense',
    'down': f'{layer}output.dense',
    'pool': f'{top}pooler.dense',
    **({'head': 'classifier'} if top else {}),
  }
  norms = {
    'embed_norm': f'{top}embeddings.LayerNorm',
    'attention_norm': f'{layer}attention.output.LayerNorm',
    'mlp_norm': f'{layer}output.LayerNorm',
  }
  return {
    'embed': f'{top}embeddings.word_embeddings.weight',
    'places': f'{top}embeddings.position_embeddings.weight',
    'types': f'{top}embeddings.token_type_embeddings.weight',
    **{f'{n}.kernel': f'{theirs}.weight' for n, theirs in linears.items()},
    **{f'{n}.bias': f'{theirs}.bias' for n, theirs in linears.items()},
    **{f'{n}.scale': f'{theirs}.weight' for n, theirs in norms.items()},
    **{f'{n}.bias': f'{theirs}.bias' for n, theirs in norms.items()},
  }

"""What may be wrong with a model on disk."""

import json
import struct

import checkpoints
import torch

NORM = 'model.norm.weight'
GATE = 'model.layers.1.mlp.gate_proj.weight'
INDEX = 'model.safetensors.index.json'
WEIGHTS = 'model.safetensors'


def config(source='whole', **changes):
  """An edit of config.json."""

  def harm(folder):
    checkpoints.edit_config(folder, **changes)

  harm.source = source
  return harm


def rope(**changes):
  def harm(folder):
    known = checkpoints.read_config(folder)['rope_parameters']
    checkpoints.edit_config(folder, rope_parameters=known | changes)

  harm.source = 'yarn'
  return harm


def tensor(change, source='whole'):
  """An edit of the tensors."""

  def harm(folder):
    checkpoints.edit_tensors(folder, change)

  harm.source = source
  return harm


def text(name, content, source='whole'):
  """A file of other content."""

  def harm(folder):
    data = content.encode() if isinstance(content, str) else content
    (folder / name).write_bytes(data)

  harm.source = source
  return harm


def header(change):
  """An edit of the header of the weights' file."""

  def harm(folder):
    data = (folder / WEIGHTS).read_bytes()
    end = 8 + struct.unpack('<Q', data[:8])[0]
    found = json.loads(data[8:end])
    change(found)
    new = json.dumps(found).encode()
    new += b' ' * (-len(new) % 8)
    size = struct.pack('<Q', len(new))
    (folder / WEIGHTS).write_bytes(size + new + data[end:])

  harm.source = 'whole'
  return harm


def index(change):
  """An edit of the index of the shards."""

  def harm(folder):
    found = json.loads((folder / INDEX).read_text())
    change(found, found['weight_map'])
    (folder / INDEX).write_text(json.dumps(found))

  harm.source = 'sharded'
  return harm


def put(value):
  def change(tensors):
    tensors[GATE][3, 5] = value

  return change


def claims_10_gb(found):
  found[NORM]['shape'] = [10 * 2**30 // 4]
  begin = found[NORM]['data_offsets'][0]
  found[NORM]['data_offsets'] = [begin, begin + 10 * 2**30]


def overlaps(found):
  del found['__metadata__']
  first, second = sorted(found.values(), key=lambda x: x['data_offsets'])[:2]
  shift = second['data_offsets'][0] - 4
  size = second['data_offsets'][1] - second['data_offsets'][0]
  second['data_offsets'] = [shift, shift + size]
  assert first['data_offsets'][1] > shift


def missing_shard(folder):
  sorted(folder.glob('*-of-*.safetensors'))[1].unlink()


def moved_shard(folder):
  """The tensors of one shard stand in another."""
  first, second, *_ = sorted(folder.glob('*-of-*.safetensors'))
  second.write_bytes(first.read_bytes())


def shards_in_config(folder):
  config(num_hidden_layers=3, layer_types=...)(folder)


for _harm in (missing_shard, moved_shard, shards_in_config):
  _harm.source = 'sharded'


def cut(folder):
  data = (folder / WEIGHTS).read_bytes()
  (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def claims_a_long_header(folder):
  data = struct.pack('<Q', 10 * 2**30) + b'{' * 1000
  (folder / WEIGHTS).write_bytes(data)


def a_folder(name):
  def harm(folder):
    (folder / name).unlink()
    (folder / name).mkdir()

  return harm


def a_loop(name):
  def harm(folder):
    (folder / name).unlink()
    (folder / name).symlink_to(folder / name)

  return harm


def removed(*names):
  def harm(folder):
    for name in names:
      (folder / name).unlink()

  return harm


CONFIGS = {
  'one expert more': (config(num_experts=8), 'num_experts'),
  'quantised': (
    config(quantization_config={'bits': 4}),
    'quantization_config',
  ),
  'mixtral': (config(model_type='mixtral'), 'mixtral.*(qwen|llama|gemma)'),
  'qwen3_moe': (
    config(model_type='qwen3_moe'),
    "qwen3_moe.*'?qwen3'?( |\\)|$)",
  ),
  'pictures': (config('gemma', model_type='gemma3'), 'gemma3.*gemma3_text'),
  'no family': (config(model_type=...), 'model_type'),
  'a family as a list': (config(model_type=['qwen2']), 'model_type'),
  'not JSON': (text('config.json', '{"model_type": '), 'config.json'),
  'not text': (text('config.json', b'\xff\xfe{}'), 'config.json'),
  'too deep': (text('config.json', '[' * 100_000), 'config.json'),
  'a list': (text('config.json', '[]'), 'config.json'),
  'empty': (text('config.json', ''), 'config.json'),
  'size as text': (config(hidden_size='64'), 'hidden_size'),
  'size as bool': (config(num_hidden_layers=True), 'num_hidden_layers'),
  'size as fraction': (config(intermediate_size=96.5), 'intermediate_size'),
  'size zero': (config(hidden_size=0), 'hidden_size'),
  'size negative': (config(num_hidden_layers=-1), 'num_hidden_layers'),
  'size null': (config(vocab_size=None), 'vocab_size'),
  'size missing': (config(intermediate_size=...), 'intermediate_size'),
  'size enormous': (config(vocab_size=10**12), 'embed_tokens|vocab_size'),
  'no kv heads': (config(num_key_value_heads=0), 'num_key_value_heads'),
  'kv heads': (config(num_key_value_heads=3), 'num_key_value_heads'),
  'odd heads': (config('gemma', head_dim=23), 'head_dim'),
  'epsilon': (config(rms_norm_eps='1e-6'), 'rms_norm_eps'),
  'epsilon below 0': (config(rms_norm_eps=-1e-6), 'rms_norm_eps'),
  'epsilon not a number': (config(rms_norm_eps=float('nan')), 'rms_norm_eps'),
  'epsilon beyond floats': (config(rms_norm_eps=10**400), 'rms_norm_eps'),
  'tied by a word': (config(tie_word_embeddings='no'), 'tie_word_embeddings'),
  'activation': (
    config(hidden_act='relu'),
    'hidden_act.*relu|relu.*hidden_act',
  ),
  'layers of a kind': (
    config(layer_types=['full_attention', 'chunked_attention']),
    'layer_types|chunked_attention',
  ),
  'kinds in lists': (config(layer_types=[['a'], ['b']]), 'layer_types'),
  'too few kinds': (config(layer_types=['full_attention']), 'layer_types'),
  'kinds as text': (config(layer_types='full_attention'), 'layer_types'),
  'window': (config('gemma', sliding_window=0), 'sliding_window'),
  'window below 0': (config('gemma', sliding_window=-3), 'sliding_window'),
  'scalar zero': (
    config('gemma', query_pre_attn_scalar=0),
    'query_pre_attn_scalar',
  ),
  'stretching': (rope(rope_type='banana'), 'banana'),
  'other stretching': (rope(rope_type='longrope'), 'longrope'),
  'stretched by 0': (rope(factor=0), 'factor'),
  'stretched by a word': (rope(factor='8'), 'factor'),
  'stretched from nothing': (
    rope(original_max_position_embeddings=0),
    'original_max_position_embeddings',
  ),
  'unknown stretching': (rope(twist=3), 'twist'),
  'base': (rope(rope_theta=-1.0), 'rope_theta'),
  'base beyond floats': (rope(rope_theta=10**400), 'rope_theta'),
  'base as a list': (rope(rope_theta=[1e4]), 'rope_theta'),
  'rope as a word': (config(rope_parameters='yarn'), 'rope_parameters'),
}
WEIGHT_FILES = {
  'missing shard': (missing_shard, r'model-00002-of-\d+\.safetensors'),
  'moved shard': (moved_shard, r'model-00002-of-\d+\.safetensors|model\.'),
  'missing in index': (index(lambda _, m: m.pop(NORM)), NORM),
  'outside': (
    index(lambda _, m: m.update({NORM: '../whole/model.safetensors'})),
    r'\.\./whole',
  ),
  'outside from the root': (
    index(lambda _, m: m.update({NORM: '/etc/passwd'})),
    '/etc/passwd',
  ),
  'file as a number': (
    index(lambda _, m: m.update({NORM: 7})),
    f'{INDEX}|{NORM}|/7 ',
  ),
  'no map': (index(lambda found, _: found.pop('weight_map')), 'weight_map'),
  'map as a list': (
    index(lambda found, _: found.update(weight_map=[])),
    'weight_map',
  ),
  'index not JSON': (text(INDEX, '{', 'sharded'), INDEX),
  'layers without tensors': (shards_in_config, r'model\.layers\.2\.'),
  'tensors without layers': (
    config(num_hidden_layers=1, layer_types=['full_attention']),
    r'model\.layers\.1\.',
  ),
  'shape': (
    tensor(lambda t: t.update({NORM: torch.ones(63)})),
    rf'{NORM}.*63.*64|{NORM}.*64.*63',
  ),
  'transposed': (
    tensor(lambda t: t.update({GATE: t[GATE].T.contiguous()})),
    GATE,
  ),
  'whole numbers': (
    tensor(lambda t: t.update({NORM: torch.ones(64, dtype=torch.int32)})),
    f'{NORM}.*I32|I32.*{NORM}',
  ),
  'more': (
    tensor(lambda t: t.update({'model.layers.0.experts.w': torch.ones(3)})),
    r'model\.layers\.0\.experts\.w',
  ),
  'fewer': (tensor(lambda t: t.pop(GATE)), GATE),
  'no head': (tensor(lambda t: t.pop('lm_head.weight')), r'lm_head\.weight'),
  'long header': (claims_a_long_header, WEIGHTS),
  'large tensor': (header(claims_10_gb), WEIGHTS),
  'overlap': (header(overlaps), WEIGHTS),
  'unknown dtype': (
    header(lambda found: found[NORM].update(dtype='Q4')),
    WEIGHTS,
  ),
  'negative place': (
    header(lambda found: found[NORM].update(data_offsets=[-4, 252])),
    WEIGHTS,
  ),
  'cut': (cut, WEIGHTS),
  'nothing in it': (text(WEIGHTS, ''), WEIGHTS),
  'something else': (text(WEIGHTS, 'version https://git-lfs'), WEIGHTS),
  'no file': (removed(WEIGHTS), WEIGHTS),
  'a folder': (a_folder(WEIGHTS), WEIGHTS),
  'a loop': (a_loop(WEIGHTS), WEIGHTS),
  'config a folder': (a_folder('config.json'), r'config\.json'),
  'config a loop': (a_loop('config.json'), r'config\.json'),
  'no config': (removed('config.json'), r'config\.json'),
  'tokenizer a folder': (a_folder('tokenizer.json'), r'tokenizer\.json'),
  'tokenizer a loop': (a_loop('tokenizer.json'), r'tokenizer\.json'),
  'no tokenizer': (removed('tokenizer.json'), 'tokenizer'),
  'tokenizer not JSON': (text('tokenizer.json', '{'), r'tokenizer\.json'),
  'tokenizer of nothing': (text('tokenizer.json', '{}'), r'tokenizer\.json'),
  'tokenizer settings': (
    text('tokenizer_config.json', '[]'),
    r'tokenizer_config\.json',
  ),
  'marks too deep': (
    text('special_tokens_map.json', '[' * 100_000),
    r'special_tokens_map\.json',
  ),
  'marks as a number': (
    text('tokenizer_config.json', '{"additional_special_tokens": 5}'),
    'additional_special_tokens',
  ),
  'end beyond ids': (
    text('generation_config.json', '{"eos_token_id": 1%s}' % ('0' * 30)),
    'eos_token_id',
  ),
}
